# SPDX-License-Identifier: Apache-2.0
"""podgate-hook as a runtime starts it, against a scripted agent; each test with and without sanitizers."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from nri_plugin.ttrpc import Code, MessageType, Request, Response, write_frame
from nri_plugin.ttrpc.message import encode_response
from rthook import build
from rthook.api import hook_pb2
from tests.protocol.fakes import FakeAgent, Hang, HangUp, Raw, Reaction, Refusal, Trickle
from tests.support.hook import Done, HookSetup, build_program, make_state, measure, resident_bytes
from tests.support.names import unique_name

MAX_STATE = (4 << 20) - (64 << 10)
MAX_SPOOL = 1 << 20
# Beyond what a deadline allows: the process's own start and end on a busy machine.
SLACK_S = 2.0
DONE = hook_pb2.HookResponse(cgroup_id=77, workload_id=5, policies=3, bind_us=120).SerializeToString()
OK_FRAME = write_frame(MessageType.RESPONSE, 1, encode_response(Response(1, Code.OK, "", DONE)))


@pytest.fixture(params=[False, True], ids=["plain", "sanitized"])
def hook(request: pytest.FixtureRequest, tmp_path: Path) -> HookSetup:
    return HookSetup(build_program(sanitize=request.param), tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> HookSetup:
    return HookSetup(build_program(sanitize=False), tmp_path)


@contextmanager
def agent_that(hook: HookSetup, reaction: Reaction) -> Iterator[FakeAgent]:
    with FakeAgent(hook.socket, react=lambda _: reaction) as agent:
        yield agent


def quick(hook: HookSetup) -> HookSetup:
    """With a deadline that a test can wait for."""
    return dataclasses.replace(hook, deadline_ms=100)


def check_open(hook: HookSetup, done: Done, reason: str) -> None:
    """The start was let through for that reason, without a failure rule's file."""
    assert done.status == 0, done
    (decision,) = hook.decisions()
    assert (decision["treatment"], decision["outcome"]) == ("open", "open")
    assert reason in decision["reason"]
    assert reason in done.errors


def hook_request(request: Request) -> hook_pb2.HookRequest:
    assert (request.service, request.method) == ("podgate.hook.v1.RuntimeHook", "Hook")
    return hook_pb2.HookRequest.FromString(request.payload)


# What it asks, and an answer.


@pytest.mark.parametrize("stage", ["createRuntime", "createContainer", "poststop"])
def test_it_hands_the_state_to_the_agent_and_starts_in_silence(hook: HookSetup, stage: str) -> None:
    state = make_state()
    with agent_that(hook, DONE) as agent:
        done = hook.run(stage, state=state)
    assert (done.status, done.out, done.errors) == (0, "", "")
    (request,) = agent.requests
    assert hook_request(request) == hook_pb2.HookRequest(stage=stage, runtime="auto", state=state)
    assert 0 < request.timeout_ns <= hook.deadline_ms * 1_000_000
    assert not hook.spool.exists()


@pytest.mark.parametrize("runtime", ["auto", "containerd", "crio", "podman"])
def test_the_runtime_is_told(hook: HookSetup, runtime: str) -> None:
    with agent_that(hook, DONE) as agent:
        assert hook.run("createRuntime", "--runtime", runtime).status == 0
    assert hook_request(agent.requests[0]).runtime == runtime


@pytest.mark.parametrize("state", [b"", b"{", b"\0\xff", make_state(bundle="x" * 1_000_000), b"x" * MAX_STATE])
def test_the_state_is_handed_over_unread(hook: HookSetup, state: bytes) -> None:
    with agent_that(hook, DONE) as agent:
        assert hook.run(state=state).status == 0
    assert hook_request(agent.requests[0]).state == state


def test_answers_may_come_a_byte_at_a_time(hook: HookSetup) -> None:
    with agent_that(hook, Trickle(OK_FRAME, 0.001)):
        assert hook.run().status == 0
    assert hook.decisions() == []


@pytest.mark.parametrize("tail", [b"\0", OK_FRAME, b"x" * 100_000])
def test_what_follows_the_answer_is_nobodys(hook: HookSetup, tail: bytes) -> None:
    with agent_that(hook, Raw(OK_FRAME + tail)):
        assert hook.run().status == 0


