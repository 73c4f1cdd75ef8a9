# SPDX-License-Identifier: Apache-2.0
"""Who may call the agent, with a /proc made of files; and who the kernel says it is."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.hooks.errors import HookError, Reason
from agent.hooks.peer import HOOK_SERVICE, QUIET_S, Caller, Callers, Peer, find_host_root, read_peer
from agent.kernel.errors import CgroupError
from tests.support.procfs import FakeNode

_CONTROL = "podgate.control.v1.Control"
_PID = 7


class _Stage:
    """A process _PID of root in the host, in no container."""

    def __init__(self, folder: Path) -> None:
        self.node = FakeNode(folder)
        self.node.process(_PID, "/system.slice/podgate-nri.service")
        self.folder = folder
        self.inside: str | None = None
        self.running: str | None = None
        self.outcomes: Counter[str] = Counter()
        self.asked: list[int] = []

    def _container_of(self, pid: int) -> str | None:
        self.asked.append(pid)
        if self.inside == "unknown":
            raise CgroupError(f"process {pid} is gone")
        return self.inside

    def caller(self, own_namespace: str | None = None, peer: Peer | None = None) -> Caller:
        callers = Callers(
            self._container_of, self.outcomes, own_namespace, self.node.procfs, running_in=lambda _: self.running
        )
        return Caller(callers, peer or Peer(_PID, 0, 0))

    def enter_container(self) -> None:
        """As after pivot_root."""
        other = self.folder / "rootfs"
        other.mkdir()
        self.node.process(_PID, "/pods/c1", root=other)


@pytest.fixture
def stage(tmp_path: Path) -> _Stage:
    return _Stage(tmp_path)


def _denied(caller: Caller, service: str = HOOK_SERVICE, method: str = "Bind") -> str:
    with pytest.raises(HookError) as caught:
        caller.check(service, method)
    assert caught.value.reason is Reason.DENIED
    return caught.value.detail


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_peer(ours) == Peer(os.getpid(), os.getuid(), os.getgid())


def test_root_of_the_host_may_call_everything(stage: _Stage) -> None:
    caller = stage.caller()
    for method in ("Bind", "Unbind", "Synchronize", "Hook", "Announce", "Report"):
        caller.check(HOOK_SERVICE, method)
    caller.check(_CONTROL, "AddPolicies")
    assert stage.outcomes == {}


@pytest.mark.parametrize(
    ("service", "method"), [(HOOK_SERVICE, "Hook"), (HOOK_SERVICE, "Bind"), (_CONTROL, "GetStatus")]
)
@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (Peer(_PID, 1000, 0), "process 7 may not call .*: it is not root but uid 1000"),
        (Peer(_PID, 100_000, 0), "uid 100000"),
        (Peer(_PID, 2**32 - 1, 0), "uid 4294967295"),
        (Peer(0, 0, 0), "outside of the agent's pid namespace"),
        (Peer(99, 0, 0), "has exited"),
    ],
)
def test_nobody_else_may_call_anything(stage: _Stage, peer: Peer, words: str, service: str, method: str) -> None:
    caller = stage.caller("podgate", peer)
    with pytest.raises(HookError, match=words):
        caller.check(service, method)
    assert stage.outcomes == {"denied": 1}
    assert stage.asked == []


def test_a_hook_in_a_containers_cgroup_may_call_before_the_root_is_changed(stage: _Stage) -> None:
    stage.node.process(_PID, "/pods/c1")
    stage.inside = "shop"
    stage.caller().check(HOOK_SERVICE, "Hook")


def test_a_process_in_a_containers_root_is_no_hook(stage: _Stage) -> None:
    stage.enter_container()
    assert "its root directory is not the host's" in _denied(stage.caller(), method="Hook")
    assert stage.outcomes == {"denied": 1}


def test_a_process_of_a_running_container_is_no_hook_whatever_its_root(stage: _Stage) -> None:
    """One that changed its root to the host's, which was mounted into it."""
    stage.running = "shop"
    assert "it is in a container of namespace shop" in _denied(stage.caller(), method="Hook")
    stage.caller("shop").check(HOOK_SERVICE, "Hook")


