# SPDX-License-Identifier: Apache-2.0
"""The command podgate: what it prints, on which stream, and its exit status. The agent is a few answers on a socket."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf.message import Message

from agent.api import control_pb2
from agent.cli.client import SERVICE
from agent.cli.main import main
from agent.hooks.calls import Answer, CallError
from agent.hooks.peer import Peer
from agent.hooks.server import Server, listen
from nri_plugin.ttrpc import Code
from tests.support.callers import admit_anyone
from tests.support.wait import wait_until

_GOOD = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicyNamespaced
metadata: {name: guard, namespace: shop}
spec: {kprobes: [{call: sys_lseek}, {call: sys_access}]}
"""
_BAD = """apiVersion: cilium.io/v1alpha1
kind: TracingPolicy
metadata: {name: guard}
spec: {kprobes: [{call: sys_lseek, selectors: [{matchArgs: [{index: 3, operator: Equal, values: ["1"]}]}]}, {call: no}]}
"""
_EVENT = b'{"type":"policy","n":%d}\n'


def _status(name: str = "guard", state: str = "enabled", **fields: object) -> control_pb2.PolicyStatus:
    known = {
        "namespace": "shop",
        "kind": "TracingPolicyNamespaced",
        "containers": 2,
        "system_calls": ["access", "lseek"],
    }
    return control_pb2.PolicyStatus(name=name, state=state, **(known | fields))  # type: ignore[arg-type]


