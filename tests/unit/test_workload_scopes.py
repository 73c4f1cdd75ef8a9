# SPDX-License-Identifier: Apache-2.0
"""The table of scopes, row by row, and the index that answers the same."""

from dataclasses import replace

import pytest

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
from agent.workload.identity import ContainerId, ContainerIdentity, PodUid, PolicyId, freeze_labels
from agent.workload.scope_index import ScopeIndex
from agent.workload.scopes import Scope, scope_of, scope_of_selector
from agent.workload.selector import container_labels

_ALL = LabelSelector()
_TOP = 1023


def _in(key: str, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, LabelOperator.IN, values),))


def _not_in(key: str, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, LabelOperator.NOT_IN, values),))


_WEB = _in("app", "web")
_MAIN = _in("name", "main")
_NGINX = _in("repo", "docker.io/library/nginx")


def _container(name: str, app: str, namespace: str = "shop", image: str = "nginx:1") -> ContainerIdentity:
    labels = freeze_labels({"app": app})
    return ContainerIdentity(ContainerId(name), name, namespace, f"{app}-0", PodUid(f"{app}-u"), labels, image)


_WEB_MAIN = _container("main", "web")
_WEB_SIDE = _container("side", "web", image="registry:5000/mesh/proxy:2")
_API_MAIN = _container("main", "api")
_ELSEWHERE = _container("main", "web", "bank")
_UNKNOWN = replace(_WEB_SIDE, container_name="", image="")
_SANDBOX = replace(_UNKNOWN, sandbox=True)
_CONTAINERS = {
    "web main": _WEB_MAIN,
    "web side": _WEB_SIDE,
    "api main": _API_MAIN,
    "bank": _ELSEWHERE,
    "unknown": _UNKNOWN,
    "sandbox": _SANDBOX,
}
_EVERY = set(_CONTAINERS)
_MAINS = {"web main", "api main", "bank", "unknown"}
_WEBS = _EVERY - {"api main"}
_WEB_MAINS = {"web main", "bank", "unknown"}


def _selected(scope: Scope) -> set[str]:
    """By the scope itself and by the index, which must not differ."""
    index = ScopeIndex()
    index.add(PolicyId(_TOP), scope)
    assert index.host == (1 << _TOP if scope.has_host else 0)
    assert index.all == 1 << _TOP
    found = set()
    for name, identity in _CONTAINERS.items():
        labels = container_labels(identity)
        selected = scope.has_pod(identity.namespace, identity.labels) and scope.has_container(labels)
        bits = index.pod_bits(identity.namespace, identity.labels) & ~index.excluded(labels)
        assert bits == (1 << _TOP if selected else 0)
        found |= {name} if selected else set()
    assert index.remove(PolicyId(_TOP)) == scope
    assert (index.all, index.host, index._groups, index._dividing) == (0, 0, {}, 0)
    assert index._containers.is_empty()
    assert index.remove(PolicyId(_TOP)) is None
    return found


@pytest.mark.parametrize(
    ("scope", "host", "expected"),
    [
        # The eight rows: host, pods, containers.
        (Scope(), True, _EVERY),
        (Scope(containers=_MAIN), False, _MAINS),
        (Scope(pods=_WEB), False, _WEBS),
        (Scope(pods=_WEB, containers=_MAIN), False, _WEB_MAINS),
        (Scope(host=True), True, set()),
        (Scope(host=True, containers=_MAIN), True, _MAINS),
        (Scope(host=True, pods=_WEB), True, _WEBS),
        (Scope(host=True, pods=_WEB, containers=_MAIN), True, _WEB_MAINS),
        # With {}, which selects all of its kind and is not the same as an absent field.
        (Scope(pods=_ALL), False, _EVERY),
        (Scope(containers=_ALL), False, _EVERY),
        (Scope(pods=_ALL, containers=_ALL), False, _EVERY),
        (Scope(host=True, pods=_ALL), True, _EVERY),
        (Scope(host=True, containers=_ALL), True, _EVERY),
        (Scope(host=True, pods=_ALL, containers=_ALL), True, _EVERY),
        (Scope(pods=_ALL, containers=_MAIN), False, _MAINS),
        (Scope(pods=_WEB, containers=_ALL), False, _WEBS),
        # Of a namespace.
        (Scope("shop"), False, _EVERY - {"bank"}),
        (Scope("bank"), False, {"bank"}),
        (Scope("shop", pods=_WEB), False, _WEBS - {"bank"}),
        (Scope("shop", containers=_MAIN), False, _MAINS - {"bank"}),
        (Scope("shop", pods=_WEB, containers=_MAIN), False, _WEB_MAINS - {"bank"}),
        (Scope("shop", pods=_ALL, containers=_ALL, host=True), False, _EVERY - {"bank"}),
        (Scope("shop", host=True), False, set()),
        # By the key of the namespace, the repository, and what is not there.
        (Scope(pods=_not_in(NAMESPACE_LABEL, "shop")), False, {"bank"}),
        (Scope(containers=_NGINX), False, _MAINS),
        (Scope(containers=_not_in("name", "main")), False, {"web side", "unknown", "sandbox"}),
        (Scope(containers=LabelSelector((Requirement("repo", LabelOperator.EXISTS),))), False, _EVERY - {"sandbox"}),
        (Scope(containers=LabelSelector((Requirement("name", LabelOperator.DOES_NOT_EXIST),))), False, {"sandbox"}),
        (Scope(containers=LabelSelector(_MAIN.requirements + _not_in("repo", "x").requirements)), False, _MAINS),
    ],
    ids=str,
)
def test_scope_selects_as_the_table_says(scope: Scope, host: bool, expected: set[str]) -> None:
    assert scope.has_host is host
    assert _selected(scope) == expected