def test_our_own_plugin_in_a_container_is_no_hook_either(stage: _Stage) -> None:
    stage.enter_container()
    stage.inside = "podgate"
    assert "its root directory" in _denied(stage.caller("podgate"), method="Hook")


@pytest.mark.parametrize("method", ["Bind", "Unbind", "Synchronize", "Announce", "Report"])
def test_a_process_in_a_bound_container_may_not_announce(stage: _Stage, method: str) -> None:
    stage.inside = "shop"
    assert "it is in a container of namespace shop" in _denied(stage.caller("podgate"), method=method)


@pytest.mark.parametrize("own", [None, "podgate"])
def test_a_process_in_a_container_outside_of_kubernetes_may_not_call(stage: _Stage, own: str | None) -> None:
    stage.inside = ""
    assert "in a container of no namespace" in _denied(stage.caller(own), _CONTROL, "AddPolicies")


def test_our_own_namespace_may_call(stage: _Stage) -> None:
    stage.inside = "podgate"
    stage.caller("podgate").check(HOOK_SERVICE, "Bind")
    stage.caller("podgate").check(_CONTROL, "AddPolicies")
    assert "namespace podgate" in _denied(stage.caller())


def test_who_cannot_be_placed_may_not_call(stage: _Stage) -> None:
    stage.inside = "unknown"
    assert "it cannot be told where it runs: process 7 is gone" in _denied(stage.caller())


def test_a_plugin_is_looked_at_once_and_a_command_line_each_time(stage: _Stage) -> None:
    caller = stage.caller()
    for _ in range(3):
        caller.check(HOOK_SERVICE, "Bind")
    assert stage.asked == [_PID]
    caller.check(_CONTROL, "AddPolicies")
    stage.inside = "shop"
    assert "namespace shop" in _denied(caller, _CONTROL, "AddPolicies")


def test_a_no_is_not_kept_and_a_plugins_yes_is_none_for_a_hook(stage: _Stage) -> None:
    caller = stage.caller()
    stage.inside = "shop"
    _denied(caller)
    stage.inside = None
    caller.check(HOOK_SERVICE, "Bind")
    stage.enter_container()
    _denied(caller, method="Hook")


def test_a_caller_that_has_exited_is_refused(stage: _Stage) -> None:
    caller = stage.caller()
    shutil.rmtree(stage.node.procfs / str(_PID))
    assert "it has exited" in _denied(caller)
    assert "it has exited" in _denied(caller, method="Hook")


def test_one_that_asks_for_ever_does_not_fill_the_log(
    stage: _Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "podgate.server")
    clock = 10.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    caller = stage.caller(peer=Peer(_PID, 5, 5))
    for _ in range(100):
        _denied(caller)
    clock += QUIET_S
    detail = _denied(caller, "x" * 1000)
    told = [record.__dict__["fields"] for record in caplog.records]
    assert [each["untold"] for each in told] == [0, 99]
    assert told[1]["detail"] == detail
    assert len(detail) < 400
    assert stage.outcomes == {"denied": 101}


def test_where_init_is_out_of_reach_the_agents_own_root_counts(
    stage: _Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.stat

    def stat(path: Path) -> os.stat_result:
        if path == stage.node.procfs / "1/root":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as without:
        without.setattr(os, "stat", stat)
        caller = stage.caller()
    caller.check(HOOK_SERVICE, "Hook")
    stage.enter_container()
    _denied(caller, method="Hook")
    assert caplog.records[0].getMessage() == "init's root directory is out of reach, taking our own"


def test_without_a_host_root_nobody_can_be_judged(stage: _Stage) -> None:
    (stage.node.procfs / "1/root").unlink()
    with pytest.raises(FileNotFoundError):
        stage.caller()


def test_this_machine_has_a_host_root() -> None:
    assert find_host_root() == (os.stat("/").st_dev, os.stat("/").st_ino)