def test_calls_at_the_same_time_do_not_meet(plain: HookSetup) -> None:
    plain.write_rule("default closed", "namespace a open")
    states = [make_state("a", id=f"c{i}") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda state: plain.run(state=state), states))
    assert [each.status for each in done] == [0] * 40
    assert {each["container_id"] for each in plain.decisions()} == {f"c{i}" for i in range(40)}


# What is no answer.


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_a_refusal_is_told_with_its_code_and_words(plain: HookSetup, code: Code) -> None:
    with agent_that(plain, Refusal(code, "the reason: ü")):
        check_open(plain, plain.run(), f"refused: {code.name}: the reason: ü")


def test_a_refusal_may_have_any_text(hook: HookSetup) -> None:
    with agent_that(hook, Refusal(Code.INTERNAL, 'a"b\\c\nd\x1b[31m\u0085é' + "x" * 10_000)):
        done = hook.run()
    assert done.errors.count("\n") == 1
    assert '"a\\"b' not in done.errors
    assert 'a\\"b\\\\c\\u000ad\\u001b[31m\\u0085é' in done.errors
    (decision,) = hook.decisions()
    assert 'refused: INTERNAL: a"b\\c\nd\x1b[31m\u0085éxxx' in decision["reason"]
    assert "failure rule" in decision["reason"], "the long text leaves room for the rest"


def test_bytes_of_a_refusal_that_are_no_text_are_replaced(hook: HookSetup) -> None:
    status = b"\x08\x05\x12\x03a\xffb"
    payload = b"\x0a" + bytes([len(status)]) + status
    with agent_that(hook, Raw(write_frame(MessageType.RESPONSE, 1, payload))):
        hook.run()
    assert "refused: NOT_FOUND: a\ufffdb" in hook.decisions()[0]["reason"]


def test_silence_ends_at_the_deadline(hook: HookSetup) -> None:
    hook = quick(hook)
    with agent_that(hook, Hang()):
        done = hook.run()
    assert 0.1 <= done.elapsed_s < 0.1 + SLACK_S
    check_open(hook, done, "answer: not within 100 ms")


def test_a_slow_trickle_ends_at_the_deadline(hook: HookSetup) -> None:
    hook = quick(hook)
    with agent_that(hook, Trickle(OK_FRAME, 0.03)):
        done = hook.run()
    assert done.elapsed_s < 0.1 + SLACK_S
    check_open(hook, done, "answer: not within 100 ms")


@pytest.mark.parametrize("length", range(len(OK_FRAME)))
def test_a_torn_answer_is_none(plain: HookSetup, length: int) -> None:
    with agent_that(plain, HangUp(OK_FRAME[:length])):
        check_open(plain, plain.run(), "answer: the agent hung up")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (write_frame(MessageType.RESPONSE, 3, DONE), "a response on a stream that was not asked on"),
        (write_frame(MessageType.RESPONSE, 0, DONE), "a response on a stream that was not asked on"),
        (write_frame(MessageType.REQUEST, 1, DONE), "a frame that is no response"),
        (write_frame(MessageType.DATA, 1, DONE), "a frame that is no response"),
        (b"\0\0\0\0\0\0\0\1\xff\0", "a frame that is no response"),
        (b"\xff\xff\xff\xff\0\0\0\1\2\0" + bytes(1 << 20), "a response of more than 16 KiB"),
        (write_frame(MessageType.RESPONSE, 1, bytes((16 << 10) + 1)), "a response of more than 16 KiB"),
        (write_frame(MessageType.RESPONSE, 1, b"\xff"), "a response that is no message"),
        (write_frame(MessageType.RESPONSE, 1, b"\x08\x05"), "a response whose status is none"),
        (write_frame(MessageType.RESPONSE, 1, b"\x0a\x07\x08\x80\x80\x80\x80\x80\x01"), "a status whose code is none"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame that is no response"),
        (write_frame(MessageType.RESPONSE, 7, b"flood") * 200_000, "a response on a stream that was not asked on"),
        (bytes(3 << 20), "a frame that is no response"),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(hook: HookSetup, data: bytes, reason: str) -> None:
    with agent_that(hook, Raw(data)):
        check_open(hook, hook.run(), f"answer: {reason}")


def test_without_a_socket(hook: HookSetup) -> None:
    check_open(hook, hook.run(), f"agent {hook.socket}: connect: ENOENT (No such file or directory)")


def test_a_file_that_is_no_socket(hook: HookSetup) -> None:
    hook.socket.touch()
    check_open(hook, hook.run(), "connect: ECONNREFUSED")


def test_a_socket_that_nobody_listens_at(hook: HookSetup) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(hook.socket))
    check_open(hook, hook.run(), "connect: ECONNREFUSED (Connection refused)")


