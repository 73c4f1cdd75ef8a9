# SPDX-License-Identifier: Apache-2.0
"""podgate-hook under a container's limits, which it runs under at createContainer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hook import HookSetup, build_program, make_state
from tests.support.names import unique_name
from tests.support.wait import wait_until

pytestmark = pytest.mark.kernel

LIMIT = 4 << 20
# Enters the cgroup, and is the program from then on.
ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


def _memory_root() -> Path:
    """Where memory can be limited: version 1's hierarchy, or version 2's with the controller."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(point)
        if kind == "cgroup2" and "memory" in (Path(point) / "cgroup.subtree_control").read_text().split():
            return Path(point)
    pytest.skip("no cgroup hierarchy of this machine limits memory")


def _remove(path: Path) -> bool:
    """False while the kernel still counts a process that has just died."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def small() -> Iterator[Path]:
    """A cgroup with 4 MiB of memory."""
    path = _memory_root() / unique_name("small")
    path.mkdir()
    try:
        version1 = path / "memory.limit_in_bytes"
        (version1 if version1.exists() else path / "memory.max").write_text(str(LIMIT))
        swap = path / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        yield path
    finally:
        wait_until(lambda: _remove(path), 10.0, f"{path} to be empty")


@pytest.fixture
def hook(tmp_path: Path) -> HookSetup:
    return HookSetup(build_program(sanitize=False), tmp_path)


def run_in(group: Path, command: list[str], stdin: bytes = b"") -> int:
    whole = ["/bin/sh", "-c", ENTER, str(group), *command]
    return subprocess.run(whole, input=stdin, capture_output=True, env={}, timeout=20, check=False).returncode


def test_the_limit_holds(small: Path) -> None:
    assert run_in(small, [sys.executable, "-c", "x = bytes(1 << 24)"]) == -9, "killed by the kernel"


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_four_mebibytes_are_enough(hook: HookSetup, small: Path, size: int) -> None:
    """A start that is refused has taken every way: the agent, the state, the rule, the quarantine, the spool."""
    hook.write_rule("default open", "pattern shop quarantine", *(f"namespace n{i} open" for i in range(1000)))
    annotations = {"io.kubernetes.pod.namespace": "shop", "big": "x" * size}
    assert run_in(small, hook.command("createContainer"), make_state(annotations=annotations)) == 1
    (decision,) = hook.decisions()
    assert (decision["namespace"], decision["treatment"], decision["outcome"]) == ("shop", "quarantine", "closed")
