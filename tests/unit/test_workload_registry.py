# SPDX-License-Identifier: Apache-2.0
"""The registry's rules, one by one."""

import time
from dataclasses import replace

import pytest

from agent.policy.model import LabelOperator, LabelSelector, Requirement
from agent.workload.errors import NamespaceConflict, PolicyIdInUse, PolicyIdOutOfRange, WorkloadIdsExhausted
from agent.workload.identity import (
    MAX_POLICIES,
    MAX_WORKLOAD_ID,
    WORKLOAD_QUARANTINED,
    CgroupId,
    ContainerId,
    ContainerIdentity,
    PodUid,
    PolicyId,
    WorkloadId,
    freeze_labels,
)
from agent.workload.operations import Binding, DeleteBinding, SetBinding, SetHost, SetQuarantine
from agent.workload.registry import Added, Changed, Registry
from agent.workload.scopes import Scope

_WEB = LabelSelector((Requirement("app", LabelOperator.IN, ("web",)),))
_NGINX = LabelSelector((Requirement("repo", LabelOperator.IN, ("docker.io/library/nginx",)),))
_NOT_A = LabelSelector((Requirement("name", LabelOperator.NOT_IN, ("a-name",)),))


def _identity(container: str, pod: str = "pod", namespace: str = "shop", **labels: str) -> ContainerIdentity:
    return ContainerIdentity(
        ContainerId(container), f"{container}-name", namespace, pod, PodUid(f"{pod}-uid"), freeze_labels(labels)
    )


def _add(registry: Registry, identity: ContainerIdentity, cgroup: int, pid: int = 7, armed: bool = False) -> Added:
    return registry.add_container(identity, CgroupId(cgroup), pid, armed)


def _bits(registry: Registry, cgroup: int) -> int:
    binding = registry.binding(CgroupId(cgroup))
    assert binding is not None
    return binding.policies


def test_container_gets_one_binding_with_all_its_policies() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope())
    registry.add_policy(PolicyId(5), Scope("shop"))
    registry.add_policy(PolicyId(6), Scope("else"))
    registry.add_policy(PolicyId(9), Scope(None, _WEB))
    added = _add(registry, _identity("a", app="web"), 100)
    binding = Binding(0b10_0010_0001, WorkloadId(1), False, 7)
    assert added == Added(WorkloadId(1), (SetBinding(CgroupId(100), binding),), (), ())
    assert registry.binding(CgroupId(100)) == binding
    assert registry.host() == SetHost(1)


def test_policy_changes_only_the_bindings_in_its_scope() -> None:
    registry = Registry()
    _add(registry, _identity("a", "p1", app="web"), 102)
    _add(registry, _identity("b", "p1", app="web"), 101)
    _add(registry, _identity("c", "p2"), 103)
    changed = Changed(None, (CgroupId(101), CgroupId(102)))
    assert registry.add_policy(PolicyId(2), Scope(None, _WEB)) == changed
    assert [_bits(registry, cgroup) for cgroup in (101, 102, 103)] == [4, 4, 0]
    assert registry.remove_policy(PolicyId(2)) == changed
    assert [_bits(registry, cgroup) for cgroup in (101, 102, 103)] == [0, 0, 0]


def test_policy_for_everything_changes_host_and_containers() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100)
    assert registry.add_policy(PolicyId(3), Scope()) == Changed(SetHost(8), (CgroupId(100),))
    assert registry.remove_policy(PolicyId(3)) == Changed(SetHost(0), (CgroupId(100),))
    assert registry.remove_policy(PolicyId(3)) == Changed(None, ())


def test_policy_for_containers_changes_only_those_of_a_pod_that_match() -> None:
    registry = Registry()
    for container, cgroup in (("a", 103), ("b", 102), ("c", 101)):
        _add(registry, _identity(container, app="web"), cgroup)
    changed = Changed(None, (CgroupId(101), CgroupId(102)))
    assert registry.add_policy(PolicyId(2), Scope(None, _WEB, _NOT_A)) == changed
    assert [_bits(registry, cgroup) for cgroup in (101, 102, 103)] == [4, 4, 0]
    assert registry.remove_policy(PolicyId(2)) == changed
    assert [_bits(registry, cgroup) for cgroup in (101, 102, 103)] == [0, 0, 0]


