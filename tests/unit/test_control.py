# SPDX-License-Identifier: Apache-2.0
"""The Control service: policies and their state as messages, and faults as statuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from agent.api import control_pb2
from agent.control import ControlEndpoint
from agent.hooks.calls import CallError
from agent.hooks.peer import Peer
from agent.policies import Change, Entry, NoSuchPolicy, Outcome, PolicyRejected, PolicyStore
from agent.policy.model import PolicyKey, PolicyMode
from agent.policy.plan import PlacedPolicy
from agent.policy.reader import parse_policies
from nri_plugin.ttrpc import Code
from tests.support.planning import place_resolved, resolve

_JUNK = b"\xff" * 16
_POLICY = b"""
apiVersion: cilium.io/v1alpha1
kind: TracingPolicyNamespaced
metadata: {name: guard, namespace: shop}
spec:
  kprobes:
  - call: sys_lseek
    args: [{index: 0, type: int}]
    selectors: [{}, {label: second, matchActions: [{action: Sigkill}]}]
  - {call: sys_access}
"""


@dataclass
class _Store:
    """Stands for PolicyStore. error: what the next change raises."""

    listed: tuple[Entry, ...] = ()
    files: list[str] = field(default_factory=list)
    modes: list[PolicyMode | None] = field(default_factory=list)
    error: Exception | None = None

    def entries(self) -> tuple[Entry, ...]:
        return self.listed

    def mode(self, entry: Entry) -> PolicyMode:
        return PolicyMode.MONITOR if entry.placed else PolicyMode.ENFORCE

    def counts(self, entry: Entry) -> Counter[str]:
        return Counter(post=2, monitor_sigkill=1) if entry.placed else Counter()

    def selector_counts(self, entry: Entry) -> dict[tuple[int, int, bool], Counter[str]]:
        return {(0, 1, True): Counter(monitor_sigkill=1), (0, 1, False): Counter(post=2)} if entry.placed else {}

    def add_text(self, text: bytes, file: str, mode: PolicyMode | None = None) -> tuple[Outcome, ...]:
        self.files.append(file)
        self.modes.append(mode)
        policies = parse_policies(text, file)
        if self.error:
            raise self.error
        return tuple(Outcome(_entry(), Change.ADDED, 12) for _ in policies)

    def delete(self, key: PolicyKey) -> Outcome:
        if key != PolicyKey("shop", "guard"):
            raise NoSuchPolicy(key, ())
        return Outcome(_entry(), Change.DELETED, 3)

    def set_mode(self, key: PolicyKey, mode: PolicyMode) -> Outcome:
        if self.error:
            raise self.error
        assert key == PolicyKey("shop", "guard")
        self.modes.append(mode)
        return Outcome(_entry(), Change.MODE, 1)


def _entry(placed: bool = True) -> Entry:
    (policy,) = parse_policies(_POLICY, "guard.yaml")
    known: PlacedPolicy = place_resolved(resolve([policy]))[0]
    return Entry(policy, known if placed else None, "" if placed else "no")


def _refusal(call: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(CallError) as caught:
        call()
    return caught.value.code, caught.value.message


class _Control:
    def __init__(self) -> None:
        self.store = _Store()
        status = control_pb2.GetStatusResponse(pid=77)
        store = cast(PolicyStore, self.store)
        self.endpoint = ControlEndpoint(store, lambda _: 6, ("32-bit calls are not covered",), lambda: status)

    def call(self, method: str, payload: bytes) -> bytes:
        return self.endpoint.call(method, payload, Peer(1, 0, 0)).payload

    def add(self, text: bytes = _POLICY, file: str = "guard.yaml", mode: str = "") -> control_pb2.AddPoliciesResponse:
        request = control_pb2.AddPoliciesRequest(file=file, text=text, mode=mode).SerializeToString()
        return control_pb2.AddPoliciesResponse.FromString(self.call("AddPolicies", request))

    def delete(self, name: str, namespace: str) -> control_pb2.PolicyStatus:
        request = control_pb2.DeletePolicyRequest(name=name, namespace=namespace).SerializeToString()
        return control_pb2.DeletePolicyResponse.FromString(self.call("DeletePolicy", request)).policy

    def set_mode(self, mode: str) -> control_pb2.PolicyStatus:
        request = control_pb2.SetPolicyModeRequest(name="guard", namespace="shop", mode=mode).SerializeToString()
        return control_pb2.SetPolicyModeResponse.FromString(self.call("SetPolicyMode", request)).policy

    def list(self) -> list[control_pb2.PolicyStatus]:
        return list(control_pb2.ListPoliciesResponse.FromString(self.call("ListPolicies", b"")).policies)


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
            hooks=["access", "lseek"],
            containers=6,
            notes=["32-bit calls are not covered"],
            source="guard.yaml:2:1",
            change="added",
            milliseconds=12,
            mode="monitor",
            actions={"post": 2, "monitor_sigkill": 1},
            selectors=[
                control_pb2.SelectorStatus(function="lseek", selector=1, label="second", actions={"post": 2}),
                control_pb2.SelectorStatus(
                    function="lseek", selector=1, label="second", at_return=True, actions={"monitor_sigkill": 1}
                ),
            ],
            id=100,
        )
    ]


def test_a_text_without_a_name_has_one_in_messages(control: _Control) -> None:
    control.add(file="")
    control.add(file="x" * 5000)
    assert control.store.files == ["<input>", "x" * 4096]


def test_a_mode_may_be_given_instead_of_what_the_text_says(control: _Control) -> None:
    for mode in ("", "monitor", "enforce"):
        control.add(mode=mode)
    assert control.store.modes == [None, PolicyMode.MONITOR, PolicyMode.ENFORCE]


def test_a_mode_is_switched(control: _Control) -> None:
    assert control.set_mode("monitor").change == "mode"
    assert control.store.modes == [PolicyMode.MONITOR]


@pytest.mark.parametrize("mode", ["", "Monitor", "monitor " * 1000])
def test_a_mode_that_is_none_is_an_invalid_argument(control: _Control, mode: str) -> None:
    code, text = _refusal(lambda: control.set_mode(mode))
    assert code is Code.INVALID_ARGUMENT
    assert text.endswith("enforce or monitor")
    assert len(text) < 200
    if mode:
        assert _refusal(lambda: control.add(mode=mode)) == (code, text)
    assert control.store.files == []


def test_a_policys_faults_are_an_invalid_argument_with_their_places(control: _Control) -> None:
    code, text = _refusal(lambda: control.add(b"kind: Pod", "f.yaml"))
    assert code is Code.INVALID_ARGUMENT
    assert text.startswith("f.yaml:1:")


def test_what_the_kernel_refuses_is_a_failed_precondition(control: _Control) -> None:
    control.store.error = PolicyRejected("the verifier's words")
    for change in (control.add, lambda: control.set_mode("monitor")):
        assert _refusal(change) == (Code.FAILED_PRECONDITION, "the verifier's words")


def test_a_deleted_policy_selects_nobody(control: _Control) -> None:
    status = control.delete("guard", "shop")
    assert (status.state, status.change, status.containers, status.milliseconds) == ("deleted", "deleted", 0, 3)


def test_a_policy_that_is_not_there_is_not_found(control: _Control) -> None:
    code, text = _refusal(lambda: control.delete("guard", ""))
    assert (code, text) == (Code.NOT_FOUND, "no policy guard here; there are: none")


def test_policies_are_listed_with_their_errors(control: _Control) -> None:
    control.store.listed = (_entry(), _entry(placed=False))
    rows = [(each.state, each.error, each.containers, list(each.notes)) for each in control.list()]
    assert rows == [("enabled", "", 6, ["32-bit calls are not covered"]), ("load_error", "no", 0, [])]


def test_a_policy_that_is_not_in_force_tells_what_it_says(control: _Control) -> None:
    control.store.listed = (_entry(placed=False),)
    (status,) = control.list()
    assert (list(status.hooks), status.mode, dict(status.actions)) == (["access", "lseek"], "enforce", {})
    assert (list(status.selectors), status.id) == ([], 0)


def test_the_status_is_what_the_agent_says(control: _Control) -> None:
    assert control_pb2.GetStatusResponse.FromString(control.call("GetStatus", b"")).pid == 77


@pytest.mark.parametrize("method", ["AddPolicies", "DeletePolicy", "SetPolicyMode"])
def test_control_refuses_junk(control: _Control, method: str) -> None:
    assert _refusal(lambda: control.call(method, _JUNK))[0] is Code.INVALID_ARGUMENT


def test_what_the_service_does_not_have_is_unimplemented(control: _Control) -> None:
    assert _refusal(lambda: control.call("Nothing", b""))[0] is Code.UNIMPLEMENTED
