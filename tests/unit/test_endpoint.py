# SPDX-License-Identifier: Apache-2.0
"""The agent's two services: messages to calls, and what went wrong to codes."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.announced import AnnouncedStarts
from agent.hooks.calls import CallError
from agent.hooks.endpoint import CODES, MAX_CONTAINERS, HookEndpoint
from agent.hooks.errors import HookError, LookupFailed, Reason
from agent.hooks.gate import Bound, Gate, Start
from agent.hooks.limits import MAX_ID, MAX_IMAGE, MAX_LABELS_BYTES, MAX_NAME, MAX_PATH
from agent.hooks.oci import OciStarts
from agent.hooks.peer import Peer
from agent.hooks.starts import parse_start
from agent.kernel.cgroup import CgroupFinder
from agent.kernel.cgroup_path import AnnouncedCgroup
from agent.kernel.errors import CgroupError
from agent.workload.identity import CgroupId, ContainerId, Door, WorkloadId
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from rthook.latency import BUCKETS
from tests.support.procfs import FakeNode
from tests.support.wait import wait_until
from tests.support.workload import Identity, message

_JUNK = b"\xff\xff\xff"
_METHODS = ("Bind", "Unbind", "Synchronize", "Hook", "Announce", "Report")
_HOOK = Peer(71, 0, 0)
_ANNOTATIONS = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-id": "s1",
    "io.kubernetes.cri.container-name": "main",
}
_STATE = b'{"id": "c1", "pid": 1, "bundle": "/b", "status": "creating"}'


@dataclass
class _Gate:
    """Stands for Gate. refuse: the containers that it refuses, with the reason."""

    outcomes: Counter[str] = field(default_factory=Counter)
    starts: list[Start] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refuse: dict[str, Reason] = field(default_factory=dict)
    nested: list[bool] = field(default_factory=list)
    unbound: list[str] = field(default_factory=list)
    linked: int = 0
    retained_since: int = 0
    marks: int = 0
    late: Callable[[], object] = str

    def bind(self, start: Start, *, nested: bool = True) -> Bound:
        container = start.identity.container_id
        self.late()
        if container in self.refuse:
            raise HookError(self.refuse[container], f"container {container}: no")
        self.starts.append(start)
        self.nested.append(nested)
        return Bound(CgroupId(1 << 40), WorkloadId(2), 3, 4)

    def mark(self) -> int:
        self.marks += 1
        return 70 + self.marks

    def link_nested(self) -> None:
        self.linked += 1

    def unbind(self, container: ContainerId) -> bool:
        self.unbound.append(container)
        return container == "c1"

    def retain(self, containers: Iterable[ContainerId], mark: int) -> int:
        self.kept, self.retained_since = list(containers), mark
        return 5


class _Labels:
    """Stands for the container runtime."""

    def labels_of(self, sandbox_id: str, _namespace: str, _name: str, /) -> dict[str, str]:
        if sandbox_id != "s1":
            raise LookupFailed(f"no sandbox {sandbox_id}")
        return {"a": "1"}


class _Node:
    """A container c1 that is being created, with a hook's process and a bundle."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeNode(folder)
        self.fake.process(70, "/pods/c1", parent=1)
        self.fake.process(_HOOK.pid, "/pods/c1", parent=70)
        self.config = self.fake.host / "b/config.json"
        self.config.parent.mkdir()
        self.write(linux={"cgroupsPath": "/pods/c1"}, annotations=_ANNOTATIONS)

    def write(self, **document: object) -> None:
        self.config.write_text(json.dumps(document))


