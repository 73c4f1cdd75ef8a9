# SPDX-License-Identifier: Apache-2.0
"""The registry against a model that computes every binding from scratch, and a kernel that is a dictionary."""

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.policy.model import (
    NAMESPACE_LABEL,
    LabelOperator,
    LabelSelector,
    Policy,
    PolicyKind,
    Requirement,
    Source,
    WorkloadSelector,
)
from agent.workload.errors import NamespaceConflict, PolicyIdInUse
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, PodUid, PolicyId, WorkloadId
from agent.workload.operations import Binding, DeleteBinding, Operation, SetBinding, SetHost, SetQuarantine
from agent.workload.registry import Added, Changed, Registry
from agent.workload.scopes import scope_of, scope_of_selector

_NAMESPACES = ("shop", "bank")
_VALUES = ("x", "y", "")
_KEYS = ("app", "tier")
_NAMES = ("main", "side", "")
# Each image's repository, by hand; None is one that says none.
_IMAGES = {
    "nginx:1": "docker.io/library/nginx",
    "docker.io/library/nginx@sha256:0a": "docker.io/library/nginx",
    "registry:5000/team/app:2": "registry:5000/team/app",
    "registry:5000/team/app": "registry:5000/team/app",
    "team/app:2": "docker.io/team/app",
    "sha256:0a": None,
    "": None,
}
# What a policy's author writes, and what is meant.
_REPOSITORIES = {
    "nginx": "docker.io/library/nginx",
    "docker.io/nginx": "docker.io/library/nginx",
    "registry:5000/team/app": "registry:5000/team/app",
    "team/app": "docker.io/team/app",
}


def _requirements(keys: tuple[str, ...], values: tuple[str, ...]) -> st.SearchStrategy[Requirement]:
    some = st.sets(st.sampled_from(values), min_size=1, max_size=3).map(lambda each: tuple(sorted(each)))
    comparing = st.sampled_from((LabelOperator.IN, LabelOperator.NOT_IN))
    asking = st.sampled_from((LabelOperator.EXISTS, LabelOperator.DOES_NOT_EXIST))
    key = st.sampled_from(keys)
    return st.builds(Requirement, key, comparing, some) | st.builds(Requirement, key, asking)


def _selectors(requirements: st.SearchStrategy[Requirement]) -> st.SearchStrategy[LabelSelector]:
    return st.builds(LabelSelector, st.lists(requirements, max_size=2).map(tuple))


_workload_selectors = st.builds(
    WorkloadSelector,
    st.none() | _selectors(_requirements((*_KEYS, NAMESPACE_LABEL), (*_VALUES, *_NAMESPACES))),
    st.none() | _selectors(_requirements(("name",), ("main", "side")) | _requirements(("repo",), (*_REPOSITORIES,))),
    st.booleans(),
)
_policies = st.sampled_from((0, 1, 2, 700, 1023)).map(PolicyId)
_labels = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES)).map(
    lambda each: tuple(sorted(each.items()))
)
_containers = st.sampled_from(("a", "b", "c", "d")).map(ContainerId)
_cgroups = st.integers(1, 4).map(CgroupId)


@dataclass(frozen=True)
class _Declared:
    """What a bit stands for: a policy, or matchWorkloads of one of its selectors."""

    policy: Policy
    match: WorkloadSelector | None

    @property
    def workloads(self) -> WorkloadSelector:
        return self.policy.workloads if self.match is None or self.match == WorkloadSelector() else self.match


@st.composite
def _declared(draw: st.DrawFn) -> _Declared:
    namespace = draw(st.none() | st.sampled_from(_NAMESPACES))
    kind = PolicyKind.CLUSTER if namespace is None else PolicyKind.NAMESPACED
    workloads, match = draw(_workload_selectors), draw(st.none() | _workload_selectors)
    if namespace is not None:  # the language has no hostSelector there
        workloads, match = replace(workloads, host=False), match and replace(match, host=False)
    return _Declared(Policy(kind, "p", namespace, (), workloads, Source("f", 1, 1), ""), match)


@st.composite
def _identities(draw: st.DrawFn) -> ContainerIdentity:
    pod = draw(st.sampled_from(("p", "q")))
    # A pod mostly keeps its namespace; now and then a message is wrong about it. Some runtimes give no uid.
    namespace = draw(st.sampled_from({"p": ("shop", "shop", "bank"), "q": ("bank", "bank", "shop")}[pod]))
    uid = draw(st.sampled_from((f"{pod}-uid", f"{pod}-uid", "")))
    name, image = draw(st.sampled_from(_NAMES)), draw(st.sampled_from((*_IMAGES,)))
    sandbox = draw(st.booleans()) and draw(st.booleans())
    return ContainerIdentity(draw(_containers), name, namespace, pod, PodUid(uid), draw(_labels), image, sandbox)


