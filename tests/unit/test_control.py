# SPDX-License-Identifier: Apache-2.0
"""The Control service: policies and their state as messages, and faults as statuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from agent.api import control_pb2
from agent.control import ControlEndpoint
from agent.hooks.calls import CallError
from agent.hooks.peer import Peer
from agent.policies import PolicyStore
from agent.policy.gaps import Gap, GapReason
from agent.policy.model import PolicyKey, PolicyMode, Source
from agent.policy.placed import PlacedPolicy
from agent.policy.reader import parse_policies
from agent.policy_entry import Change, Entry, NoSuchPolicy, Outcome, PolicyRejected
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

    def memory(self) -> Counter[int]:
        return Counter({100: 4096})

    def find(self, key: PolicyKey) -> Entry:
        found = [entry for entry in self.listed if entry.policy.key == key]
        if not found:
            raise NoSuchPolicy(key, (entry.policy.key for entry in self.listed))
        return found[0]

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

    def delete(self, keys: Iterable[PolicyKey]) -> tuple[Outcome, ...]:
        (key,) = keys
        if key != PolicyKey("shop", "guard"):
            raise NoSuchPolicy(key, ())
        return (Outcome(_entry(), Change.DELETED, 3),)

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
        policy = control_pb2.PolicyName(name=name, namespace=namespace)
        request = control_pb2.DeletePoliciesRequest(policies=[policy]).SerializeToString()
        return control_pb2.DeletePoliciesResponse.FromString(self.call("DeletePolicies", request)).policies[0]

    def set_mode(self, mode: str) -> control_pb2.PolicyStatus:
        request = control_pb2.SetPolicyModeRequest(name="guard", namespace="shop", mode=mode).SerializeToString()
        return control_pb2.SetPolicyModeResponse.FromString(self.call("SetPolicyMode", request)).policy

    def get(self, name: str, *, c: bool = False) -> control_pb2.GetPolicyResponse:
        request = control_pb2.GetPolicyRequest(name=name, namespace="shop", c=c).SerializeToString()
        return control_pb2.GetPolicyResponse.FromString(self.call("GetPolicy", request))

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
            attached=["tracepoint syscalls/sys_enter_access", "tracepoint syscalls/sys_enter_lseek"],
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
            kernel_memory_bytes=4096,
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


def test_a_policy_is_told_whole(control: _Control) -> None:
    control.store.listed = (_entry(),)
    found = control.get("guard")
    assert (found.policy.name, found.policy.kernel_memory_bytes, found.c) == ("guard", 4096, b"")
    document = json.loads(found.document)
    assert [hook["calls"] for hook in document["hooks"]] == [["lseek"], ["access"]]


def test_the_c_of_a_policy_has_its_own_numbers(control: _Control) -> None:
    control.store.listed = (_entry(),)
    text = control.get("guard", c=True).c.decode()
    assert re.findall(r"^int (pg_\w+)\(", text, re.MULTILINE) == ["pg_enter_1_0", "pg_enter_2_0"]
    assert set(re.findall(r"pg_hit\(call, (\d+),", text)) == {"100"}


def test_a_policy_that_is_not_in_force_has_no_c(control: _Control) -> None:
    control.store.listed = (_entry(placed=False),)
    assert control.get("guard").policy.state == "load_error"
    refusal = (Code.FAILED_PRECONDITION, "shop/guard is not in force: no")
    assert _refusal(lambda: control.get("guard", c=True)) == refusal
    assert _refusal(lambda: control.get("other")) == (
        Code.NOT_FOUND,
        "no policy shop/other here; there are: shop/guard",
    )


def test_more_text_than_an_answer_has_room_for_is_refused(control: _Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.store.listed = (_entry(),)
    monkeypatch.setattr("agent.control.MAX_TEXT", 1000)
    code, text = _refusal(lambda: control.get("guard", c=True))
    assert code is Code.RESOURCE_EXHAUSTED
    assert text.endswith("bytes are more than the 1,000 of an answer: use podgate policy show with its file")


def test_what_is_not_enforced_is_told_with_its_reason(control: _Control) -> None:
    gap = Gap("kprobes[1]", "fork", GapReason.CALL_NOT_FOUND, Source("guard.yaml", 9, 5))
    control.store.listed = (replace(_entry(), gaps=(gap,)),)
    (status,) = control.list()
    assert status.state == "partial"
    assert list(status.not_enforced) == [
        control_pb2.NotEnforced(section="kprobes[1]", name="fork", reason="call_not_found", source="guard.yaml:9:5")
    ]


def test_the_status_is_what_the_agent_says(control: _Control) -> None:
    assert control_pb2.GetStatusResponse.FromString(control.call("GetStatus", b"")).pid == 77


@pytest.mark.parametrize("method", ["AddPolicies", "DeletePolicies", "SetPolicyMode", "GetPolicy"])
def test_control_refuses_junk(control: _Control, method: str) -> None:
    assert _refusal(lambda: control.call(method, _JUNK))[0] is Code.INVALID_ARGUMENT


def test_what_the_service_does_not_have_is_unimplemented(control: _Control) -> None:
    assert _refusal(lambda: control.call("Nothing", b""))[0] is Code.UNIMPLEMENTED