def test_a_socket_of_another_kind(hook: HookSetup) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(hook.socket))
        check_open(hook, hook.run(), "connect: EPROTOTYPE")


def test_a_listener_whose_queue_is_full(hook: HookSetup) -> None:
    hook = quick(hook)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as queued:
        listener.bind(str(hook.socket))
        listener.listen(0)
        queued.connect(str(hook.socket))
        done = hook.run()
    assert 0.1 <= done.elapsed_s < 0.1 + SLACK_S
    check_open(hook, done, "connect: not within 100 ms")


def test_an_agent_that_does_not_accept(hook: HookSetup) -> None:
    hook = quick(hook)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hook.socket))
        listener.listen()
        check_open(hook, hook.run(), "answer: not within 100 ms")


def test_an_agent_that_does_not_read(hook: HookSetup) -> None:
    hook = quick(hook)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hook.socket))
        listener.listen()
        check_open(hook, hook.run(state=make_state(bundle="x" * 1_000_000)), "send: not within 100 ms")


def test_an_agent_that_goes_while_it_is_written_to(hook: HookSetup) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hook.socket))
        listener.listen()
        with hook.started() as process:
            assert process.stdin
            process.stdin.write(make_state(bundle="x" * 1_000_000))
            process.stdin.close()
            listener.accept()[0].close()
        assert process.returncode == 0
    assert re.search("send: (EPIPE|ECONNRESET)", hook.decisions()[0]["reason"])


# The state that it cannot read.


def test_a_state_that_never_ends(hook: HookSetup) -> None:
    hook = quick(hook)
    hook.write_rule("default open", "namespace other closed")
    with agent_that(hook, DONE) as agent, hook.started() as process:
        assert process.stdin
        process.stdin.write(make_state()[:-1])
        process.stdin.flush()
        assert process.wait(SLACK_S) == 1
    assert agent.requests == []
    (decision,) = hook.decisions()
    assert (decision["container_id"], decision["namespace"]) == (None, None)
    assert "state on standard input: not whole within 100 ms" in decision["reason"]


def test_a_state_that_is_too_long(hook: HookSetup) -> None:
    hook.write_rule("default open", "namespace other closed")
    with agent_that(hook, DONE) as agent:
        assert hook.run(state=b" " * (MAX_STATE - 1) + b"{}").status == 1
    assert agent.requests == []
    assert "state on standard input: more than 4,032 KiB" in hook.decisions()[0]["reason"]


def test_standard_files_that_are_closed(hook: HookSetup) -> None:
    """The agent must not get on its socket what is said on standard error."""
    with agent_that(hook, Refusal(Code.INTERNAL, "x")) as agent:
        arguments = (str(hook.program), hook.options(), "createContainer")
        command = f"exec {arguments[0]} {' '.join(arguments[1])} {arguments[2]} 0<&- 1>&- 2>&-"
        assert subprocess.run(["/bin/sh", "-c", command], check=False, timeout=20).returncode == 0
    assert hook_request(agent.requests[0]).state == b""
    assert hook.decisions()[0]["outcome"] == "open"


def test_a_directory_as_standard_input(hook: HookSetup) -> None:
    descriptor = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run(hook.command("createContainer"), stdin=descriptor, env={}, check=False, timeout=20)
    finally:
        os.close(descriptor)
    assert done.returncode == 0
    assert "state on standard input: EISDIR" in hook.decisions()[0]["reason"]


BROKEN = [
    (b"", "it ends too early"),
    (b"{", "no key where one must be"),
    (make_state()[:-1], "it ends too early"),
    (make_state() + b"x", "text behind its end"),
    (make_state(annotations=5), "the state's annotations are no object"),
    (make_state(pid="12"), "the state's pid is no process id"),
    (make_state(id=5), "the state's id is no text"),
    (make_state(annotations={"io.kubernetes.pod.namespace": 5}), "the namespace's annotation is no text"),
    (make_state("Shop"), "the namespace's annotation is no namespace's name"),
    (make_state(bundle="x").replace(b'"x"', b'"\xff"'), "a string that is no UTF-8"),
    (make_state(bundle="x").replace(b'"x"', b'"\\ud800"'), "a wrong escape"),
    (make_state(bundle="x").replace(b'"x"', b'"\0"'), "a control character in a string"),
    (make_state()[:-1] + b',"id":"c2"}', "the state has its id twice"),
    (b"[" * 100_000, "the state is no object"),
    (make_state(pid=10**400), "the state's pid is no process id"),
]


