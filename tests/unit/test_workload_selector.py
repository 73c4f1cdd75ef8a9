# SPDX-License-Identifier: Apache-2.0
"""Label selectors with the rules of Kubernetes, and scopes."""

import pytest

from agent.policy.model import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement
from agent.policy.reader import parse_policies
from agent.workload.identity import PolicyId, freeze_labels
from agent.workload.scopes import Scope, ScopeIndex, scope_of
from agent.workload.selector import is_selected, selectable_labels

_WEB = freeze_labels({"app": "web", "empty": ""})


def _selector(key: str, operator: LabelOperator, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, operator, values),))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (LabelSelector(), True),
        (_selector("app", LabelOperator.IN, "api", "web"), True),
        (_selector("app", LabelOperator.IN, "api"), False),
        (_selector("absent", LabelOperator.IN, "web"), False),
        (_selector("empty", LabelOperator.IN, ""), True),
        (_selector("absent", LabelOperator.IN, ""), False),
        (_selector("app", LabelOperator.NOT_IN, "web"), False),
        (_selector("app", LabelOperator.NOT_IN, "api"), True),
        (_selector("absent", LabelOperator.NOT_IN, "web"), True),
        (_selector("absent", LabelOperator.NOT_IN, ""), True),
        (_selector("app", LabelOperator.EXISTS), True),
        (_selector("empty", LabelOperator.EXISTS), True),
        (_selector("absent", LabelOperator.EXISTS), False),
        (_selector("app", LabelOperator.DOES_NOT_EXIST), False),
        (_selector("empty", LabelOperator.DOES_NOT_EXIST), False),
        (_selector("absent", LabelOperator.DOES_NOT_EXIST), True),
        (_selector(NAMESPACE_LABEL, LabelOperator.IN, "shop"), True),
        (_selector(NAMESPACE_LABEL, LabelOperator.NOT_IN, "shop"), False),
    ],
)
def test_requirement_holds_as_in_kubernetes(selector: LabelSelector, expected: bool) -> None:
    assert is_selected(selector, selectable_labels("shop", _WEB)) is expected


def test_all_requirements_must_hold() -> None:
    both = LabelSelector((Requirement("app", LabelOperator.EXISTS), Requirement("absent", LabelOperator.EXISTS)))
    assert not is_selected(both, dict(_WEB))


@pytest.mark.parametrize(
    ("scope", "host", "web_in_shop", "web_elsewhere"),
    [
        (Scope(), True, True, True),
        (Scope("shop"), False, True, False),
        (Scope(None, LabelSelector()), False, True, True),
        (Scope("shop", _selector("app", LabelOperator.IN, "web")), False, True, False),
        (Scope(None, _selector("app", LabelOperator.IN, "api")), False, False, False),
        (Scope(None, _selector(NAMESPACE_LABEL, LabelOperator.NOT_IN, "shop")), False, False, True),
    ],
)
def test_scope_tells_host_and_pods_apart(scope: Scope, host: bool, web_in_shop: bool, web_elsewhere: bool) -> None:
    assert scope.is_everything is host
    assert scope.has_pod("shop", _WEB) is web_in_shop
    assert scope.has_pod("else", _WEB) is web_elsewhere
    index = ScopeIndex()
    index.add(PolicyId(1023), scope)
    bit = 1 << 1023
    assert index.everything == (bit if host else 0)
    assert index.bits("shop", _WEB) == (bit if web_in_shop else 0)
    assert index.bits("else", _WEB) == (bit if web_elsewhere else 0)
    assert index.remove(PolicyId(1023)) == scope
    assert (index.everything, index.bits("shop", _WEB), index.remove(PolicyId(1023))) == (0, 0, None)


def test_policies_with_one_selector_keep_their_bits_apart() -> None:
    index = ScopeIndex()
    scope = Scope(None, _selector("app", LabelOperator.IN, "api", "web"))
    for policy in (PolicyId(3), PolicyId(4)):
        index.add(policy, scope)
    assert index.bits("shop", _WEB) == 0b11000
    index.remove(PolicyId(3))
    assert index.bits("shop", _WEB) == 0b10000


def test_scope_of_a_policy_is_its_namespace_and_pod_selector() -> None:
    text = b"""{apiVersion: cilium.io/v1alpha1, kind: TracingPolicyNamespaced, metadata: {name: x, namespace: shop},
        spec: {kprobes: [{call: mount}], podSelector: {matchLabels: {app: web}}}}"""
    (policy,) = parse_policies(text, "f")
    assert scope_of(policy) == Scope("shop", _selector("app", LabelOperator.IN, "web"))
