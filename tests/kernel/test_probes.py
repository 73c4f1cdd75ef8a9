# SPDX-License-Identifier: Apache-2.0
"""What `podgate doctor` says of this node, and that it is what was tried."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.kernel import abilities, probes
from agent.kernel.errors import KernelError
from agent.kernel.mounts import read_mounts
from agent.kernel.special_files import read_special
from tests.support.agent import command, run_cli

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

NEEDED = ["bpf", "btf", "bpffs", "cgroup2", "ring_buffer", "raw_tracepoint", "tracepoint", "send_signal"]
OPTIONAL = ["kprobe", "fentry", "fmod_ret", "lsm", "override_return", "no_preemption"]


def mounts_and_pins() -> tuple[list[str], list[str]]:
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if "podgate-probe" in line]
    return mounts, sorted(name for name in os.listdir("/sys/fs/bpf") if name.startswith("podgate-probe"))


def test_a_node_that_runs_the_agent_has_all_that_is_needed() -> None:
    before = mounts_and_pins()
    results = probes.probe_all()
    assert [result.name for result in results] == NEEDED + OPTIONAL
    assert [result.name for result in results if result.needed] == NEEDED
    assert [result.detail for result in results if result.needed and not result.ok] == []
    assert mounts_and_pins() == before


def test_kprobes_are_there_exactly_where_the_kernel_has_their_events() -> None:
    (kprobe,) = [result for result in probes.probe_all() if result.name == "kprobe"]
    assert kprobe.ok == abilities.KPROBE_TYPE.exists()
    assert kprobe.ok or "CONFIG_KPROBE_EVENTS" in kprobe.detail


def test_files_of_other_file_systems_are_read_without_a_mount_that_stays() -> None:
    before = read_mounts()
    assert "capability" in read_special("securityfs", "lsm").decode().split(",")
    with pytest.raises(KernelError, match="no such file"):
        read_special("securityfs", "nosuch")
    with pytest.raises(KernelError, match="does not have this file system"):
        read_special("nosuchfs", "lsm")
    assert read_mounts() == before


def test_doctor_tells_all_as_json(tmp_path: Path) -> None:
    done = run_cli(tmp_path, "doctor", "-o", "json")
    assert done.returncode == 0
    assert [row["name"] for row in json.loads(done.stdout)] == NEEDED + OPTIONAL


def test_doctor_without_rights_says_what_is_refused() -> None:
    done = subprocess.run(
        [command("podgate"), "doctor"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        preexec_fn=lambda: os.setuid(65534),
    )
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert done.returncode == 1
    assert "NO" in rows["bpf"].split()
    assert "EPERM" in rows["bpf"]


def test_what_is_refused_is_no_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal of the kernel, and a file that is not there: neither ends the other probes."""

    def refuse(*_: object) -> None:
        raise KernelError("bpf(PROG_LOAD)", 1, "lift lockdown")

    def absent(*_: object) -> None:
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(probes, "_try_raw_tracepoint", refuse)
    monkeypatch.setattr(probes, "_try_tracepoint", absent)
    results = {result.name: result for result in probes.probe_all()}
    assert not results["raw_tracepoint"].ok
    assert "lift lockdown" in results["raw_tracepoint"].detail
    assert not results["tracepoint"].ok
    assert results["send_signal"].ok