@pytest.mark.parametrize(("state", "reason"), BROKEN)
@pytest.mark.parametrize("strictest", ["open", "closed"])
def test_a_broken_state_gets_the_strictest_treatment(
    hook: HookSetup, state: bytes, reason: str, strictest: str
) -> None:
    hook.write_rule("default open", f"namespace nobody {strictest}")
    done = hook.run(state=state)
    assert done.status == (strictest == "closed")
    (decision,) = hook.decisions()
    assert (decision["namespace"], decision["treatment"], decision["outcome"]) == (None, strictest, strictest)
    assert reason in decision["reason"]
    assert "the namespace is not known: the strictest of the file" in decision["reason"]


def test_annotations_that_differ_get_the_strictest_treatment(hook: HookSetup) -> None:
    hook.write_rule("namespace a open", "namespace nobody closed")
    state = make_state(
        annotations={"io.kubernetes.cri.sandbox-namespace": "a", "io.kubernetes.pod.namespace": "b"},
    )
    assert hook.run(state=state).status == 1
    assert hook.run("createContainer", "--runtime=containerd", state=state).status == 0


def test_a_megabyte_of_annotations_is_read(hook: HookSetup) -> None:
    annotations = {"big": "é" * 160_000, "io.kubernetes.pod.namespace": "payments", "other": ["x", {"y": 1}]}
    hook.write_rule("namespace payments closed")
    assert hook.run(state=make_state(annotations=annotations)).status == 1
    assert hook.decisions()[0]["namespace"] == "payments"


# What the failure rule makes of it.


@pytest.mark.parametrize("reaction", [Refusal(Code.INTERNAL, "no"), Hang(), HangUp()])
@pytest.mark.parametrize(
    ("namespace", "status", "treatment"),
    [
        ("shop", 0, "open"),
        ("payments", 1, "closed"),
        ("team-a", 1, "closed"),
        ("kube-system", 0, "open"),
        (None, 0, "open"),
    ],
)
def test_the_rule_is_applied_whatever_failed(
    hook: HookSetup, reaction: Reaction, namespace: str | None, status: int, treatment: str
) -> None:
    hook = quick(hook)
    hook.write_rule("default open", "namespace payments closed", "pattern team-* closed", "exempt kube-system")
    with agent_that(hook, reaction):
        assert hook.run(state=make_state(namespace)).status == status
    (decision,) = hook.decisions()
    assert (decision["treatment"], decision["outcome"]) == (treatment, treatment)
    assert decision["namespace"] == (namespace or "")


def test_a_refused_start_says_what_and_why_and_what_to_do(hook: HookSetup) -> None:
    hook.write_rule("default open", "namespace payments closed")
    done = hook.run("createRuntime", state=make_state("payments"))
    assert (done.status, done.out) == (1, "")
    assert done.errors == (
        "podgate-hook: createRuntime: container c1 of namespace payments does not start: "
        f"agent {hook.socket}: connect: ENOENT (No such file or directory); "
        f"failure rule {hook.rule}: closed (line 2); "
        "is podgate-agent running (podgate status)? Its log says why it refuses\n"
    )


def test_faults_of_the_rule_are_said(hook: HookSetup) -> None:
    hook.write_rule("default open", "nonsense", "namespace x")
    done = hook.run()
    assert done.status == 1
    said = "closed (the default, because the file has faults); its faults: 2, the first: line 2: expected: default,"
    assert said in done.errors
    assert said in hook.decisions()[0]["reason"]


def test_a_rule_that_cannot_be_read_closes_all_but_the_system(hook: HookSetup) -> None:
    hook.rule.mkdir()
    assert hook.run().status == 1
    assert hook.run(state=make_state("kube-system")).status == 0
    assert "the first: cannot be read: EINVAL" in hook.decisions()[0]["reason"]


def test_without_a_rule_everything_is_open_and_that_is_said(hook: HookSetup) -> None:
    done = hook.run(state=b"")
    check_open(hook, done, f"failure rule {hook.rule}: open (there is no such file)")