class _Hook:
    def __init__(self, node: _Node | None = None) -> None:
        self.gate = _Gate()
        procfs = node.fake.procfs if node else Path("/nowhere")
        cgroups = node.fake.cgroups if node else Path("/nowhere")
        oci = OciStarts(CgroupFinder(cgroups, procfs), _Labels(), procfs)
        announced = AnnouncedStarts(self._find, _Labels())
        self.endpoint = HookEndpoint(cast(Gate, self.gate), oci, announced)

    def _find(self, path: str) -> AnnouncedCgroup:
        if path != "/pods/c1":
            raise CgroupError(f"no cgroup {path}")
        return AnnouncedCgroup(CgroupId(7), path, 70)

    def call(self, method: str, payload: bytes) -> bytes:
        """As the server does it."""
        try:
            answer = self.endpoint.call(method, payload, _HOOK)
        except CallError as error:
            if error.after:
                error.after()
            raise
        if answer.after:
            answer.after()
        return answer.payload

    def bind(self, container: hook_pb2.Container) -> hook_pb2.BindResponse:
        request = hook_pb2.BindRequest(container=container)
        return hook_pb2.BindResponse.FromString(self.call("Bind", request.SerializeToString()))

    def synchronize(self, *containers: hook_pb2.Container) -> hook_pb2.SynchronizeResponse:
        request = hook_pb2.SynchronizeRequest(containers=containers).SerializeToString()
        return hook_pb2.SynchronizeResponse.FromString(self.call("Synchronize", request))

    def hook(
        self, stage: str = "createContainer", runtime: str = "containerd", state: bytes = _STATE
    ) -> hook_pb2.HookResponse:
        request = hook_pb2.HookRequest(stage=stage, runtime=runtime, state=state).SerializeToString()
        return hook_pb2.HookResponse.FromString(self.call("Hook", request))

    def announce(self, **members: Any) -> hook_pb2.BindResponse:
        known = {"id": "c1", "cgroups_path": "/pods/c1", "annotations": _ANNOTATIONS}
        request = hook_pb2.AnnounceRequest(**(known | members)).SerializeToString()
        return hook_pb2.BindResponse.FromString(self.call("Announce", request))

    def report(self, *stages: hook_pb2.StageStats, door: str = "nri") -> None:
        self.call("Report", hook_pb2.ReportRequest(door=door, stages=stages).SerializeToString())


def _container(phase: int = hook_pb2.PHASE_HELD, /, **fields: object) -> hook_pb2.Container:
    labels = (("b", "2"), ("a", "1"))
    return message(9, Identity("shop", labels, "web-0"), phase, **({"id": "c1"} | fields))


@pytest.fixture
def hook() -> _Hook:
    return _Hook()


def _refusal(call: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.code, caught.value.message


def test_a_container_is_bound_with_all_that_was_said_of_it(hook: _Hook) -> None:
    answer = hook.bind(_container(pod_uid="u", cgroups_path="/p", image="i"))
    assert (answer.cgroup_id, answer.workload_id, answer.policies, answer.bind_us) == (1 << 40, 2, 3, 4)
    (start,) = hook.gate.starts
    assert (start.pid, start.cgroups_path, start.held) == (9, "/p", True)
    who = start.identity
    assert (who.container_id, who.container_name, who.namespace, who.pod_name) == ("c1", "main", "shop", "web-0")
    assert (who.pod_uid, who.labels, who.image) == ("u", (("a", "1"), ("b", "2")), "i")


def test_a_running_container_is_not_held() -> None:
    assert not parse_start(_container(hook_pb2.PHASE_RUNNING)).held


def test_a_sandbox_names_its_pods_cgroup() -> None:
    start = parse_start(_container(kind=hook_pb2.KIND_SANDBOX, cgroup_parent="/pods"))
    assert (start.sandbox, start.cgroup_parent, start.door) == (True, "/pods", Door.NRI)
    assert start.identity.sandbox
    start = parse_start(_container(cgroup_parent="/pods"))
    assert (start.sandbox, start.cgroup_parent) == (False, "")
    assert not start.identity.sandbox


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, Reason.UNIDENTIFIED),
        ({"pod_name": ""}, Reason.UNIDENTIFIED),
        ({"pod_namespace": ""}, Reason.UNIDENTIFIED),
        ({"phase": hook_pb2.PHASE_UNSPECIFIED}, Reason.INVALID),
        ({"phase": 7}, Reason.INVALID),
        ({"id": "x" * (MAX_ID + 1)}, Reason.INVALID),
        ({"pod_name": "x" * (MAX_NAME + 1)}, Reason.INVALID),
        ({"pod_namespace": "x" * (MAX_NAME + 1)}, Reason.INVALID),
        ({"name": "x" * (MAX_NAME + 1)}, Reason.INVALID),
        ({"pod_uid": "x" * (MAX_NAME + 1)}, Reason.INVALID),
        ({"image": "x" * (MAX_IMAGE + 1)}, Reason.INVALID),
        ({"cgroups_path": "x" * MAX_PATH}, Reason.INVALID),
        ({"kind": hook_pb2.KIND_SANDBOX, "cgroup_parent": "x" * MAX_PATH}, Reason.INVALID),
        ({"kind": 2}, Reason.INVALID),
        ({"pod_labels": {"k": "x" * MAX_LABELS_BYTES}}, Reason.INVALID),
    ],
)
def test_a_message_that_does_not_say_what_it_must_is_refused_and_counted(
    hook: _Hook, fields: dict[str, object], reason: Reason
) -> None:
    code, _ = _refusal(lambda: hook.bind(_container(**fields)))
    assert code is Code.INVALID_ARGUMENT
    assert (hook.gate.starts, hook.gate.outcomes) == ([], {reason.value: 1})


