# SPDX-License-Identifier: Apache-2.0
"""To which processes a policy applies, in words. The cases are those of the table in `agent.workload.scopes`."""

from __future__ import annotations

from agent.policy.explain_words import either, joined
from agent.policy.model import (
    NAMESPACE_LABEL,
    LabelOperator,
    LabelSelector,
    Policy,
    Requirement,
    WorkloadSelector,
)
from agent.workload.scopes import Scope, scope_of, scope_of_selector

EVERYTHING = "every process of the node: host processes, all containers, and what runtimes do to set these up"


def applies_to(policy: Policy) -> str:
    """Whom the policy's own selectors mean."""
    return describe_scope(scope_of(policy))


def applies_in_selector(policy: Policy, workload: WorkloadSelector) -> str:
    """Whom matchWorkloads of a selector means."""
    return describe_scope(scope_of_selector(policy, workload))


def describe_scope(scope: Scope) -> str:
    """A scope in words."""
    everywhere = _selects_all(scope.pods) and _selects_all(scope.containers)
    if scope.has_host and scope.has_containers and everywhere:
        return EVERYTHING
    if not scope.has_containers:
        return "host processes, and no container"
    where = f"{_containers(scope.containers)} of {_pods(scope.pods, scope.namespace)}"
    return f"host processes, and {where}" if scope.has_host else f"{where}; no host process"


def _selects_all(selector: LabelSelector | None) -> bool:
    return selector is None or not selector.requirements


def _containers(selector: LabelSelector | None) -> str:
    if selector is None or not selector.requirements:
        return "all containers"
    return f"the containers {joined([_of_container(each) for each in selector.requirements])}"


def _pods(selector: LabelSelector | None, namespace: str | None) -> str:
    where = "" if namespace is None else f" in the namespace {namespace}"
    if selector is None or not selector.requirements:
        return f"all pods{where}"
    return f"the pods{where} {joined([describe_requirement(each) for each in selector.requirements])}"


def describe_requirement(requirement: Requirement) -> str:
    """`whose label app is web`."""
    if requirement.key == NAMESPACE_LABEL:
        return _whose("namespace", requirement, always_there=True)
    return _whose(f"label {requirement.key}", requirement, always_there=False)


def _of_container(requirement: Requirement) -> str:
    noun = "image's repository" if requirement.key == "repo" else requirement.key
    return _whose(noun, requirement, always_there=True)


def _whose(noun: str, requirement: Requirement, *, always_there: bool) -> str:
    values = [value or '""' for value in requirement.values]
    match requirement.operator:
        case LabelOperator.IN:
            return f"whose {noun} is {either(values)}"
        case LabelOperator.NOT_IN:
            absent = "" if always_there else "absent or "
            return f"whose {noun} is {absent}none of {either(values, 'and')}"
        case LabelOperator.EXISTS:
            return f"that have a {noun}"
    return f"that have no {noun}"