def test_policy_for_the_host_changes_no_container() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100)
    assert registry.add_policy(PolicyId(3), Scope(host=True)) == Changed(SetHost(8), ())
    assert registry.quarantine() == SetQuarantine(8)
    assert registry.add_policy(PolicyId(4), Scope(pods=_WEB, host=True)) == Changed(SetHost(24), ())
    assert registry.remove_policy(PolicyId(3)) == Changed(SetHost(16), ())
    assert _bits(registry, 100) == 0


def test_policy_and_its_selectors_have_bits_of_their_own() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope("shop"))
    registry.add_policy(PolicyId(1), Scope("shop", containers=_NOT_A))
    _add(registry, _identity("a"), 100)
    _add(registry, _identity("b"), 101)
    assert [_bits(registry, cgroup) for cgroup in (100, 101)] == [0b01, 0b11]
    assert registry.quarantine() == SetQuarantine(0b11)


def test_policy_ids_are_checked() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(MAX_POLICIES - 1), Scope())
    with pytest.raises(PolicyIdInUse, match="policy id 2047 is in use"):
        registry.add_policy(PolicyId(MAX_POLICIES - 1), Scope("shop"))
    for outside in (-1, MAX_POLICIES):
        with pytest.raises(PolicyIdOutOfRange, match=r"not in 0\.\.2047"):
            registry.add_policy(PolicyId(outside), Scope())
    assert registry.host() == SetHost(1 << 2047)


def test_same_container_again_changes_nothing_and_keeps_its_workload_id() -> None:
    registry = Registry()
    first = _add(registry, _identity("a"), 100)
    assert _add(registry, _identity("a"), 100) == first
    assert len(registry.containers()) == 1


def test_arming_is_never_taken_back_in_the_same_cgroup() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100)
    assert registry.mark_armed(CgroupId(100))
    assert not registry.mark_armed(CgroupId(999))
    (operation,) = _add(registry, _identity("a"), 100, pid=0).operations
    assert operation == SetBinding(CgroupId(100), Binding(0, WorkloadId(1), True, 7))
    _add(registry, _identity("b"), 200, armed=True)
    _add(registry, _identity("b"), 200, armed=False)
    assert [record.armed for record in registry.containers()] == [True, True]


def test_container_in_another_cgroup_starts_anew_and_the_old_binding_goes_last() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100, armed=True)
    moved = _add(registry, _identity("a"), 200, pid=0)
    binding = Binding(0, WorkloadId(1), False, 0)
    assert moved.operations == (SetBinding(CgroupId(200), binding), DeleteBinding(CgroupId(100)))
    assert (moved.workload, moved.displaced) == (1, ())
    assert registry.binding(CgroupId(100)) is None


def test_cgroup_of_another_container_displaces_it() -> None:
    registry = Registry()
    _add(registry, _identity("a", "p1"), 100, armed=True)
    taken = _add(registry, _identity("b", "p2"), 100)
    assert taken.displaced == ("a",)
    assert taken.operations == (SetBinding(CgroupId(100), Binding(0, WorkloadId(2), False, 7)),)
    assert registry.workload(WorkloadId(1)) is None
    assert registry.remove_container(ContainerId("a")) == ()
    assert registry.binding(CgroupId(100)) is not None


def test_container_that_moves_to_the_cgroup_of_another_leaves_one_binding() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100)
    _add(registry, _identity("b"), 200)
    moved = _add(registry, _identity("a"), 200)
    assert moved.displaced == ("b",)
    assert [type(operation) for operation in moved.operations] == [SetBinding, DeleteBinding]
    assert [record.cgroup for record in registry.containers()] == [200]


@pytest.mark.parametrize("order", [(("old", 100), ("new", 200)), (("new", 200), ("old", 100))])
def test_newest_labels_win_for_the_whole_pod(order: tuple[tuple[str, int], ...]) -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(None, _WEB))
    for container, cgroup in order:
        _add(registry, _identity(container, app="api"), cgroup)
    added = _add(registry, _identity("new", app="web"), 200)
    assert added.cgroups == (100,)
    assert [_bits(registry, cgroup) for cgroup in (100, 200)] == [1, 1]
    assert {record.identity.labels for record in registry.containers()} == {(("app", "web"),)}