def test_quarantine_without_an_agents_programs_is_closed(hook: HookSetup) -> None:
    hook.write_rule("default quarantine")
    done = hook.run()
    assert done.status == 1
    (decision,) = hook.decisions()
    assert (decision["treatment"], decision["outcome"]) == ("quarantine", "closed")
    assert f"quarantine (the default); quarantine: {hook.pin_dir}: no agent's programs" in decision["reason"]
    assert "no agent's programs are pinned there; is podgate-agent running" in done.errors


@pytest.mark.parametrize(
    ("pid", "why"),
    [
        (0, "the state tells no pid"),
        (4194303, "/proc/4194303/cgroup: ENOENT"),
        ("12", "the state tells no pid"),
        (1, "the process is in the root cgroup"),
    ],
)
def test_quarantine_needs_the_cgroup_of_the_process(hook: HookSetup, pid: object, why: str) -> None:
    if pid == 1 and "0::/\n" not in Path("/proc/1/cgroup").read_text():
        pytest.skip("process 1 of this machine has a cgroup of its own")
    hook.write_rule("default quarantine")
    assert hook.run("createRuntime", state=make_state(pid=pid)).status == 1
    assert f"quarantine: {why}" in hook.decisions()[0]["reason"]


# poststop.


@pytest.mark.parametrize("reaction", [Refusal(Code.INTERNAL, "no"), Hang(), HangUp(), Raw(b"x" * 100)])
def test_a_container_that_is_gone_holds_up_nobody(hook: HookSetup, reaction: Reaction) -> None:
    hook = dataclasses.replace(hook, deadline_ms=60_000)
    hook.write_rule("default closed")
    with agent_that(hook, reaction):
        done = hook.run("poststop")
    assert done.status == 0
    assert done.elapsed_s < 0.5 + SLACK_S
    assert done.errors.startswith("podgate-hook: poststop: agent ")
    assert hook.decisions() == []


def test_poststop_keeps_a_shorter_deadline(hook: HookSetup) -> None:
    hook = quick(hook)
    with agent_that(hook, Hang()):
        assert "not within 100 ms" in hook.run("poststop").errors


@pytest.mark.parametrize("state", [b"", b"{", b"x" * (MAX_STATE + 1)])
def test_poststop_with_a_broken_state(hook: HookSetup, state: bytes) -> None:
    assert hook.run("poststop", state=state).status == 0


# The spool.


def test_a_decision_is_a_line_of_json(hook: HookSetup) -> None:
    hook.write_rule("default open", "namespace payments closed")
    before = time.time()
    hook.run(state=make_state("payments", id="c\u00e9\n1"))
    hook.run("createRuntime")
    first, second = hook.decisions()
    assert list(first) == ["ts", "stage", "container_id", "namespace", "treatment", "reason", "outcome"]
    assert before - 0.001 <= first["ts"] <= second["ts"] <= time.time()
    assert re.fullmatch(r'\{"ts":\d{10}\.\d{3},.*\}', hook.spool.read_text().splitlines()[0])
    assert (first["stage"], first["container_id"], first["namespace"]) == ("createContainer", "cé\n1", "payments")
    assert (first["treatment"], first["outcome"]) == ("closed", "closed")
    assert (second["stage"], second["container_id"], second["outcome"]) == ("createRuntime", "c1", "open")
    assert hook.spool.stat().st_mode & 0o7777 == 0o600


def test_a_decision_at_its_longest_is_whole(hook: HookSetup) -> None:
    hook.write_rule("default closed")
    state = make_state("n" * 253, id="\x01" * 255)
    with agent_that(hook, Refusal(Code.FAILED_PRECONDITION, "\x02" * 5000)):
        done = hook.run(state=state)
    assert done.errors.endswith("\n")
    assert len(done.errors) <= 4096
    (decision,) = hook.decisions()
    assert (decision["container_id"], decision["namespace"]) == ("\x01" * 255, "n" * 253)
    assert decision["reason"].endswith("closed (the default)")


def test_the_spool_has_an_end(hook: HookSetup) -> None:
    hook.run()
    line = len(hook.spool.read_bytes())
    with hook.spool.open("ab") as file:
        file.write(b"\n" * (MAX_SPOOL - 2 * line))
    assert hook.run().errors.count("\n") == 1
    assert hook.spool.stat().st_size == MAX_SPOOL
    done = hook.run()
    assert done.status == 0
    assert f"the decision is not recorded: {hook.spool}: it has 1 MiB, the agent has not collected it" in done.errors
    assert hook.spool.stat().st_size == MAX_SPOOL