def test_names_at_their_limits_are_taken(hook: _Hook) -> None:
    labels = {"k": "x" * (MAX_LABELS_BYTES - 1)}
    hook.bind(_container(id="x" * MAX_ID, pod_name="p" * MAX_NAME, name="n" * MAX_NAME, pod_labels=labels))
    assert len(hook.gate.starts) == 1


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_code_and_text(hook: _Hook, reason: Reason) -> None:
    hook.gate.refuse["c1"] = reason
    expected = {
        Reason.INVALID: Code.INVALID_ARGUMENT,
        Reason.UNIDENTIFIED: Code.INVALID_ARGUMENT,
        Reason.KERNEL: Code.INTERNAL,
        Reason.DENIED: Code.PERMISSION_DENIED,
    }
    assert set(CODES) == set(Reason)
    assert _refusal(lambda: hook.bind(_container())) == (
        expected.get(reason, Code.FAILED_PRECONDITION),
        "container c1: no",
    )
    assert hook.gate.outcomes == {}, "the gate counts what it refuses"


@pytest.mark.parametrize("method", _METHODS)
def test_junk_is_an_invalid_argument_and_counted(hook: _Hook, method: str) -> None:
    assert _refusal(lambda: hook.call(method, _JUNK))[0] is Code.INVALID_ARGUMENT
    assert hook.gate.outcomes == {"invalid": 1}


