# SPDX-License-Identifier: Apache-2.0
"""Containers on a machine with cgroup version 2 alone, by the OCI runtimes themselves: each policy is in force before
the first instruction, announced by our hook at its two stages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.container.doors import oci_hook, start_agent
from tests.support.agent import AgentProcess, EventReader
from tests.support.names import cache_dir, unique_name
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME, POSTSTOP, add_hooks
from tests.support.patience import PATIENCE
from tests.support.wait import wait_until
from tests.support.workload import build_calls, lseek_policy, step

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

NAMESPACE = "guarded"
RUNTIMES = {"runc": Path("/usr/sbin/runc"), "crun": cache_dir() / "vm/crun/usr/bin/crun"}
KILLED = 137  # 128 + SIGKILL
RUN_S = 20.0 * PATIENCE
HOOK_MS = round(2000 * PATIENCE)
CONTROLLERS = {"cpu", "memory", "pids"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A container that has ended."""

    id: str
    status: int
    out: str
    errors: str


@dataclass(frozen=True, slots=True)
class Bundles:
    """Containers of a program that makes system calls, of an agent's node."""

    agent: AgentProcess
    program: Path
    folder: Path

    def run(self, runtime: str, stage: str, namespace: str, *words: str) -> Outcome:
        """Of a pod in that namespace."""
        name = unique_name("container")
        bundle = self.folder / name
        for place in ("dev", "proc"):
            (bundle / "rootfs" / place).mkdir(parents=True)
        shutil.copy(self.program, bundle / "rootfs/calls")
        hooks = [oci_hook(self.agent, each, "--runtime=podman", deadline_ms=HOOK_MS) for each in (stage, POSTSTOP)]
        (bundle / "config.json").write_text(json.dumps(add_hooks(spec(name, namespace, *words), hooks)))
        command = [str(RUNTIMES[runtime]), "--root", str(self.folder / runtime), "run", "--bundle", str(bundle), name]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S, check=False
        )
        return Outcome(name, done.returncode, done.stdout, done.stderr)


def spec(name: str, namespace: str, *words: str) -> dict[str, Any]:
    """config.json of a container with namespaces of its own and limits, in a pod as podman annotates it."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/calls", "-", *words], "cwd": "/", "env": ["A=b"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
            "resources": {"pids": {"limit": 20}, "memory": {"limit": 64 << 20}},
        },
        "annotations": {
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.name": "pod",
            "io.kubernetes.pod.uid": "uid",
            "io.kubernetes.cri-o.Labels": "{}",
        },
    }


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    program = build_calls(tmp_path_factory.mktemp("programs"))
    with (
        TemporaryDirectory(prefix=unique_name("bundles") + "-") as folder,
        start_agent("/nowhere/cri.sock") as agent,
    ):
        agent.add(json.dumps(lseek_policy("lseek", namespace=NAMESPACE)))
        yield Bundles(agent, program, Path(folder))


@pytest.fixture(scope="module")
def events(bundles: Bundles) -> Iterator[EventReader]:
    with EventReader(bundles.agent.run_dir) as reader:
        yield reader


def test_cgroups_are_those_of_version_2_alone() -> None:
    assert set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()) >= CONTROLLERS
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup"]


@pytest.mark.parametrize("stage", [CREATE_CONTAINER, CREATE_RUNTIME])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_first_call_of_a_container_is_killed_where_a_policy_selects(
    bundles: Bundles, events: EventReader, runtime: str, stage: str
) -> None:
    killed = bundles.run(runtime, stage, NAMESPACE, *step("lseek", -1, 0, 0))
    assert (killed.status, killed.out) == (KILLED, ""), killed
    spared = bundles.run(runtime, stage, "other", *step("lseek", -1, 0, 0))
    assert (spared.status, spared.out.split()) == (0, ["-9"]), spared
    event = events.find(lambda event: (event.get("container") or {}).get("id") == killed.id)
    assert (event["policy"]["name"], event["pod"]["namespace"], event["enforced"]) == ("lseek", NAMESPACE, True)
    wait_until(lambda: bundles.agent.control.status().containers == 0, 10.0, "the containers to be forgotten")
    assert not os.path.exists(f"/sys/fs/cgroup/{killed.id}")
