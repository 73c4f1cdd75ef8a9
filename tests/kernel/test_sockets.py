# SPDX-License-Identifier: Apache-2.0
"""TrackSock and UntrackSock over connections on the loopback device, where packets are handled in the context of
whoever sends them: what one end does to the other's socket runs in the wrong process.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.kernel import bpf, layout
from agent.kernel.maps import Bindings
from agent.policy.model import PolicyMode
from tests.support.calls_kernel import Rules, start_rules
from tests.support.language import Document, Heard, act, arg, condition, counts, document, hearing, marker_policy
from tests.support.planning import read
from tests.support.wait import wait_until
from tests.support.workload import Cgroup, Node, Running, step, steps

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

ESTABLISHED, SYN_SENT, FIN_WAIT1, CLOSE_WAIT = 1, 2, 4, 8  # enum tcp_state
FIRST_FD, ACCEPTED_FD = 3, 4  # of a `calls` process
REUSES = 2000  # sockets that are opened until one has the memory of an earlier one
ROOM = 64
# Connects in a second thread and waits there; first thread and second one do what they are told to meanwhile.
THREADED = """
import ctypes, os, socket, sys, threading
def work():
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    connection.set_inheritable(True)
    {second}
threading.Thread(target=work).start()
{first}
"""
WAIT = "print(flush=True); sys.stdin.readline(); os._exit(0)"
END_ALONE = "ctypes.CDLL(None).syscall(60, 0)"  # exit(2)
SLEEP = "threading.Event().wait()"
CAT = ["/bin/sh", "-c", "echo; exec cat"]
EXECUTE = f"os.execv({CAT[0]!r}, {CAT!r})"
KEY = struct.Struct("<Q")


def when(state: int, *actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """At a change to this state."""
    return {"matchArgs": [condition(2, "Equal", state)], "matchActions": list(actions) or [act("Post")]} | more


TRACK = when(SYN_SENT, act("TrackSock", argSock=0), act("NoPost"))


def states(*selectors: dict[str, Any], kind: str = "sock") -> dict[str, Any]:
    return {
        "subsystem": "sock",
        "event": "inet_sock_set_state",
        "raw": True,
        "args": [arg(0, kind), arg(1, "int"), arg(2, "int")],
        "selectors": list(selectors),
    }


def tracking(
    name: str, namespace: str | None, *selectors: dict[str, Any], kind: str = "sock", **options: Any
) -> Document:
    return document(name, namespace, tracepoints=[states(TRACK, *selectors, kind=kind)], **options)


def at(port: int) -> bytes:
    """struct sockaddr_in of the loopback address."""
    return struct.pack("<H", socket.AF_INET) + struct.pack(">H4s8x", port, socket.inet_aton("127.0.0.1"))


def connecting(port: int) -> list[str]:
    return steps(step("socket", socket.AF_INET, socket.SOCK_STREAM, 0), step("connect", FIRST_FD, at(port), 16))


@contextmanager
def client(group: Cgroup, port: int, *then: list[str]) -> Iterator[Running]:
    """A process with a connection; `then` comes when it is told to go on."""
    running = group.start(steps(connecting(port), ["wait"], *then))
    assert running.await_waiting() == (FIRST_FD, 0)
    try:
        yield running
    finally:
        running.close()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


@contextmanager
def server(group: Cgroup) -> Iterator[tuple[Running, int]]:
    """A process that listens, accepts one connection when it goes on, and closes it when it goes on again."""
    port = free_port()
    words = steps(
        step("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
        step("bind", FIRST_FD, at(port), 16),
        step("listen", FIRST_FD, 8),
        ["wait"],
        step("accept", FIRST_FD, 0, 0),
        ["wait"],
        step("close", ACCEPTED_FD),
        ["wait"],
    )
    running = group.start(words)
    assert running.await_waiting() == (FIRST_FD, 0, 0)
    try:
        yield running, port
    finally:
        running.close()


@contextmanager
def hung_up(node: Node, *then: list[str], namespace: str = "b") -> Iterator[tuple[Running, Running]]:
    """A client in a container of namespace a whose connection the server, in one of another namespace, has closed."""
    with (
        node.container("a") as ours,
        node.container(namespace) as theirs,
        server(theirs) as (other, port),
        client(ours, port, *then) as one,
    ):
        other.go()
        assert other.await_waiting() == (ACCEPTED_FD,)
        other.go()
        assert other.await_waiting() == (0,)
        yield one, other


@pytest.fixture
def heard(node: Node) -> Iterator[Heard]:
    node.add(marker_policy())
    with hearing(node) as heard:
        yield heard


@pytest.mark.parametrize("kind", ["sock", "auto"])
def test_an_event_in_another_process_names_the_owner(node: Node, heard: Heard, kind: str) -> None:
    node.add(tracking("ours", "a", when(CLOSE_WAIT), kind=kind))
    with hung_up(node) as (ours, theirs):
        (event,) = heard.all(ours.pid)
        assert heard.all(theirs.pid) == []
    process = event["process"]
    assert (process["pid"], process["tid"], process["comm"]) == (ours.pid, ours.pid, "calls")
    assert (process["binary"], process["parent"]["binary"] if "parent" in process else None) == (
        str(node.program),
        None,
    )
    assert (event["pod"]["namespace"], event["socket_owner"], event["args"][2]["value"]) == ("a", True, CLOSE_WAIT)
    assert process["start"]
    assert counts(node, "ours") == {"nopost": 1, "track_sock": 1, "post": 1}


def test_without_tracking_the_process_that_runs_is_asked(node: Node, heard: Heard) -> None:
    node.add(document("ours", "a", tracepoints=[states(when(CLOSE_WAIT))]))
    node.add(document("theirs", "b", tracepoints=[states(when(CLOSE_WAIT))]))
    with hung_up(node) as (ours, theirs):
        (event,) = heard.all(theirs.pid)
        assert heard.all(ours.pid) == []
    assert event["policy"]["name"] == "theirs"
    assert "socket_owner" not in event


def test_the_owner_selects_policies_that_do_not_track_themselves(node: Node, heard: Heard) -> None:
    """One that tracks comes and goes: the others' rules follow."""
    node.add(document("ours", "a", tracepoints=[states(when(CLOSE_WAIT))]))
    node.add(document("theirs", "b", tracepoints=[states(when(CLOSE_WAIT))]))
    node.add(tracking("all", None))
    with hung_up(node) as (ours, theirs):
        assert (heard.by_policy(ours.pid), heard.by_policy(theirs.pid)) == (["ours"], [])
    node.agent.control.delete("all", "")
    with hung_up(node) as (ours, theirs):
        assert (heard.by_policy(ours.pid), heard.by_policy(theirs.pid)) == ([], ["theirs"])