@given(st.sampled_from(_METHODS), st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(method: str, junk: bytes) -> None:
    hook = _Hook()
    code = Code.OK
    try:
        hook.call(method, junk)
    except CallError as error:
        code = error.code
    assert code in (Code.OK, Code.INVALID_ARGUMENT)
    assert hook.gate.starts == []


def test_an_unknown_method_is_unimplemented(hook: _Hook) -> None:
    code, text = _refusal(lambda: hook.call("Boom", b""))
    assert (code, text) == (Code.UNIMPLEMENTED, "no method Boom in podgate.hook.v1.RuntimeHook")


@pytest.mark.parametrize(("container", "was_bound"), [("c1", True), ("c2", False)])
def test_unbinding_tells_whether_it_was_bound(hook: _Hook, container: str, was_bound: bool) -> None:
    request = hook_pb2.UnbindRequest(container_id=container).SerializeToString()
    assert hook_pb2.UnbindResponse.FromString(hook.call("Unbind", request)).was_bound is was_bound


def test_synchronize_binds_what_it_can_and_names_the_rest(hook: _Hook) -> None:
    hook.gate.refuse["c2"] = Reason.NO_CGROUP
    answer = hook.synchronize(_container(), _container(id="c2"), _container(id="c3", pod_name=""), _container(id="c4"))
    assert (answer.bound, answer.forgotten) == (2, 5)
    assert [(each.container_id, each.reason) for each in answer.refused] == [
        ("c2", "container c2: no"),
        ("c3", "container c3: no pod is named"),
    ]
    assert hook.gate.outcomes == {"unidentified": 1}
    assert {"c1", "c4"} <= set(hook.gate.kept)
    assert (hook.gate.nested, hook.gate.linked) == ([False, False], 1)


def test_what_started_since_a_synchronize_began_is_not_forgotten_by_it(hook: _Hook) -> None:
    hook.synchronize(_container())
    assert hook.gate.retained_since == 71


def test_containers_that_cannot_be_described_are_kept(hook: _Hook) -> None:
    request = hook_pb2.SynchronizeRequest(containers=[_container()], keep=["c8"])
    hook.call("Synchronize", request.SerializeToString())
    assert hook.gate.kept == ["c1", "c8"]


def test_a_newer_list_ends_an_older_one(hook: _Hook) -> None:
    """The caller of the older one has given up: it must not forget what the newer one names."""
    newer: list[threading.Thread] = []

    def ask_again() -> None:
        if not newer:
            newer.append(threading.Thread(target=hook.synchronize, args=(_container(id="c3"),)))
            newer[0].start()
            wait_until(lambda: hook.endpoint.lists == 2, 5.0, "the second list")

    hook.gate.late = ask_again
    request = hook_pb2.SynchronizeRequest(containers=[_container(), _container(id="c2")])
    code, _ = _refusal(lambda: hook.call("Synchronize", request.SerializeToString()))
    newer[0].join(5.0)
    assert code is Code.ABORTED
    assert [start.identity.container_id for start in hook.gate.starts] == ["c1", "c3"]
    assert hook.gate.kept == ["c3"]


def test_an_empty_synchronize_forgets_everything(hook: _Hook) -> None:
    assert hook.synchronize().forgotten == 5
    assert hook.gate.kept == []


def test_more_containers_than_a_node_has_are_refused_whole(hook: _Hook) -> None:
    request = hook_pb2.SynchronizeRequest()
    for _ in range(MAX_CONTAINERS + 1):
        request.containers.add()
    code, text = _refusal(lambda: hook.call("Synchronize", request.SerializeToString()))
    assert (code, text) == (Code.INVALID_ARGUMENT, "10001 containers, at most 10000")
    assert hook.gate.starts == []


@pytest.fixture
def node(tmp_path: Path) -> _Node:
    return _Node(tmp_path)


def test_a_hooks_container_is_bound(node: _Node) -> None:
    hook = _Hook(node)
    answer = hook.hook()
    assert (answer.cgroup_id, answer.workload_id, answer.policies, answer.bind_us) == (1 << 40, 2, 3, 4)
    (start,) = hook.gate.starts
    assert (start.pid, start.held, start.door, start.identity.namespace) == (70, True, Door.OCI, "shop")
    assert start.identity.labels == (("a", "1"),)


def test_after_the_stop_a_hooks_container_is_forgotten(hook: _Hook) -> None:
    hook.hook("poststop", state=b'{"id": "c1"}')
    assert (hook.gate.unbound, hook.gate.starts) == (["c1"], [])
    assert hook.endpoint.stages["hook:poststop"].outcomes == {"unbound": 1}


@pytest.mark.parametrize(
    ("call", "code", "reason", "words"),
    [
        ({"stage": "startContainer"}, Code.INVALID_ARGUMENT, "invalid", "stage 'startContainer' is none of createRu"),
        ({"stage": ""}, Code.INVALID_ARGUMENT, "invalid", "stage '' is none of"),
        ({"runtime": "docker"}, Code.INVALID_ARGUMENT, "invalid", "runtime 'docker' is none of containerd, crio"),
        ({"runtime": ""}, Code.INVALID_ARGUMENT, "invalid", "runtime '' is none of"),
        ({"state": b""}, Code.INVALID_ARGUMENT, "invalid", "state: is not JSON"),
        ({"state": b"\xff"}, Code.INVALID_ARGUMENT, "invalid", "state: is not UTF-8 at byte 0"),
        ({"state": b"[" * 100_000}, Code.INVALID_ARGUMENT, "invalid", "state: is nested too deeply"),
        ({"state": b'{"id": "c1"}'}, Code.FAILED_PRECONDITION, "no_spec", "state at /bundle: is missing"),
        ({"state": b'{"id": "c1", "bundle": "/x"}'}, Code.FAILED_PRECONDITION, "no_spec", "No such file"),
        ({"stage": "createRuntime"}, Code.INVALID_ARGUMENT, "invalid", "state at /pid: is 1"),
        ({"stage": "poststop", "state": b"{}"}, Code.INVALID_ARGUMENT, "invalid", "state at /id"),
    ],
)
def test_a_hooks_call_that_cannot_be_right_is_refused_and_counted(
    node: _Node, call: dict[str, Any], code: Code, reason: str, words: str
) -> None:
    hook = _Hook(node)
    answered, text = _refusal(lambda: hook.hook(**call))
    assert (answered, words in text) == (code, True)
    assert (hook.gate.outcomes, hook.gate.starts) == ({reason: 1}, [])


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"linux": {"cgroupsPath": "/pods/c2"}, "annotations": _ANNOTATIONS}, "no_cgroup"),
        ({"linux": {"cgroupsPath": 5}}, "no_spec"),
        ({"annotations": {"k": 5}}, "no_spec"),
        ({"annotations": _ANNOTATIONS | {"io.kubernetes.cri.sandbox-name": "x" * (1 << 20)}}, "invalid"),
        ({"annotations": {"io.kubernetes.cri.container-type": "container"}}, "unidentified"),
        (
            {
                "linux": {"cgroupsPath": "/pods/c1"},
                "annotations": _ANNOTATIONS | {"io.kubernetes.cri.sandbox-id": "s2"},
            },
            "no_labels",
        ),
    ],
)
def test_a_bundle_that_cannot_be_right_is_refused_and_counted(
    node: _Node, document: dict[str, object], reason: str
) -> None:
    node.write(**document)
    hook = _Hook(node)
    _refusal(hook.hook)
    assert (hook.gate.outcomes, hook.gate.starts) == ({reason: 1}, [])
    assert hook.endpoint.stages["hook:createContainer"].outcomes == {reason: 1}