def test_labels_that_no_policy_looks_at_change_no_binding() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(None, _WEB))
    _add(registry, _identity("a", app="web"), 100)
    added = _add(registry, _identity("b", app="web", revision="2"), 200)
    assert added.cgroups == ()
    assert registry.containers()[0].identity.labels == (("app", "web"), ("revision", "2"))


def test_labels_change_only_the_bindings_that_the_containers_own_part_lets_change() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(None, _WEB, _NOT_A))
    for container, cgroup in (("a", 100), ("b", 101), ("c", 102)):
        _add(registry, _identity(container, app="api"), cgroup)
    added = _add(registry, _identity("c", app="web"), 102)
    assert added.cgroups == (101,)
    assert [_bits(registry, cgroup) for cgroup in (100, 101, 102)] == [0, 1, 1]


def test_image_and_name_that_were_unknown_are_told_later_and_stay_known() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(containers=_NGINX))
    registry.add_policy(PolicyId(1), Scope(containers=_NOT_A))
    nobody = replace(_identity("a"), container_name="")
    _add(registry, nobody, 100)
    assert _bits(registry, 100) == 0b11
    told = _add(registry, replace(nobody, container_name="a-name", image="quay.io/nginx:1"), 100)
    assert told.operations == (SetBinding(CgroupId(100), Binding(0, WorkloadId(1), False, 7)),)
    for image in ("", "sha256:" + "0a" * 32):
        _add(registry, replace(nobody, image=image), 100)
        assert _bits(registry, 100) == 0
    _add(registry, replace(nobody, image="nginx:1"), 100)
    assert _bits(registry, 100) == 0b01
    (record,) = registry.containers()
    assert (record.identity.container_name, record.identity.image) == ("a-name", "nginx:1")


def test_what_is_said_of_a_container_in_another_pod_starts_anew() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(1), Scope(containers=_NOT_A))
    _add(registry, _identity("a", "p1"), 100)
    assert _bits(registry, 100) == 0
    _add(registry, replace(_identity("a", "p2"), container_name=""), 100)
    assert _bits(registry, 100) == 0b10


def test_pod_in_another_namespace_is_refused_and_nothing_changes() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope("shop"))
    _add(registry, _identity("a", app="web"), 100)
    before = registry.containers()
    with pytest.raises(NamespaceConflict, match="pod pod-uid is known in namespace 'shop', not in 'else'"):
        _add(registry, _identity("b", namespace="else"), 100)
    assert registry.containers() == before
    assert _add(registry, _identity("c"), 200).workload == 2


def test_pods_without_uid_are_told_apart_by_namespace_and_name() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(None, _WEB))
    for cgroup, (container, namespace) in enumerate([("a", "shop"), ("b", "else"), ("c", "shop")]):
        identity = replace(_identity(container, namespace=namespace), pod_uid=PodUid(""))
        _add(registry, identity, cgroup)
    relabelled = replace(_identity("a", app="web"), pod_uid=PodUid(""))
    assert _add(registry, relabelled, 0).cgroups == (2,)
    assert [_bits(registry, cgroup) for cgroup in range(3)] == [1, 0, 1]


def test_removed_container_leaves_no_binding_and_its_workload_id_is_not_used_again() -> None:
    registry = Registry()
    _add(registry, _identity("a"), 100)
    assert registry.remove_container(ContainerId("a")) == (DeleteBinding(CgroupId(100)),)
    assert registry.remove_container(ContainerId("a")) == ()
    assert registry.containers() == ()
    assert _add(registry, _identity("a", namespace="else"), 100).workload == 2


def test_retain_forgets_what_is_not_named() -> None:
    registry = Registry()
    for container, cgroup in (("a", 300), ("b", 200), ("c", 100)):
        _add(registry, _identity(container), cgroup)
    gone = registry.retain([ContainerId("b"), ContainerId("unknown")])
    assert gone == (DeleteBinding(CgroupId(100)), DeleteBinding(CgroupId(300)))
    assert [record.identity.container_id for record in registry.containers()] == ["b"]


def test_workload_finds_the_record() -> None:
    registry = Registry()
    _add(registry, _identity("a", app="web"), 100)
    record = registry.workload(WorkloadId(1))
    assert record is not None
    assert (record.identity, record.cgroup) == (_identity("a", app="web"), 100)
    assert registry.workload(WorkloadId(2)) is None