class _Control:
    """What an agent answers; calls are kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.answers: dict[str, Callable[[], Message]] = {}

    def call(self, method: str, payload: bytes, peer: Peer) -> Answer:
        assert peer.pid == os.getpid()
        self.calls.append((method, payload))
        return Answer(self.answers[method]().SerializeToString())


class _Stage:
    def __init__(self, folder: Path) -> None:
        self.run_dir, self.control = folder / "run", _Control()
        self.run_dir.mkdir()
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []

    def serve(self, method: str, answer: Callable[[], Message]) -> None:
        self.control.answers[method] = answer
        if self._server is None:
            self._server = Server(listen(self.run_dir / "agent.sock"), {SERVICE: self.control}, admit_anyone)
            self._server.start()

    def stream(self, *parts: bytes, keep: bool = True) -> None:
        """An event process that sends these to its first reader; keep: and waits until that goes."""
        listener = listen(self.run_dir / "events.sock")

        def run() -> None:
            channel, _ = listener.accept()
            with listener, channel:
                for part in (b'{"type":"subscribed"}\n', *parts):
                    channel.sendall(part)
                if keep:
                    channel.recv(1)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def run(self, *args: str, text: str | None = None) -> Result:
        return CliRunner().invoke(main, ["--run-dir", str(self.run_dir), *args], input=text)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(20.0)
            assert not thread.is_alive()
        if server := self._server:
            server.stop()
            wait_until(lambda: not server._open, 20.0, "the connections' threads to end")


def _refuse(code: Code, text: str) -> Callable[[], Message]:
    def answer() -> Message:
        raise CallError(code, text)

    return answer


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[_Stage]:
    made = _Stage(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A good policy and a faulty one."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(_GOOD)
    bad.write_text(_BAD)
    return str(good), str(bad)


def test_a_good_policy_is_checked_without_an_agent(stage: _Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", files[0])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{files[0]}:1:1: TracingPolicyNamespaced shop/guard on access, lseek: ok\n"


def test_every_fault_is_on_standard_error_with_its_place(stage: _Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", files[1], files[0])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [line.rpartition(": ")[0].removeprefix(files[1]).split(":")[1] for line in lines] == ["4", "4"]
    assert "matchArgs names argument 3" in lines[0]
    assert result.stdout.endswith("shop/guard on access, lseek: ok\n")


def test_a_check_as_json_has_policies_and_errors(stage: _Stage, files: tuple[str, str]) -> None:
    result = stage.run("policy", "check", "-o", "json", *files)
    answer = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert (answer["ok"], len(answer["errors"])) == (False, 2)
    (found,) = answer["policies"]
    assert (found["policy"], found["calls"]) == ("shop/guard", ["access", "lseek"])


def test_standard_input_is_checked_under_its_name(stage: _Stage) -> None:
    good, bad = stage.run("policy", "check", "-", text=_GOOD), stage.run("policy", "check", "-", text="kind: Pod")
    assert good.stdout.startswith("<stdin>:1:1: ")
    assert bad.stderr.startswith("<stdin>:1:")
    assert (good.exit_code, bad.exit_code) == (0, 1)


def test_a_file_that_cannot_be_read_is_a_refusal(stage: _Stage) -> None:
    result = stage.run("policy", "check", "/nowhere/x.yaml")
    assert (result.exit_code, result.stderr) == (1, "/nowhere/x.yaml: No such file or directory\n")


@pytest.mark.parametrize(
    "args", [("policy", "check"), ("policy", "list", "-o", "xml"), ("events", "--count", "0"), ("boom",)]
)
def test_a_wrong_usage_has_a_status_of_its_own(stage: _Stage, args: tuple[str, ...]) -> None:
    assert stage.run(*args).exit_code == 2


@pytest.mark.parametrize("args", [("policy", "list"), ("policy", "delete", "x"), ("status",), ("events",)])
def test_without_an_agent_the_status_says_so_and_what_to_do(stage: _Stage, args: tuple[str, ...]) -> None:
    result = stage.run(*args)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"no agent at {stage.run_dir}/")
    assert "start podgate-agent, or name its --run-dir" in result.stderr


def test_an_agent_that_hangs_up_is_no_agent(stage: _Stage) -> None:
    listener = listen(stage.run_dir / "agent.sock")

    def hang_up() -> None:
        listener.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    result = stage.run("policy", "list")
    thread.join()
    listener.close()
    assert result.exit_code == 3
    assert str(stage.run_dir / "agent.sock") in result.stderr


def test_an_added_policy_is_told_with_its_notes_beside(stage: _Stage, files: tuple[str, str]) -> None:
    status = _status(change="added", milliseconds=340, notes=["32-bit calls are not covered"])
    stage.serve("AddPolicies", lambda: control_pb2.AddPoliciesResponse(policies=[status, status]))
    result = stage.run("policy", "add", files[0])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["shop/guard: added, enabled after 340 ms, selects 2 containers"] * 2
    assert result.stderr == "note: 32-bit calls are not covered\n"
    request = control_pb2.AddPoliciesRequest.FromString(stage.control.calls[0][1])
    assert (request.file, request.text.decode()) == (files[0], _GOOD)


def test_a_refused_policy_is_told_as_the_agent_says_it(stage: _Stage) -> None:
    stage.serve("AddPolicies", _refuse(Code.INVALID_ARGUMENT, "<stdin>:1:1: wrong, write it right"))
    result = stage.run("policy", "add", "-", text="x")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "<stdin>:1:1: wrong, write it right\n")


@pytest.mark.parametrize("args", [("shop/guard",), ("guard", "-n", "shop")])
def test_a_policy_is_deleted_by_both_spellings(stage: _Stage, args: tuple[str, ...]) -> None:
    stage.serve(
        "DeletePolicy", lambda: control_pb2.DeletePolicyResponse(policy=_status(state="deleted", milliseconds=5))
    )
    result = stage.run("policy", "delete", *args)
    assert (result.exit_code, result.stdout) == (0, "shop/guard: deleted after 5 ms\n")
    request = control_pb2.DeletePolicyRequest.FromString(stage.control.calls[0][1])
    assert (request.name, request.namespace) == ("guard", "shop")


def test_a_policy_that_is_not_there_is_a_refusal(stage: _Stage) -> None:
    stage.serve("DeletePolicy", _refuse(Code.NOT_FOUND, "no policy x here; there are: y"))
    result = stage.run("policy", "delete", "x")
    assert (result.exit_code, result.stderr) == (1, "no policy x here; there are: y\n")


def test_policies_are_a_table_and_one_not_in_force_is_a_status(stage: _Stage) -> None:
    rows = [_status(), _status("other", "load_error", error="no room")]
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=rows))
    result = stage.run("policy", "list")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["NAME", "NAMESPACE", "KIND", "STATE", "CONTAINERS", "CALLS", "ERROR"]
    assert first.split() == ["guard", "shop", "TracingPolicyNamespaced", "enabled", "2", "access,lseek"]
    assert second.endswith("no room")
    assert result.exit_code == 1
    rows.pop()
    assert stage.run("policy", "list").exit_code == 0


def test_policies_as_json_have_every_field(stage: _Stage) -> None:
    stage.serve("ListPolicies", lambda: control_pb2.ListPoliciesResponse(policies=[_status()]))
    (row,) = json.loads(stage.run("policy", "list", "-o", "json").stdout)
    assert (row["name"], row["system_calls"], row["error"], row["milliseconds"]) == (
        "guard",
        ["access", "lseek"],
        "",
        0,
    )


def test_the_status_of_the_agent_is_printed(stage: _Stage) -> None:
    answer = control_pb2.GetStatusResponse(pid=77, counters={"armed": 3})
    stage.serve("GetStatus", lambda: answer)
    fields = json.loads(stage.run("status", "-o", "json").stdout)
    assert (fields["pid"], fields["counters"]) == (77, {"armed": "3"})
    table = stage.run("status").stdout.splitlines()
    assert ["counters", '{"armed":', '"3"}'] in [row.split() for row in table]


def test_the_stages_of_a_status_are_a_table_in_milliseconds(stage: _Stage) -> None:
    whole = control_pb2.Stage(
        door="nri", stage="start", count=4, p50_us=500, p99_us=2500, max_us=12_345, timeout_us=2_000_000,
        headroom_us=1_987_655, last_success_us=1_700_000_000_000_000, outcomes={"refused": 1, "bound": 3},
    )  # fmt: skip
    new = control_pb2.Stage(door="agent", stage="hold")
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77, stages=[whole, new]))
    lines = stage.run("status").stdout.splitlines()
    assert not any(line.startswith("stages") for line in lines)
    assert lines[-4:-2] == ["", "BY     STAGE      COUNT    P50 MS    P99 MS    MAX MS  HEADROOM MS    LAST SUCCESS"
                            "               OUTCOMES"]  # fmt: skip
    success = "2023-11-14T22:13:20+00:00"
    assert lines[-2].split() == ["nri", "start", "4", "0.5", "2.5", "12.35", "1988", success, "bound=3", "refused=1"]
    assert lines[-1].split() == ["agent", "hold", "0", "0", "0", "0", "-", "-"]
    rows = json.loads(stage.run("status", "-o", "json").stdout)["stages"]
    assert [(row["door"], row["headroom_us"]) for row in rows] == [("nri", "1987655"), ("agent", "0")]


def test_a_stage_that_overran_its_callers_patience_says_by_how_much(stage: _Stage) -> None:
    late = control_pb2.Stage(door="nri", stage="start", timeout_us=1, headroom_us=-3_000_000)
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(stages=[late]))
    assert "-3000" in stage.run("status").stdout.splitlines()[-1].split()


def test_a_status_without_stages_has_no_table_of_them(stage: _Stage) -> None:
    stage.serve("GetStatus", lambda: control_pb2.GetStatusResponse(pid=77))
    assert "HEADROOM" not in stage.run("status").stdout


def test_coverage_is_there_once_a_start_was_seen(stage: _Stage) -> None:
    answer = control_pb2.GetStatusResponse(pid=77)
    stage.serve("GetStatus", lambda: answer)
    assert "hook_coverage_ratio" not in json.loads(stage.run("status", "-o", "json").stdout)
    answer.hook_coverage_ratio = 0.0
    assert json.loads(stage.run("status", "-o", "json").stdout)["hook_coverage_ratio"] == 0.0


def test_unannounced_containers_count_as_events(stage: _Stage) -> None:
    unannounced = b'{"type":"unannounced","outcome":"identified"}\n'
    stage.stream(unannounced, b'{"type":"lost","count":1}\n', _EVENT % 1, _EVENT % 2)
    result = stage.run("events", "--count", "2")
    assert result.exit_code == 0
    assert result.stdout_bytes == unannounced + b'{"type":"lost","count":1}\n' + _EVENT % 1


def test_events_are_printed_as_they_come_up_to_a_count(stage: _Stage) -> None:
    lost = b'{"type":"lost","count":4}\n'
    whole = _EVENT % 1 + lost + _EVENT % 2 + _EVENT % 3
    stage.stream(whole[:10], whole[10:-5], whole[-5:])
    result = stage.run("events", "--count", "2")
    assert (result.exit_code, result.stderr) == (0, "listening\n")
    assert result.stdout_bytes == _EVENT % 1 + lost + _EVENT % 2


def test_too_few_events_in_time_are_a_failure_that_says_how_many(stage: _Stage) -> None:
    stage.stream(_EVENT % 1)
    result = stage.run("events", "--count", "2", "--timeout", "0.3")
    assert (result.exit_code, result.stdout_bytes) == (1, _EVENT % 1)
    assert result.stderr == "listening\n1 of 2 events came, then none for 0.3 s\n"


def test_a_quiet_time_ends_events_without_a_count(stage: _Stage) -> None:
    stage.stream(_EVENT % 1)
    result = stage.run("events", "--timeout", "0.3")
    assert (result.exit_code, result.stdout_bytes) == (0, _EVENT % 1)


def test_an_event_process_that_ends_is_no_agent(stage: _Stage) -> None:
    stage.stream(_EVENT % 1, keep=False)
    result = stage.run("events")
    assert (result.exit_code, result.stdout_bytes) == (3, _EVENT % 1)
    assert result.stderr == "listening\nthe agent ended the stream\n"


def test_the_run_directory_can_come_from_the_environment(stage: _Stage) -> None:
    stage.serve("ListPolicies", control_pb2.ListPoliciesResponse)
    result = CliRunner().invoke(main, ["policy", "list"], env={"PODGATE_RUN_DIR": str(stage.run_dir)})
    assert (result.exit_code, stage.control.calls) == (0, [("ListPolicies", b"")])


def test_a_socket_that_nobody_listens_on_is_no_agent(stage: _Stage) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(stage.run_dir / "agent.sock"))
    dead.close()
    assert "Connection refused" in stage.run("status").stderr