@dataclass
class _Known:
    """What the model remembers of a container."""

    identity: ContainerIdentity
    cgroup: CgroupId
    workload: int
    armed: bool
    init_pid: int
    pod_level: bool


def _pod(identity: ContainerIdentity) -> tuple[str, ...]:
    return (identity.pod_uid,) if identity.pod_uid else (identity.namespace, identity.pod_name)


def _requirement_holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    present = requirement.key in labels
    among = present and labels[requirement.key] in requirement.values
    return {
        LabelOperator.IN: among,
        LabelOperator.NOT_IN: not among,
        LabelOperator.EXISTS: present,
        LabelOperator.DOES_NOT_EXIST: not present,
    }[requirement.operator]


def _may_hold(requirement: Requirement, value: str | None, sandbox: bool) -> bool:
    """A container's name or repository; None is one that nobody told."""
    if value is not None or sandbox:
        return _requirement_holds(requirement, {} if value is None else {requirement.key: value})
    return requirement.operator is not LabelOperator.DOES_NOT_EXIST


def _container_holds(requirement: Requirement, identity: ContainerIdentity) -> bool:
    if requirement.key == "name":
        return _may_hold(requirement, identity.container_name or None, identity.sandbox)
    meant = replace(requirement, values=tuple(_REPOSITORIES[value] for value in requirement.values))
    return _may_hold(meant, _IMAGES[identity.image], identity.sandbox)


def _selects(declared: _Declared, identity: ContainerIdentity) -> bool:
    """The table, for one container."""
    workloads = declared.workloads
    if declared.policy.namespace not in (None, identity.namespace):
        return False
    if workloads.host and workloads.pods is None and workloads.containers is None:
        return False
    labels = {**dict(identity.labels), NAMESPACE_LABEL: identity.namespace}
    pods = () if workloads.pods is None else workloads.pods.requirements
    containers = () if workloads.containers is None else workloads.containers.requirements
    return all(_requirement_holds(each, labels) for each in pods) and all(
        _container_holds(each, identity) for each in containers
    )


def _selects_host(declared: _Declared) -> bool:
    workloads = declared.workloads
    return declared.policy.namespace is None and (workloads.host or workloads == WorkloadSelector())