def test_workload_ids_end_and_the_refused_container_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr(registry, "_last_workload", MAX_WORKLOAD_ID - 1)
    assert _add(registry, _identity("a"), 100).workload == MAX_WORKLOAD_ID
    with pytest.raises(WorkloadIdsExhausted, match="no workload id is left"):
        _add(registry, _identity("b"), 100)
    assert [record.identity.container_id for record in registry.containers()] == ["a"]
    assert registry.workload(WorkloadId(WORKLOAD_QUARANTINED)) is None


def test_quarantine_has_the_policies_of_every_namespace() -> None:
    registry = Registry()
    assert registry.quarantine() == SetQuarantine(0)
    for policy, scope in ((0, Scope()), (6, Scope("else")), (1023, Scope(None, _WEB))):
        registry.add_policy(PolicyId(policy), scope)
    assert registry.quarantine() == SetQuarantine(1 | 1 << 6 | 1 << 1023)
    registry.remove_policy(PolicyId(6))
    registry.remove_policy(PolicyId(7))
    assert registry.quarantine() == SetQuarantine(1 | 1 << 1023)


def test_pods_own_cgroup_gets_the_pods_policies() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(9), Scope(None, _WEB))
    _add(registry, _identity("a", app="web"), 100)
    pod = registry.add_container(_identity("pod:a", app="web"), CgroupId(10), 0, armed=True, pod_level=True)
    assert pod.operations == (SetBinding(CgroupId(10), Binding(1 << 9, WorkloadId(2), True, 0, pod_level=True)),)
    assert [record.pod_level for record in registry.containers()] == [False, True]
    # New labels of a pod are those of its own cgroup too.
    assert _add(registry, _identity("a", app="db"), 100).cgroups == (CgroupId(10),)
    assert _bits(registry, 10) == 0


def test_pods_own_cgroup_and_pause_have_no_name_that_could_match() -> None:
    registry = Registry()
    registry.add_policy(PolicyId(0), Scope(containers=_NGINX))
    registry.add_policy(PolicyId(1), Scope(containers=_NOT_A))
    pause = replace(_identity("a"), container_name="", sandbox=True)
    _add(registry, pause, 100)
    registry.add_container(
        replace(pause, container_id=ContainerId("pod:a")), CgroupId(10), 0, armed=True, pod_level=True
    )
    assert [_bits(registry, cgroup) for cgroup in (10, 100)] == [0b10, 0b10]


def _scopes() -> dict[str, list[Scope]]:
    def selectors(operator: LabelOperator, key: str = "app") -> list[LabelSelector]:
        return [LabelSelector((Requirement(key, operator, (f"{key}{n}",)),)) for n in range(MAX_POLICIES)]

    return {
        "container names": [Scope(None, None, selector) for selector in selectors(LabelOperator.IN, "name")],
        "repositories": [Scope(None, None, selector) for selector in selectors(LabelOperator.IN, "repo")],
        "negative names": [Scope(None, None, selector) for selector in selectors(LabelOperator.NOT_IN, "name")],
        "all three": [
            Scope(f"namespace{n % 8}", pods, containers)
            for n, (pods, containers) in enumerate(
                zip(selectors(LabelOperator.IN), selectors(LabelOperator.IN, "name"), strict=True)
            )
        ],
        "namespaces": [Scope(f"namespace{n % 8}") for n in range(MAX_POLICIES)],
        "positive selectors": [Scope(None, selector) for selector in selectors(LabelOperator.IN)],
        "negative selectors": [Scope(None, selector) for selector in selectors(LabelOperator.NOT_IN)],
    }


@pytest.mark.parametrize("kind", _scopes())
def test_container_with_1024_policies_takes_less_than_3_ms(kind: str) -> None:
    registry = Registry()
    for policy, scope in enumerate(_scopes()[kind]):
        registry.add_policy(PolicyId(policy), scope)
    identities = [_identity(f"c{n}", f"pod{n}", "namespace1", app="app7") for n in range(20)]
    best = min(_cpu_time(registry, identity, number) for number, identity in enumerate(identities))
    assert best < 0.003


def _cpu_time(registry: Registry, identity: ContainerIdentity, cgroup: int) -> float:
    start = time.process_time()
    _add(registry, identity, cgroup)
    return time.process_time() - start