def test_what_the_gate_refuses_is_counted_there_alone(node: _Node) -> None:
    hook = _Hook(node)
    hook.gate.refuse["c1"] = Reason.KERNEL
    assert _refusal(hook.hook) == (Code.INTERNAL, "container c1: no")
    assert hook.gate.outcomes == {}
    assert hook.endpoint.stages["hook:createContainer"].outcomes == {"kernel": 1}


def test_an_announced_container_is_bound(hook: _Hook) -> None:
    assert hook.announce().workload_id == 2
    (start,) = hook.gate.starts
    assert (start.door, start.pid, start.identity.pod_name) == (Door.UPSTREAM, 70, "web-0")


def test_an_announced_container_that_is_not_there_is_refused_and_counted(hook: _Hook) -> None:
    assert _refusal(lambda: hook.announce(cgroups_path="/pods/c2")) == (
        Code.FAILED_PRECONDITION,
        "container c1: no cgroup /pods/c2",
    )
    assert hook.gate.outcomes == {"no_cgroup": 1}


def test_the_newest_report_is_kept(hook: _Hook) -> None:
    for number in (1, 2):
        hook.report(hook_pb2.StageStats(stage="StartContainer", buckets=[number] * BUCKETS))
    assert [stage.buckets[0] for stage in hook.endpoint.reports["nri"].stages] == [2]
    code, _ = _refusal(lambda: hook.report(door="mine"))
    assert (code, hook.gate.outcomes) == (Code.INVALID_ARGUMENT, {"invalid": 1})
    assert list(hook.endpoint.reports) == ["nri"]