class RegistryMachine(RuleBasedStateMachine):
    """Random calls; after each, the dictionary kernel holds what the model computes from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.kernel: dict[CgroupId, Binding] = {}
        self.kernel_host = 0
        self.policies: dict[PolicyId, _Declared] = {}
        self.known: dict[ContainerId, _Known] = {}
        self.pod_labels: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {}
        self.workloads = 0

    def apply(self, operations: tuple[Operation, ...]) -> None:
        for operation in operations:
            match operation:
                case SetHost(policies):
                    self.kernel_host = policies
                case SetBinding(cgroup, binding):
                    self.kernel[cgroup] = binding
                case DeleteBinding(cgroup):
                    del self.kernel[cgroup]

    def rewrite(self, cgroups: tuple[CgroupId, ...]) -> None:
        """Write what changed; every cgroup named must really differ, or somebody wrote for nothing."""
        assert list(cgroups) == sorted(set(cgroups))
        for cgroup in cgroups:
            binding = self.registry.binding(cgroup)
            assert binding is not None
            assert self.kernel[cgroup] != binding
            self.kernel[cgroup] = binding

    def apply_changed(self, changed: Changed) -> None:
        if changed.host is not None:
            assert changed.host.policies != self.kernel_host
            self.apply((changed.host,))
        self.rewrite(changed.cgroups)

    @rule(policy=_policies, declared=_declared())
    def add_policy(self, policy: PolicyId, declared: _Declared) -> None:
        match = declared.match
        scope = scope_of(declared.policy) if match is None else scope_of_selector(declared.policy, match)
        if policy in self.policies:
            with pytest.raises(PolicyIdInUse):
                self.registry.add_policy(policy, scope)
            return
        self.policies[policy] = declared
        self.apply_changed(self.registry.add_policy(policy, scope))

    @rule(policy=_policies)
    def remove_policy(self, policy: PolicyId) -> None:
        self.policies.pop(policy, None)
        self.apply_changed(self.registry.remove_policy(policy))

    @rule(identity=_identities(), cgroup=_cgroups, pid=st.integers(0, 2), armed=st.booleans(), pod_level=st.booleans())
    def add_container(
        self, identity: ContainerIdentity, cgroup: CgroupId, pid: int, armed: bool, pod_level: bool
    ) -> None:
        namespaces = {
            other.identity.namespace for other in self.known.values() if _pod(other.identity) == _pod(identity)
        }
        if namespaces - {identity.namespace}:
            with pytest.raises(NamespaceConflict):
                self.registry.add_container(identity, cgroup, pid, armed)
            return
        told = identity
        identity = self._with_what_is_known(told)
        expected = self._expect(_Known(identity, cgroup, self.workloads + 1, armed, pid, pod_level))
        displaced = tuple(key for key, other in self.known.items() if other.cgroup == cgroup and other != expected)
        displaced = tuple(key for key in displaced if key != identity.container_id)
        for key in displaced:
            del self.known[key]
        self.known[identity.container_id] = expected
        self.pod_labels[_pod(identity)] = identity.labels
        added = self.registry.add_container(told, cgroup, pid, armed, pod_level=pod_level)
        self._check_added(added, expected, displaced)

    def _with_what_is_known(self, told: ContainerIdentity) -> ContainerIdentity:
        """Name and image are never taken back, as long as the container is in the same pod."""
        old = self.known.get(told.container_id)
        if old is None or _pod(old.identity) != _pod(told):
            return told
        known = old.identity
        name = told.container_name or known.container_name
        says_less = _IMAGES[told.image] is None and (_IMAGES[known.image] is not None or not told.image)
        image = known.image if says_less else told.image
        return replace(told, container_name=name, image=image)

    def _expect(self, new: _Known) -> _Known:
        old = self.known.get(new.identity.container_id)
        if old is None:
            self.workloads += 1
            return new
        stays = old.cgroup == new.cgroup
        return replace(
            new,
            workload=old.workload,
            armed=new.armed or (stays and old.armed),
            init_pid=new.init_pid or (old.init_pid if stays else 0),
        )

    def _check_added(self, added: Added, expected: _Known, displaced: tuple[ContainerId, ...]) -> None:
        assert added.workload == expected.workload
        assert added.displaced == displaced
        assert expected.cgroup not in added.cgroups
        self.apply(added.operations)
        self.rewrite(added.cgroups)

    @rule(container=_containers)
    def remove_container(self, container: ContainerId) -> None:
        known = self.known.pop(container, None)
        operations = self.registry.remove_container(container)
        assert operations == (() if known is None else (DeleteBinding(known.cgroup),))
        self.apply(operations)

    @precondition(lambda self: self.known)
    @rule(containers=st.sets(_containers, min_size=1))
    def retain(self, containers: set[ContainerId]) -> None:
        self.known = {key: known for key, known in self.known.items() if key in containers}
        self.apply(self.registry.retain(containers))

    @rule(cgroup=_cgroups)
    def mark_armed(self, cgroup: CgroupId) -> None:
        holders = [known for known in self.known.values() if known.cgroup == cgroup]
        for known in holders:
            known.armed = True
        assert self.registry.mark_armed(cgroup) is bool(holders)
        if binding := self.registry.binding(cgroup):
            # The kernel armed by itself.
            self.kernel[cgroup] = binding

    def _bits(self, known: _Known) -> int:
        identity = replace(known.identity, labels=self.pod_labels[_pod(known.identity)])
        return sum(1 << policy for policy, declared in self.policies.items() if _selects(declared, identity))

    @invariant()
    def kernel_holds_what_the_model_computes(self) -> None:
        expected = {
            known.cgroup: Binding(
                self._bits(known), WorkloadId(known.workload), known.armed, known.init_pid, known.pod_level
            )
            for known in self.known.values()
        }
        assert self.kernel == expected
        host = sum(1 << policy for policy, declared in self.policies.items() if _selects_host(declared))
        assert self.kernel_host == host
        assert self.registry.host() == SetHost(host)
        assert self.registry.quarantine() == SetQuarantine(sum(1 << policy for policy in self.policies))

    @invariant()
    def registry_answers_what_the_model_knows(self) -> None:
        records = self.registry.containers()
        assert [record.workload for record in records] == sorted(known.workload for known in self.known.values())
        for record in records:
            known = self.known[record.identity.container_id]
            assert (record.cgroup, record.armed, record.init_pid) == (known.cgroup, known.armed, known.init_pid)
            assert record.pod_level is known.pod_level
            assert record.identity == replace(known.identity, labels=self.pod_labels[_pod(known.identity)])
            assert self.registry.workload(record.workload) == record
        for number in range(1, 5):
            cgroup = CgroupId(number)
            assert self.registry.binding(cgroup) == self.kernel.get(cgroup)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
