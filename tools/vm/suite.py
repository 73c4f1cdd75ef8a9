# SPDX-License-Identifier: Apache-2.0
"""The tests that run under every kernel: tests/vm/suite.txt, and how pytest is started there.

The suite has lanes: they run side by side, each in a pytest of its own: one alone keeps one processor busy.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.vm.errors import VmError

PROJECT = Path(__file__).resolve().parents[2]
LIST = PROJECT / "tests/vm/suite.txt"
# A processor that is emulated is 12 to 20 times slower, and the limits of tests are not tight.
PATIENCE = 8
# The lane of tests that are named on the command line.
NAMED = "tests"
# What that test loads is compiled here, before the guest boots: there it takes six minutes, here a quarter of one
# (tests/support/golden_code.py).
GOLDEN_TEST = "tests/vm/test_golden.py"
GOLDEN = "golden.json"
# Before the guest is ended: pytest has a minute to say what it has.
_LAST_S = 60.0

Lanes = Mapping[str, Sequence[str]]


def parse_list(text: str) -> dict[str, list[str]]:
    """pytest's node ids, one a line, below their lane in brackets; what follows a # is left out. Raises VmError."""
    lanes: dict[str, list[str]] = {}
    found: list[str] | None = None
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        if line.startswith("[") and line.endswith("]"):
            found = lanes.setdefault(line[1:-1], [])
        elif found is None:
            raise VmError(f"{LIST}: {line} is in no lane")
        else:
            found.append(line)
    return lanes


def junit_of(lane: str) -> str:
    """The name of a lane's results."""
    return f"junit-{lane}.xml"


def golden_command(image: Path, release: str, out: Path) -> list[str]:
    """What compiles for a kernel."""
    python = str(PROJECT / ".venv/bin/python")
    return [python, "-m", "tests.support.golden_code", str(out / GOLDEN), str(image), release]


def wants_golden(lanes: Lanes) -> bool:
    """Whether any lane has the test that loads it."""
    return any(test.partition("::")[0] == GOLDEN_TEST for tests in lanes.values() for test in tests)


def _pytest(lane: str, tests: Sequence[str], deadline_s: float, require: Sequence[str]) -> list[str]:
    golden = f"PODGATE_GOLDEN=/out/{GOLDEN}" if wants_golden({lane: tests}) else ""
    return [
        *filter(None, ("env", f"REQUIRE={','.join(require)}", f"PODGATE_PATIENCE={PATIENCE}", golden)),
        *("timeout", "--signal=INT", f"{max(deadline_s - _LAST_S, 1.0):.0f}"),
        *(str(PROJECT / ".venv/bin/python"), "-m", "pytest", "-v", "-p", "tests.vm.guest", "-p", "no:cacheprovider"),
        *(f"--junit-xml=/out/{junit_of(lane)}", *tests),
    ]


def guest_command(lanes: Lanes, deadline_s: float, require: Sequence[str]) -> list[str]:
    """What runs in the guest, in PROJECT; its status is the highest of all lanes, its lines begin with their lane."""
    lines = ["status=0"]
    for lane, tests in lanes.items():
        command = shlex.join(_pytest(lane, tests, deadline_s, require))
        # One process: of a pipeline that has ended bash remembers the status of its last command alone.
        lines.append(f"({command} 2>&1 | sed -u 's/^/{lane}: /'; exit $PIPESTATUS) & lanes+=($!)")
    lines.append('for lane in "${lanes[@]}"; do wait "$lane" || { s=$?; ((s > status)) && status=$s; }; done')
    return ["bash", "-c", "\n".join([*lines, "exit $status"])]