def test_policies_with_one_selector_keep_their_bits_apart() -> None:
    index = ScopeIndex()
    scope = Scope(pods=_in("app", "api", "web"), containers=_in("name", "main", "side"))
    for policy in (PolicyId(3), PolicyId(4)):
        index.add(policy, scope)
    web, outside = container_labels(_WEB_MAIN), container_labels(replace(_WEB_MAIN, container_name="third"))
    assert index.pod_bits("shop", _WEB_MAIN.labels) == 0b11000
    assert (index.excluded(web), index.excluded(outside)) == (0, 0b11000)
    index.remove(PolicyId(3))
    assert index.pod_bits("shop", _WEB_MAIN.labels) == 0b10000
    assert (index.excluded(web), index.excluded(outside)) == (0, 0b10000)
    assert PolicyId(4) in index
    assert PolicyId(3) not in index


def _policy(workloads: WorkloadSelector, namespace: str | None = None) -> Policy:
    kind = PolicyKind.NAMESPACED if namespace else PolicyKind.CLUSTER
    return Policy(kind, "p", namespace, (), workloads, Source("f", 1, 1), "")


def test_scope_of_a_policy_is_what_it_declares() -> None:
    assert scope_of(_policy(WorkloadSelector())) == Scope()
    assert scope_of(_policy(WorkloadSelector(_WEB, _MAIN, host=True))) == Scope(None, _WEB, _MAIN, True)
    assert scope_of(_policy(WorkloadSelector(_WEB), "shop")) == Scope("shop", _WEB)


@pytest.mark.parametrize("written", ["nginx", "library/nginx", "docker.io/nginx", "docker.io/library/nginx"])
def test_a_repository_may_be_written_in_any_form(written: str) -> None:
    scope = scope_of(_policy(WorkloadSelector(containers=_in("repo", written))))
    assert scope.containers == _NGINX
    for image in ("nginx:1.27", "docker.io/library/nginx@sha256:" + "0a" * 32, "index.docker.io/library/nginx"):
        assert scope.has_container(container_labels(replace(_WEB_MAIN, image=image)))
    for image in ("quay.io/nginx:1.27", "nginx/nginx", "localhost/nginx"):
        assert not scope.has_container(container_labels(replace(_WEB_MAIN, image=image)))


def test_two_forms_of_a_repository_are_one_value_and_names_are_left_as_they_are() -> None:
    written = LabelSelector(
        (
            Requirement("name", LabelOperator.IN, ("nginx",)),
            Requirement("repo", LabelOperator.NOT_IN, ("nginx", "quay.io/a", "docker.io/nginx")),
        )
    )
    scope = scope_of(_policy(WorkloadSelector(containers=written)))
    repositories = Requirement("repo", LabelOperator.NOT_IN, ("docker.io/library/nginx", "quay.io/a"))
    assert scope.containers == LabelSelector((Requirement("name", LabelOperator.IN, ("nginx",)), repositories))


def test_scope_of_a_selector_is_its_own_within_the_policys_namespace() -> None:
    policy = _policy(WorkloadSelector(_WEB), "shop")
    assert scope_of_selector(policy, WorkloadSelector(containers=_in("repo", "nginx"))) == Scope("shop", None, _NGINX)
    assert scope_of_selector(policy, WorkloadSelector(_ALL)) == Scope("shop", _ALL)
    assert scope_of_selector(policy, WorkloadSelector()) == scope_of(policy)
    cluster = _policy(WorkloadSelector(_WEB))
    assert scope_of_selector(cluster, WorkloadSelector(host=True)) == Scope(host=True)
    assert scope_of_selector(cluster, WorkloadSelector()) == Scope(None, _WEB)