def test_stages_are_measured(node: _Node) -> None:
    hook = _Hook(node)
    hook.bind(_container())
    _refusal(lambda: hook.bind(_container(id="")))
    hook.synchronize(_container())
    hook.announce()
    hook.hook()
    hook.call("Unbind", b"")
    stages = hook.endpoint.stages
    assert {name: stats.outcomes for name, stats in stages.items()} == {
        "bind": {"bound": 1, "unidentified": 1},
        "synchronize": {"synchronized": 1},
        "announce": {"bound": 1},
        "hook:createContainer": {"bound": 1},
    }
    assert abs(stages["bind"].last_success_us - time.time_ns() // 1000) < 60_000_000


def test_a_stage_without_a_success_has_none(hook: _Hook) -> None:
    _refusal(lambda: hook.bind(_container(id="")))
    hook.gate.late = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        hook.bind(_container())
    stats = hook.endpoint.stages["bind"]
    assert (stats.outcomes, stats.last_success_us) == ({"unidentified": 1, "internal": 1}, 0)


def _lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]


def test_a_decision_is_told_after_its_answer(node: _Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "podgate.hook")
    hook = _Hook(node)
    request = hook_pb2.HookRequest(stage="createContainer", runtime="containerd", state=_STATE)
    answer = hook.endpoint.call("Hook", request.SerializeToString(), _HOOK)
    assert caplog.records == []
    assert answer.after is not None
    answer.after()
    ((event, told),) = _lines(caplog)
    spent = told.pop("spent_us")
    assert spent >= 0
    assert (event, told) == (
        "bound",
        {
            "door": "oci",
            "stage": "hook:createContainer",
            "container_id": "c1",
            "namespace": "shop",
            "pod": "web-0",
            "reason": "",
            "detail": "",
        },
    )


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda hook: hook.bind(_container(phase=7)), ("nri", "bind", "c1", "shop", "web-0", "invalid")),
        (lambda hook: hook.hook(), ("oci", "hook:createContainer", "c1", "shop", "web-0", "no_labels")),
        (lambda hook: hook.hook(stage="x"), ("oci", "", "", "", "", "invalid")),
        (lambda hook: hook.announce(pod_name="x"), ("upstream", "announce", "c1", "", "x", "invalid")),
        (lambda hook: hook.call("Bind", _JUNK), ("nri", "bind", "", "", "", "invalid")),
        (lambda hook: hook.report(door="x" * 1000), ("nri", "", "", "", "", "invalid")),
    ],
)
def test_a_refusal_is_told_with_all_that_is_known(
    node: _Node, caplog: pytest.LogCaptureFixture, call: Callable[[_Hook], object], told: tuple[str, ...]
) -> None:
    node.write(linux={"cgroupsPath": "/pods/c1"}, annotations=_ANNOTATIONS | {"io.kubernetes.cri.sandbox-id": "s2"})
    hook = _Hook(node)
    _, text = _refusal(lambda: call(hook))
    ((event, line),) = _lines(caplog)
    names = ("door", "stage", "container_id", "namespace", "pod", "reason")
    assert (event, tuple(line[name] for name in names), line["detail"]) == ("refused", told, text)


def test_a_list_is_told_once_and_each_refusal_in_it(hook: _Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "podgate.hook")
    hook.synchronize(_container(), _container(id="c3", pod_name=""))
    (refused, why), (synchronized, counts) = _lines(caplog)
    assert (refused, why["container_id"], why["reason"]) == ("refused", "c3", "unidentified")
    assert (synchronized, counts["bound"], counts["refused"]) == ("synchronized", 1, 1)


def test_what_happens_a_thousand_times_a_day_and_changes_nothing_is_not_told(
    hook: _Hook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "podgate.hook")
    hook.call("Unbind", b"")
    hook.report()
    assert caplog.records == []
