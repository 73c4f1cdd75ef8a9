# SPDX-License-Identifier: Apache-2.0
"""The demo, as `make demo` runs it: every outcome is checked by itself, and its last line is the verdict."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.names import project_dir

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(180)]


def test_demo_goes_as_it_promises() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=project_dir(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "demo: ok"
    assert "WRONG" not in done.stdout
