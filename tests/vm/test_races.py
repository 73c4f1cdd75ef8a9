# SPDX-License-Identifier: Apache-2.0
"""No container's first instruction escapes its policy, by whichever door the agent hears of it: bench.race, short."""

from __future__ import annotations

import pytest

from bench._common import say_nothing
from bench.parts.figures import find_faults
from bench.parts.sites import Door, open_site
from bench.race import Options, Stage
from tests.support.node import Runtime

pytestmark = [pytest.mark.guest, pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

COUNT = 12  # half of them are selected
PARALLEL = 4


@pytest.mark.parametrize("door", [Door.NRI, Door.OCI, Door.HOLD], ids=lambda door: door.value)
def test_no_container_escapes_its_policy(door: Door) -> None:
    options = Options(COUNT, PARALLEL, door, False, Runtime.CONTAINERD_2, 1, say_nothing)
    with open_site(door, options.runtime) as site:
        (phase,) = Stage(site, options).run_phases()
    assert find_faults(phase) == []
    assert (phase.count("selected"), len(phase.ended)) == (COUNT // 2, COUNT)
