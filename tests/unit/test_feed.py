# SPDX-License-Identifier: Apache-2.0
"""Telling the event process names: in order, never waiting, anew to each new process.

The process here is a small program that writes what it hears to a file, one message a line.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.events import feed as module
from agent.events.feed import MAX_MESSAGE, Feed, Ring
from agent.events.lookups import ALLOW_LOOKUPS
from agent.events.messages import MAX_RULES_MESSAGE, workload_message
from agent.events.tables import Tables
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, PodUid, WorkloadId
from agent.workload.registry import Record
from tests.support.events import rule
from tests.support.wait import wait_until

# Hears nothing while the file "deaf" is there.
_CHILD = """
import os, socket, sys, time
folder, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
if os.path.exists(folder + "/counters"):
    channel.send(open(folder + "/counters", "rb").read())
while os.path.exists(folder + "/deaf"):
    time.sleep(0.002)
while data := channel.recv(1 << 20):
    with open(f"{folder}/heard.{os.getpid()}", "ab") as out:
        out.write(data + b"\\n")
"""
_RECORD = Record(
    ContainerIdentity(ContainerId("c1"), "main", "shop", "web-0", PodUid("u"), (("app", "web"),), "image"),
    CgroupId(9), WorkloadId(5), False, 3,
)  # fmt: skip


class _Stage:
    """A feed with the small program in the event process's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshot: list[dict[str, Any]] = []
        self.commands: list[list[str]] = []
        self.feed = Feed(Ring(0, 4096), socket.socket(socket.AF_UNIX), lambda: list(self.snapshot))

    def heard(self, pid: int | None = None) -> list[dict[str, Any]]:
        path = self.folder / f"heard.{pid or self.feed.pid}"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def await_heard(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.heard()) >= count, 20.0, f"{count} messages")
        return self.heard()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Stage]:
    start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[1:4] == ["-I", "-m", "agent.events.main"]
        made.commands.append(command)
        return start([sys.executable, "-c", _CHILD, str(tmp_path), command[4]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(module, "RESTART_DELAY_S", 0.0)
    made = _Stage(tmp_path)
    yield made
    made.feed.close()


def test_a_new_process_hears_the_snapshot_and_then_what_is_told(stage: _Stage) -> None:
    stage.snapshot = [{"op": "workload", "id": 1}, {"op": "policy", "id": 2}]
    stage.feed.start()
    stage.feed.policy_removed(2)
    stage.feed.workload_removed(WorkloadId(1))
    stage.feed.events_lost(7)
    told = [{"op": "policy_gone", "id": 2}, {"op": "workload_gone", "id": 1}, {"op": "lost", "id": 7}]
    assert stage.await_heard(5) == [*stage.snapshot, *told]


def test_what_a_deaf_process_cannot_take_waits_in_order(stage: _Stage) -> None:
    (stage.folder / "deaf").touch()
    stage.feed.start()
    messages = [{"op": "x", "id": n, "text": "x" * 100_000} for n in range(200)]
    for message in messages:
        stage.feed.tell(message)
    assert stage.heard() == []
    (stage.folder / "deaf").unlink()

    def all_heard() -> bool:
        stage.feed.check()
        return len(stage.heard()) == len(messages)

    wait_until(all_heard, 30.0, "all messages")
    assert stage.heard() == messages
    assert stage.feed.dropped == 0


def test_what_waits_is_bounded_and_the_oldest_is_dropped(stage: _Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    for number in range(25):  # nobody listens before the start
        stage.feed.tell({"op": "x", "id": number})
    assert stage.feed.dropped == 15
    waiting = [json.loads(data)["id"] for data in stage.feed._waiting]
    assert waiting == list(range(15, 25))


def test_one_message_that_no_socket_takes_does_not_hold_the_others(stage: _Stage) -> None:
    stage.feed.start()
    stage.feed.tell({"op": "workload", "id": 1, "labels": "x" * MAX_MESSAGE})
    stage.feed.tell({"op": "workload", "id": 2})
    assert stage.await_heard(1) == [{"op": "workload", "id": 2}]
    assert stage.feed.dropped == 1


def test_the_largest_message_gets_through_whole(stage: _Stage) -> None:
    stage.feed.start()
    message = {"op": "x", "id": 1, "text": ""}
    message["text"] = "x" * (MAX_MESSAGE - len(json.dumps(message)))
    stage.feed.tell(message)
    assert stage.await_heard(1) == [message]


def test_a_process_that_ended_is_started_again_and_told_everything(stage: _Stage) -> None:
    stage.snapshot = [{"op": "workload", "id": 1}]
    stage.feed.start()
    stage.await_heard(1)
    first = stage.feed.pid
    stage.feed._process.send_signal(signal.SIGKILL)  # type: ignore[union-attr]
    wait_until(lambda: stage.feed.pid == 0, 10.0, "its end")
    stage.snapshot.append({"op": "workload", "id": 2})
    stage.feed.tell({"op": "workload", "id": 2})  # goes nowhere, and must not fail
    stage.feed.check()
    assert stage.feed.restarts == 1
    assert stage.feed.pid not in (0, first)
    assert stage.await_heard(2) == stage.snapshot


def test_a_process_that_just_started_is_not_started_again(stage: _Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_DELAY_S", 3600.0)
    stage.feed.start()
    stage.feed._process.kill()  # type: ignore[union-attr]
    wait_until(lambda: stage.feed.pid == 0, 10.0, "its end")
    stage.feed.check()
    assert (stage.feed.restarts, stage.feed.pid) == (0, 0)


def test_closing_ends_the_process(stage: _Stage) -> None:
    stage.feed.start()
    assert stage.feed.pid
    stage.feed.close()
    assert stage.feed.pid == 0
    assert stage.feed._process is not None
    assert stage.feed._process.returncode == 0


def test_tables_take_what_the_feed_says_of_a_workload() -> None:
    tables = Tables()
    tables.apply(json.dumps(workload_message(_RECORD)).encode())
    known = tables.workloads[5].fields
    assert known["pod"] == {"namespace": "shop", "name": "web-0", "uid": "u", "labels": {"app": "web"}}
    assert known["container"] == {"id": "c1", "name": "main", "image": "image"}


def test_a_policy_is_told_in_parts_that_a_socket_takes(stage: _Stage) -> None:
    rules = [rule(function=f"f{n}") for n in range(3 * MAX_RULES_MESSAGE - 1)]
    stage.feed.start()
    stage.feed.tell({"op": "policy", "id": 3, "name": "p", "namespace": None, "rules": rules})
    messages = stage.await_heard(3)
    assert [message["op"] for message in messages] == ["policy", "rules", "rules"]
    tables = Tables()
    for message in messages:
        tables.apply(json.dumps(message).encode())
    assert [each.what["function"] for each in tables.policies[3].rules] == [each["function"] for each in rules]


def test_counters_of_the_process_are_heard_and_those_of_earlier_ones_stay(stage: _Stage) -> None:
    (stage.folder / "counters").write_text(json.dumps({"op": "counters", "counters": {"stacks_late": 2}}))
    stage.feed.start()
    for total in (2, 4):

        def are_heard(expected: int = total) -> bool:
            stage.feed.check()
            return stage.feed.counters == {"stacks_late": expected}

        wait_until(are_heard, 20.0, "counters")
        assert stage.feed._process is not None
        stage.feed._process.kill()
        stage.feed._process.wait()


@pytest.mark.parametrize("junk", ["", "7", "{}", '{"counters": 5}', '{"counters": {"a": null}}', "[" * 50_000])
def test_counters_that_are_none_are_no_harm(stage: _Stage, junk: str, caplog: pytest.LogCaptureFixture) -> None:
    (stage.folder / "counters").write_text(junk or "\0")
    stage.feed.start()

    def is_refused() -> bool:
        stage.feed.check()
        return bool(caplog.records)

    wait_until(is_refused, 20.0, "a warning")
    assert stage.feed.counters == {}


def test_only_when_they_are_allowed_the_process_is_told_to_look_up(stage: _Stage) -> None:
    for allowed in (False, True):
        feed = Feed(Ring(0, 4096), socket.socket(socket.AF_UNIX), list, None, allowed)
        feed.start()
        feed.close()
    assert [ALLOW_LOOKUPS in command for command in stage.commands] == [False, True]


def test_an_unannounced_container_is_told_as_it_is(stage: _Stage) -> None:
    event = {"time_ns": 5, "cgroup": {"id": 9, "name": "crio-\ufffd\u2028"}, "outcome": "unidentified"}
    stage.feed.start()
    stage.feed.unannounced(event)
    (message,) = stage.await_heard(1)
    tables = Tables()
    tables.apply(json.dumps(message).encode())
    assert tables.unannounced == [event]


def test_the_end_is_told_before_the_channel_is_closed(stage: _Stage) -> None:
    """A process whose feed ends without it looks after what the agent may have left held."""
    stage.feed.start()
    pid = stage.feed.pid
    stage.feed.workload_removed(WorkloadId(1))
    stage.feed.close()
    messages = stage.heard(pid)
    assert [message["op"] for message in messages] == ["workload_gone", "end"]
    tables = Tables()
    assert not tables.ended
    tables.apply(json.dumps(messages[-1]).encode())
    assert tables.ended


def test_only_where_processes_are_held_is_the_pin_directory_named(stage: _Stage) -> None:
    stage.feed.start()
    assert len(stage.commands[0]) == 8
    guarded = Feed(Ring(0, 4096), socket.socket(socket.AF_UNIX), list, Path("/sys/fs/bpf/podgate"))
    guarded.start()
    guarded.close()
    assert stage.commands[1][8:] == ["/sys/fs/bpf/podgate"]