@pytest.mark.parametrize("rule", ["open", "closed"])
@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "no directory"])
def test_a_spool_that_cannot_be_written_changes_nothing(hook: HookSetup, kind: str, rule: str, tmp_path: Path) -> None:
    hook.write_rule(f"default {rule}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("as it was")
    if kind == "link":
        hook.spool.symlink_to(elsewhere)
    elif kind == "directory":
        hook.spool.mkdir()
    elif kind == "pipe":
        os.mkfifo(hook.spool)
    spool = tmp_path / "none/hook.log" if kind == "no directory" else hook.spool
    errno = {"link": "ELOOP", "directory": "EISDIR", "pipe": "ENXIO", "no directory": "ENOENT"}[kind]
    done = hook.run("createContainer", f"--spool={spool}")
    assert done.status == (rule == "closed")
    assert f"podgate-hook: the decision is not recorded: {spool}: {errno}" in done.errors
    assert elsewhere.read_text() == "as it was"


@pytest.mark.kernel
def test_what_the_spool_does_not_take_is_in_the_kernels_log(hook: HookSetup, tmp_path: Path) -> None:
    container = unique_name("told")
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(log, 0, os.SEEK_END)
        hook.run("createContainer", f"--spool={tmp_path}/none/hook.log", state=make_state(id=container))
        lines: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                lines.append(os.read(log, 8192))
    finally:
        os.close(log)
    assert any(container.encode() in line for line in lines)


def test_a_pipe_with_a_reader_is_no_spool(hook: HookSetup) -> None:
    os.mkfifo(hook.spool)
    reader = os.open(hook.spool, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert "the decision is not recorded" in hook.run().errors
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_a_reader_of_standard_error_that_does_not_read(hook: HookSetup) -> None:
    hook.write_rule("default closed")
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(65536))
    except BlockingIOError:
        os.set_blocking(write, True)
    try:
        done = subprocess.run(
            hook.command("createContainer"), input=b"{}", stderr=write, env={}, check=False, timeout=20
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 1
    assert len(hook.decisions()) == 1


def test_a_reader_of_standard_error_that_is_gone(hook: HookSetup) -> None:
    hook.write_rule("default closed")
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            hook.command("createContainer"), input=b"{}", stderr=write, env={}, check=False, timeout=20
        )
    finally:
        os.close(write)
    assert done.returncode == 1


# How it is called.


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "a stage is expected"),
        (["start"], "start: createRuntime, createContainer or poststop is expected"),
        (["createRuntime", "poststop"], "poststop: one stage is expected"),
        (["--no-such", "createRuntime"], "--no-such: there is no such option"),
        (["--runtime=docker", "createRuntime"], "--runtime: containerd, crio, podman or auto is expected"),
        (["--runtimes=crio", "createRuntime"], "--runtimes=crio: there is no such option"),
        (["createRuntime", "--runtime"], "--runtime: a value is missing"),
        (["--agent-socket=agent.sock", "createRuntime"], "--agent-socket: an absolute path of at most 107"),
        ([f"--agent-socket=/{'x' * 107}", "createRuntime"], "--agent-socket: an absolute path of at most 107"),
        (["--failure-rule=rule", "createRuntime"], "--failure-rule: an absolute path of at most 255"),
        ([f"--spool=/{'x' * 255}", "createRuntime"], "--spool: an absolute path of at most 255"),
        (["--pin-dir=", "createRuntime"], "--pin-dir: an absolute path of at most 255"),
        (["--deadline-ms=0", "createRuntime"], "--deadline-ms: a number from 1 to 60000 is expected"),
        (["--deadline-ms=60001", "createRuntime"], "--deadline-ms: a number from 1 to 60000 is expected"),
        (["--deadline-ms=1s", "createRuntime"], "--deadline-ms: a number from 1 to 60000 is expected"),
        (["--deadline-ms=", "createRuntime"], "--deadline-ms: a number from 1 to 60000 is expected"),
        (["--deadline-ms=4294967297", "createRuntime"], "--deadline-ms: a number from 1 to 60000 is expected"),
        (["--explain=a", "createRuntime"], "--explain takes no stage"),
    ],
)
def test_a_wrong_call_refuses_the_start_and_says_so(hook: HookSetup, arguments: list[str], fault: str) -> None:
    command = [str(hook.program), *arguments]
    done = subprocess.run(command, input=make_state(), capture_output=True, env={}, check=False, timeout=20)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert said.startswith(f"podgate-hook: usage: {fault}")
    assert said.endswith("; see --help. A container does not start with a hook that is called so\n")