def test_packets_belong_to_their_socket(node: Node, heard: Heard) -> None:
    """A packet that another process sets off: the acknowledgement of its last one. And a podSelector."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        packets = {
            "subsystem": "net",
            "event": "net_dev_queue",
            "raw": True,
            "args": [arg(0, "skb")],
            "selectors": [{"matchArgs": [condition(0, "DPort", port)]}],
        }
        labels = {"app": "x"}
        node.add(
            tracking("all", None),
            document("packets", podSelector={"matchLabels": labels}, tracepoints=[packets]),
        )
        with node.container("a", labels) as group, client(group, port) as ours:
            before = heard.all(ours.pid)
            listener.accept()[0].close()
            events = heard.all(ours.pid)
    assert {event["policy"]["name"] for event in before + events} == {"packets"}
    assert events
    assert {(event["pod"]["namespace"], event["socket_owner"]) for event in events} == {("a", True)}


def test_conditions_are_asked_of_the_owner(node: Node, heard: Heard) -> None:
    binary = {"operator": "In", "values": [str(node.program)]}
    meets = {
        "matchBinaries": [binary, binary | {"followChildren": True}],
        "matchNamespaces": [{"namespace": "Pid", "operator": "In", "values": ["host_ns"]}],
        "matchNamespaceChanges": [{"operator": "NotIn", "values": ["Mnt", "Net"]}],
        "matchCapabilities": [{"operator": "In", "values": ["CAP_SYS_ADMIN"]}],
        "matchCapabilityChanges": [{"operator": "NotIn", "values": ["CAP_SYS_ADMIN"]}],
    }
    misses = {"matchBinaries": [{"operator": "NotIn", "values": [str(node.program)]}]}
    node.add(
        document(
            "all", tracepoints=[states(TRACK), states(when(CLOSE_WAIT, **meets)), states(when(CLOSE_WAIT, **misses))]
        )
    )
    with (
        node.container("a") as group,
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        client(group, listener.getsockname()[1]) as ours,
    ):
        listener.accept()[0].close()  # in this process, which has another binary
        (event,) = heard.all(ours.pid)
        assert heard.all(os.getpid()) == []
    assert event["process"]["binary"] == str(node.program)


def test_the_pid_is_the_owners(node: Node, heard: Heard) -> None:
    with node.container("a") as group, closing(socket.create_server(("127.0.0.1", 0))) as listener:
        running = group.start(steps(["wait"], connecting(listener.getsockname()[1]), ["wait"]))
        running.await_waiting()
        mine = {"matchPIDs": [{"operator": "In", "values": [running.pid]}]}
        others = {"matchPIDs": [{"operator": "NotIn", "values": [running.pid]}]}
        hooks = [states(TRACK), states(when(CLOSE_WAIT, **mine)), states(when(CLOSE_WAIT, **others))]
        node.add(document("all", None, tracepoints=hooks))
        running.go()
        running.await_waiting()
        listener.accept()[0].close()
        assert [event["policy"]["name"] for event in heard.all(running.pid)] == ["all"]
        running.close()


def test_a_signal_does_not_hit_who_is_interrupted(node: Node, heard: Heard) -> None:
    node.add(tracking("ours", "a", when(CLOSE_WAIT, act("Sigkill"))))
    with hung_up(node) as (ours, _):
        (event,) = heard.all(ours.pid)
        ours.go()
        assert ours.end().status == 0
    assert (event["enforced"], event["error"], event["actions"]) == (False, "ESRCH", ["POST", "SIGKILL"])
    assert counts(node, "ours") == {"nopost": 1, "track_sock": 1, "post": 1, "sigkill": 1, "failed": 1}


def test_monitor_mode_tracks_and_has_nothing_to_leave_out_that_failed(node: Node, heard: Heard) -> None:
    mode = [{"name": "policy-mode", "value": PolicyMode.MONITOR.value}]
    node.add(tracking("ours", "a", when(CLOSE_WAIT, act("Sigkill")), options=mode))
    with hung_up(node) as (ours, _):
        (event,) = heard.all(ours.pid)
    assert (event["mode"], event["would"]) == ("monitor", ["SIGKILL"])
    assert counts(node, "ours") == {"nopost": 1, "track_sock": 1, "post": 1, "monitor_sigkill": 1}


def test_the_owner_itself_is_hit(node: Node, heard: Heard) -> None:
    node.add(tracking("ours", "a", when(FIN_WAIT1, act("Sigkill"))))
    with node.container("a") as group, closing(socket.create_server(("127.0.0.1", 0))) as listener:
        words = steps(connecting(listener.getsockname()[1]), step("close", FIRST_FD), step("getpid"))
        ended = group.run(words)
    assert ended.killed
    (event,) = heard.all(ended.pid)
    assert event["enforced"]


def test_what_is_untracked_is_nobodys(node: Node, heard: Heard) -> None:
    """The other end becomes established in the client's call as well, and is untracked, which it never was."""
    untrack = when(ESTABLISHED, act("UntrackSock", argSock=0), act("NoPost"))
    node.add(tracking("ours", "a", untrack, when(CLOSE_WAIT)))
    with hung_up(node) as (ours, theirs):
        assert (heard.all(ours.pid), heard.all(theirs.pid)) == ([], [])
    assert counts(node, "ours") == {"nopost": 3, "track_sock": 3}


