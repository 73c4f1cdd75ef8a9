# SPDX-License-Identifier: Apache-2.0
"""The agent's two services: messages to calls, and what went wrong to codes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api import control_pb2
from agent.control import ControlEndpoint
from agent.hooks.endpoint import (
    CODES,
    MAX_CONTAINERS,
    MAX_ID,
    MAX_LABELS_BYTES,
    MAX_NAME,
    CallError,
    HookEndpoint,
    parse_start,
)
from agent.hooks.errors import HookError, Reason
from agent.hooks.gate import Bound, Gate, Start
from agent.policies import Change, Entry, NoSuchPolicy, Outcome, PolicyRejected, PolicyStore
from agent.policy.model import PolicyKey
from agent.policy.plan import PlacedPolicy
from agent.policy.reader import parse_policies
from agent.workload.identity import CgroupId, ContainerId, PolicyId, WorkloadId
from nri_plugin.ttrpc import Code
from rthook.api import hook_pb2
from tests.support.wait import wait_until
from tests.support.workload import Identity, message

_JUNK = b"\xff\xff\xff"


@dataclass
class _Gate:
    """Stands for Gate. refuse: the containers that it refuses, with the reason."""

    outcomes: Counter[str] = field(default_factory=Counter)
    starts: list[Start] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refuse: dict[str, Reason] = field(default_factory=dict)
    nested: list[bool] = field(default_factory=list)
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
        return container == "c1"

    def retain(self, containers: Iterable[ContainerId], mark: int) -> int:
        self.kept, self.retained_since = list(containers), mark
        return 5


class _Hook:
    def __init__(self) -> None:
        self.gate = _Gate()
        self.endpoint = HookEndpoint(cast(Gate, self.gate))

    def bind(self, container: hook_pb2.Container) -> hook_pb2.BindResponse:
        request = hook_pb2.BindRequest(container=container)
        return hook_pb2.BindResponse.FromString(self.endpoint.call("Bind", request.SerializeToString()))

    def synchronize(self, *containers: hook_pb2.Container) -> hook_pb2.SynchronizeResponse:
        request = hook_pb2.SynchronizeRequest(containers=containers).SerializeToString()
        return hook_pb2.SynchronizeResponse.FromString(self.endpoint.call("Synchronize", request))


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
    }
    assert set(CODES) == set(Reason)
    assert _refusal(lambda: hook.bind(_container())) == (
        expected.get(reason, Code.FAILED_PRECONDITION),
        "container c1: no",
    )
    assert hook.gate.outcomes == {}, "the gate counts what it refuses"


@pytest.mark.parametrize("method", ["Bind", "Unbind", "Synchronize"])
def test_junk_is_an_invalid_argument_and_counted(hook: _Hook, method: str) -> None:
    assert _refusal(lambda: hook.endpoint.call(method, _JUNK))[0] is Code.INVALID_ARGUMENT
    assert hook.gate.outcomes == {"invalid": 1}


@given(st.sampled_from(("Bind", "Unbind", "Synchronize")), st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(method: str, junk: bytes) -> None:
    hook = _Hook()
    code = Code.OK
    try:
        hook.endpoint.call(method, junk)
    except CallError as error:
        code = error.code
    assert code in (Code.OK, Code.INVALID_ARGUMENT)
    assert hook.gate.starts == []


def test_an_unknown_method_is_unimplemented(hook: _Hook) -> None:
    code, text = _refusal(lambda: hook.endpoint.call("Boom", b""))
    assert (code, text) == (Code.UNIMPLEMENTED, "no method Boom in podgate.hook.v1.RuntimeHook")


@pytest.mark.parametrize(("container", "was_bound"), [("c1", True), ("c2", False)])
def test_unbinding_tells_whether_it_was_bound(hook: _Hook, container: str, was_bound: bool) -> None:
    request = hook_pb2.UnbindRequest(container_id=container).SerializeToString()
    assert hook_pb2.UnbindResponse.FromString(hook.endpoint.call("Unbind", request)).was_bound is was_bound


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
    hook.endpoint.call("Synchronize", request.SerializeToString())
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
    code, _ = _refusal(lambda: hook.endpoint.call("Synchronize", request.SerializeToString()))
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
    code, text = _refusal(lambda: hook.endpoint.call("Synchronize", request.SerializeToString()))
    assert (code, text) == (Code.INVALID_ARGUMENT, "10001 containers, at most 10000")
    assert hook.gate.starts == []


_POLICY = b"""
apiVersion: cilium.io/v1alpha1
kind: TracingPolicyNamespaced
metadata: {name: guard, namespace: shop}
spec: {kprobes: [{call: sys_lseek, args: [{index: 0, type: int}]}, {call: sys_access}]}
"""


@dataclass
class _Store:
    """Stands for PolicyStore. error: what the next change raises."""

    listed: tuple[Entry, ...] = ()
    files: list[str] = field(default_factory=list)
    error: Exception | None = None

    def entries(self) -> tuple[Entry, ...]:
        return self.listed

    def add_text(self, text: bytes, file: str) -> tuple[Outcome, ...]:
        self.files.append(file)
        policies = parse_policies(text, file)
        if self.error:
            raise self.error
        return tuple(Outcome(_entry(), Change.ADDED, 12) for _ in policies)

    def delete(self, key: PolicyKey) -> Outcome:
        if key != PolicyKey("shop", "guard"):
            raise NoSuchPolicy(key, ())
        return Outcome(_entry(), Change.DELETED, 3)


def _entry(placed: bool = True) -> Entry:
    policy = parse_policies(_POLICY, "guard.yaml")[0]
    return Entry(policy, PlacedPolicy(policy, PolicyId(4), 9) if placed else None, "" if placed else "no")


class _Control:
    def __init__(self) -> None:
        self.store = _Store()
        status = control_pb2.GetStatusResponse(pid=77)
        store = cast(PolicyStore, self.store)
        self.endpoint = ControlEndpoint(store, lambda _: 6, ("32-bit calls are not covered",), lambda: status)

    def add(self, text: bytes = _POLICY, file: str = "guard.yaml") -> control_pb2.AddPoliciesResponse:
        request = control_pb2.AddPoliciesRequest(file=file, text=text).SerializeToString()
        return control_pb2.AddPoliciesResponse.FromString(self.endpoint.call("AddPolicies", request))

    def delete(self, name: str, namespace: str) -> control_pb2.PolicyStatus:
        request = control_pb2.DeletePolicyRequest(name=name, namespace=namespace).SerializeToString()
        return control_pb2.DeletePolicyResponse.FromString(self.endpoint.call("DeletePolicy", request)).policy


@pytest.fixture
def control() -> _Control:
    return _Control()


def test_an_added_policy_is_told_with_what_it_does_here(control: _Control) -> None:
    assert list(control.add().policies) == [
        control_pb2.PolicyStatus(
            name="guard",
            namespace="shop",
            kind="TracingPolicyNamespaced",
            state="enabled",
            system_calls=["access", "lseek"],
            containers=6,
            notes=["32-bit calls are not covered"],
            source="guard.yaml:2:1",
            change="added",
            milliseconds=12,
        )
    ]


def test_a_text_without_a_name_has_one_in_messages(control: _Control) -> None:
    control.add(file="")
    control.add(file="x" * 5000)
    assert control.store.files == ["<input>", "x" * 4096]


def test_a_policys_faults_are_an_invalid_argument_with_their_places(control: _Control) -> None:
    code, text = _refusal(lambda: control.add(b"kind: Pod", "f.yaml"))
    assert code is Code.INVALID_ARGUMENT
    assert text.startswith("f.yaml:1:")


def test_what_the_kernel_refuses_is_a_failed_precondition(control: _Control) -> None:
    control.store.error = PolicyRejected("the verifier's words")
    assert _refusal(control.add) == (Code.FAILED_PRECONDITION, "the verifier's words")


def test_a_deleted_policy_selects_nobody(control: _Control) -> None:
    status = control.delete("guard", "shop")
    assert (status.state, status.change, status.containers, status.milliseconds) == ("deleted", "deleted", 0, 3)


def test_a_policy_that_is_not_there_is_not_found(control: _Control) -> None:
    code, text = _refusal(lambda: control.delete("guard", ""))
    assert (code, text) == (Code.NOT_FOUND, "no policy guard here; there are: none")


def test_policies_are_listed_with_their_errors(control: _Control) -> None:
    control.store.listed = (_entry(), _entry(placed=False))
    answer = control_pb2.ListPoliciesResponse.FromString(control.endpoint.call("ListPolicies", b""))
    rows = [(each.state, each.error, each.containers, list(each.notes)) for each in answer.policies]
    assert rows == [("enabled", "", 6, ["32-bit calls are not covered"]), ("load_error", "no", 0, [])]


def test_the_status_is_what_the_agent_says(control: _Control) -> None:
    assert control_pb2.GetStatusResponse.FromString(control.endpoint.call("GetStatus", b"")).pid == 77


@pytest.mark.parametrize("method", ["AddPolicies", "DeletePolicy"])
def test_control_refuses_junk(control: _Control, method: str) -> None:
    assert _refusal(lambda: control.endpoint.call(method, _JUNK))[0] is Code.INVALID_ARGUMENT


def test_control_refuses_an_unknown_method(control: _Control) -> None:
    assert _refusal(lambda: control.endpoint.call("Boom", b""))[0] is Code.UNIMPLEMENTED
