# SPDX-License-Identifier: Apache-2.0
"""Each of Python's targets for a second of CPU time: a parser that breaks easily is found by every run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import Options, run_target
from tests.fuzz.targets import find_targets

SECONDS = 1.0

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("target", find_targets())
def test_target_holds_for_a_second(target: str, tmp_path: Path) -> None:
    result = run_target(target, Options(SECONDS, 0, 1, tmp_path))
    assert not result.failed, result.text