def test_a_user_stack_of_the_interrupted_process_is_not_told(node: Node, heard: Heard) -> None:
    stacks = act("Post", userStackTrace=True, kernelStackTrace=True)
    node.add(tracking("ours", "a", when(CLOSE_WAIT, stacks)))
    with hung_up(node) as (ours, _):
        event = heard.one(ours.pid)
    assert "kernel_stack" in event
    assert "user_stack" not in event


# The table of owners itself, without an agent.


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rules]:
    """With room for a few sockets only."""
    monkeypatch.setattr(layout, "MAX_SOCKS", ROOM)
    with start_rules(tmp_path) as started:
        yield started


@contextmanager
def watching(rules: Rules, *selectors: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A policy on host processes."""
    placed = rules.put(rules.resolve(read(tracking("all", None, *selectors))))
    Bindings(rules.maps).set_host(sum(1 << each.bit for each in placed))
    found: dict[str, Any] = {"placed": placed[0]}
    try:
        yield found
    finally:
        Bindings(rules.maps).set_host(0)
        rules.remove(placed)


def tracked(rules: Rules) -> dict[int, tuple[Any, ...]]:
    """By the sockets' addresses: the fields of struct pg_owner."""
    fd = rules.maps.fileno("socks")
    found = {key: bpf.lookup(fd, key, layout.OWNER.size) for key in bpf.keys(fd, KEY.size)}
    return {KEY.unpack(key)[0]: layout.OWNER.unpack(value) for key, value in found.items() if value}


def inode(connection: socket.socket) -> int:
    return os.fstat(connection.fileno()).st_ino


@contextmanager
def listening() -> Iterator[tuple[str, int]]:
    """A server whose connections nobody accepts."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=REUSES)) as listener:
        yield listener.getsockname()


def test_a_closed_socket_is_forgotten(rules: Rules) -> None:
    with watching(rules), listening() as address:
        connection = socket.create_connection(address)
        ((_, owner),) = tracked(rules).items()
        assert (owner[1], owner[7]) == (inode(connection), os.getpid())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("<ii", 1, 0))
        connection.close()  # with a reset: closed for good at once
        assert tracked(rules) == {}
        rules.state.forget_sockets()


def test_nothing_is_left_when_nobody_tracks(rules: Rules) -> None:
    with watching(rules), listening() as address, closing(socket.create_connection(address)):
        assert len(tracked(rules)) == 1
        rules.state.forget_sockets()
        assert tracked(rules) == {}


@pytest.mark.parametrize("stale", ["inode", "tuple"])
def test_an_entry_of_another_socket_is_not_believed(rules: Rules, stale: str) -> None:
    with (
        watching(rules, when(CLOSE_WAIT)),
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        ExitStack() as s,
    ):
        for change in (False, True):
            connection = s.enter_context(closing(socket.create_connection(listener.getsockname())))
            key, owner = next((key, each) for key, each in tracked(rules).items() if each[1] == inode(connection))
            fields = list(owner)
            if change:
                fields[1:3] = [owner[1] + 1, owner[2]] if stale == "inode" else [0, owner[2] ^ 1]
            fields[7] = 1  # another pid: what the event says when the entry is believed
            bpf.update(rules.maps.fileno("socks"), KEY.pack(key), layout.OWNER.pack(*fields))
            listener.accept()[0].close()
            (event,) = rules.events()
            assert (event.pid, event.is_of_socket) == ((os.getpid(), False) if change else (1, True))


def test_memory_that_becomes_another_socket_has_a_new_owner(rules: Rules) -> None:
    with watching(rules), listening() as address, ExitStack() as stack:
        first = socket.create_connection(address)
        ((key, owner),) = tracked(rules).items()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("<ii", 1, 0))
        first.close()
        fields = list(owner)
        fields[7] = 1
        bpf.update(rules.maps.fileno("socks"), KEY.pack(key), layout.OWNER.pack(*fields))

        def is_reused() -> bool:
            one = stack.enter_context(closing(socket.create_connection(address)))
            found = tracked(rules).get(key)
            return found is not None and (found[1], found[7]) == (inode(one), os.getpid())

        wait_until(is_reused, 30.0, "a socket at the address of an earlier one")


def test_the_least_used_make_room(rules: Rules) -> None:
    with watching(rules) as found, listening() as address, ExitStack() as stack:
        for _ in range(4 * ROOM):
            last = stack.enter_context(closing(socket.create_connection(address)))
            assert inode(last) in {owner[1] for owner in tracked(rules).values()}
        assert 0 < len(tracked(rules)) <= ROOM
        assert rules.state.counts(found["placed"])["track_sock"] == 4 * ROOM
        assert "failed" not in rules.state.counts(found["placed"])


@pytest.mark.parametrize(
    ("first", "second", "binary"),
    [(SLEEP, WAIT, sys.executable), (END_ALONE, WAIT, sys.executable), (SLEEP, EXECUTE, "/bin/cat")],
    ids=["threads", "first thread ends", "second thread executes"],
)
def test_an_owner_is_known_whatever_its_threads_do(rules: Rules, first: str, second: str, binary: str) -> None:
    """The first thread is the one that names a process; without it, and with another one, it is the same process."""
    path = Path(binary).resolve()
    meets = {"matchBinaries": [{"operator": "In", "values": [str(path)]}]}
    with (
        watching(rules, when(CLOSE_WAIT, **meets)),
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        threaded(first, second, listener.getsockname()[1]) as child,
    ):
        wait_until(lambda: Path(f"/proc/{child.pid}/task/{child.pid}/exe").exists() != (first == END_ALONE), 10.0, "it")
        if second == EXECUTE:
            wait_until(lambda: Path(f"/proc/{child.pid}/exe").resolve() == path, 10.0, "the other program")
        listener.accept()[0].close()
        (event,) = rules.events()
    assert (event.pid, event.is_of_socket, event.items[1].data.decode()) == (child.pid, True, str(path))


@contextmanager
def threaded(first: str, second: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-c", THREADED.format(first=first, second=second), str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        try:
            assert child.stdout.readline() == b"\n"
            yield child
        finally:
            child.kill()


def test_a_process_that_has_ended_keeps_no_socket(rules: Rules) -> None:
    """Nobody has waited for it yet, and another process has its socket, too."""
    connect = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).connect(('127.0.0.1', int(sys.argv[2])))"
    again = when(FIN_WAIT1, act("TrackSock", argSock=0), act("NoPost"))
    with watching(rules, again), listening() as (_, port), closing(socket.socket()) as connection:
        words = [sys.executable, "-c", connect, str(connection.fileno()), str(port)]
        with subprocess.Popen(words, pass_fds=[connection.fileno()]) as child:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert [owner[7] for owner in tracked(rules).values()] == [child.pid]
            connection.shutdown(socket.SHUT_WR)
            assert [owner[7] for owner in tracked(rules).values()] == [os.getpid()]
