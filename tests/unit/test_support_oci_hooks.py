# SPDX-License-Identifier: Apache-2.0
"""Hooks in the runtimes' own forms, and the program that writes down where it runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.oci_hooks import (
    CREATE_CONTAINER,
    CREATE_RUNTIME,
    POSTSTOP,
    Hook,
    Recorder,
    add_hooks,
    parse_record,
    render_hooksd,
)

HOOK = Hook(CREATE_CONTAINER, Path("/opt/hook"), ("a", "b"), {"NAME": "value"}, 2)
ENTRY = {"path": "/opt/hook", "args": ["hook", "a", "b"], "env": ["NAME=value"], "timeout": 2}


def test_hooks_d_file_runs_the_hook_always() -> None:
    assert json.loads(render_hooksd(HOOK)) == {
        "version": "1.0.0",
        "hook": ENTRY,
        "when": {"always": True},
        "stages": ["createContainer"],
    }


def test_hook_without_environment_and_timeout_names_neither() -> None:
    assert Hook(POSTSTOP, Path("/opt/hook")).entry() == {"path": "/opt/hook", "args": ["hook"]}


def test_spec_gets_the_hooks_behind_its_own_and_is_not_changed() -> None:
    spec = {"hooks": {"createContainer": [{"path": "/first"}]}, "root": {"path": "rootfs"}}
    added = add_hooks(spec, [HOOK, Hook(CREATE_RUNTIME, Path("/third"))])
    assert added["hooks"] == {
        "createContainer": [{"path": "/first"}, ENTRY],
        "createRuntime": [{"path": "/third", "args": ["third"]}],
    }
    assert added["root"] == {"path": "rootfs"}
    assert spec["hooks"] == {"createContainer": [{"path": "/first"}]}


def run_hook(hook: Hook, state: str) -> int:
    """As a runtime runs it: its own environment alone, the state on standard input."""
    command = (str(hook.program), *hook.args)
    return subprocess.run(command, input=state, text=True, env={}, cwd="/", check=False).returncode


def test_recorder_writes_down_who_it_is_and_ends_as_it_is_told(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "hook")
    assert recorder.records() == []
    assert run_hook(recorder.hook(CREATE_RUNTIME), '{"id": "c1", "pid": 7}') == 0
    assert run_hook(recorder.hook(POSTSTOP, status=3), '{"id": "c2",\n "status": "stopped"}') == 3
    (record,) = recorder.records("c1")
    assert (record.stage, record.cwd, record.ppid) == (CREATE_RUNTIME, "/", os.getpid())
    assert record.state == {"id": "c1", "pid": 7}
    assert record.cgroup == own_cgroup()
    assert record.parent == Path("/proc/self/comm").read_text().strip()
    assert sorted(each.container for each in recorder.records()) == ["c1", "c2"]


def own_cgroup() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_text_that_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="not a record of a hook"):
        parse_record("createRuntime\n1\n")