def test_no_arguments_at_all(hook: HookSetup) -> None:
    """Linux puts an empty name in their place (5.18)."""
    done = subprocess.run([""], executable=hook.program, capture_output=True, env={}, check=False, timeout=20)
    assert done.returncode == 2
    assert b"a stage is expected" in done.stderr


def test_it_says_its_version_and_its_options(hook: HookSetup) -> None:
    def ask(option: str) -> str:
        return subprocess.run([hook.program, option], capture_output=True, text=True, check=True, timeout=20).stdout

    assert ask("--version") == f"podgate-hook {version('podgate')}\n"
    text = ask("--help")
    for option in hook.options():
        assert option.partition("=")[0] in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_help_that_nobody_can_read_is_a_failure(hook: HookSetup) -> None:
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([hook.program, "--help"], stdout=full, check=False, timeout=20).returncode == 1


# What it costs.


def test_it_is_a_static_program(plain: HookSetup) -> None:
    image = plain.program.read_bytes()
    assert b"/ld-linux" not in image, "there is no interpreter in a container's mount namespace"
    assert len(image) < 1_000_000


def test_it_is_small_while_it_waits(plain: HookSetup) -> None:
    plain = dataclasses.replace(plain, deadline_ms=20_000)
    with agent_that(plain, Hang()) as agent, plain.started() as process:
        assert process.stdin
        process.stdin.write(make_state())
        process.stdin.close()
        agent.await_requests("Hook")
        resident = resident_bytes(process.pid)
        process.kill()
    assert resident <= 1_500_000, f"{resident} bytes"


def test_it_is_nearly_as_quick_as_doing_nothing(plain: HookSetup) -> None:
    """Three tries: other work on the machine shows in a wall clock."""
    state = plain.folder / "state"
    state.write_bytes(make_state())
    plain.write_rule("default closed", "namespace shop open")

    def walls(command: list[str]) -> float:
        return statistics.median(measure(command, state).wall_s for _ in range(50))

    def is_quick() -> bool:
        return walls(plain.command("createContainer")) <= 2 * walls(["/bin/true"]) + 0.001

    assert any(is_quick() for _ in range(3))


def test_it_takes_little_of_the_processor(plain: HookSetup) -> None:
    """Three tries, as above: what the caches lost to other work counts as the process's time."""
    state = plain.folder / "state"
    state.write_bytes(make_state())
    with agent_that(plain, DONE):

        def median() -> float:
            used = [measure(plain.command("createContainer"), state) for _ in range(50)]
            assert all(each.status == 0 for each in used)
            return statistics.median(each.cpu_s for each in used)

        assert any(median() <= 0.002 for _ in range(3))


# How it is built.


def test_the_command_builds_it(tmp_path: Path) -> None:
    target = tmp_path / "new/podgate-hook"
    assert build.main([str(target)]) == 0
    assert target.stat().st_mode & 0o7777 == 0o755
    assert [path.name for path in target.parent.iterdir()] == ["podgate-hook"]
    assert target.read_bytes() == build_program(sanitize=False).read_bytes(), "the same sources give the same program"


def test_a_build_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "podgate-hook"
    target.write_text("as it was")
    monkeypatch.setattr(build, "WARNINGS", ())
    monkeypatch.setattr(build, "RELEASE", ("-Wno-such-warning-error", "-no-such-option"))
    assert build.main([str(target)]) == 1
    assert "gcc ended with status 1:" in capsys.readouterr().err
    monkeypatch.setattr(build, "COMPILER", "no-such-compiler")
    assert build.main([str(target)]) == 1
    assert "packages gcc and libc6-dev are needed" in capsys.readouterr().err
    assert target.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [target]


def test_the_analyzer_of_the_compiler_finds_nothing(tmp_path: Path) -> None:
    sources = [build.SOURCE / "hook.c", *build.part_sources()]
    flags = ["-O1", "-fanalyzer", '-DPODGATE_VERSION="0"', "-Wno-null-dereference"]
    build.compile_c(tmp_path / "podgate-hook", sources, flags)
