# SPDX-License-Identifier: Apache-2.0
"""Whether labels satisfy a label selector, with the rules of Kubernetes.

A pod has its labels and, as one more, its namespace. A container has two: its `name` and its image's `repo`. One that
is not known is not taken for absent: every container has both, so `Exists` holds and `DoesNotExist` does not, and
`In` and `NotIn` hold both, because nobody can say that they do not. A policy whose container selector cannot be
decided applies: unknown is not fine. A pod's pause container and the pod's own cgroup are no containers of the pod, and
a container in no pod has no name in one: what is not told of these is absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.policy.labels import CONTAINER_NAME, CONTAINER_REPOSITORY
from agent.policy.model import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement
from agent.workload.identity import ContainerIdentity, Labels
from agent.workload.images import parse_repository

_NONE: frozenset[str] = frozenset()


def selectable_labels(namespace: str, labels: Labels) -> dict[str, str]:
    """A new dictionary of what selectors see of a pod: its labels, and its namespace as one more."""
    return {**dict(labels), NAMESPACE_LABEL: namespace}


@dataclass(frozen=True, slots=True)
class ContainerLabels:
    """What container selectors see. known: by key, the repository fully qualified. unknown: the keys whose value nobody
    told.
    """

    known: Mapping[str, str]
    unknown: frozenset[str]


def container_labels(identity: ContainerIdentity) -> ContainerLabels:
    """What selectors see of a container."""
    told = {CONTAINER_NAME: identity.container_name, CONTAINER_REPOSITORY: parse_repository(identity.image)}
    known = {key: value for key, value in told.items() if value}
    in_pod = identity.pod_name and not identity.sandbox
    return ContainerLabels(known, frozenset(told.keys() - known.keys()) if in_pod else _NONE)


def is_selected(selector: LabelSelector, labels: Mapping[str, str], unknown: frozenset[str] = _NONE) -> bool:
    """Whether all requirements hold, or may hold for the unknown keys."""
    # A loop, not all(): a node may have a thousand selectors to look at while a container waits.
    for requirement in selector.requirements:  # noqa: SIM110
        if not _holds(requirement, labels, unknown):
            return False
    return True


def _holds(requirement: Requirement, labels: Mapping[str, str], unknown: frozenset[str]) -> bool:
    value = labels.get(requirement.key)
    if value is None and requirement.key in unknown:
        return requirement.operator is not LabelOperator.DOES_NOT_EXIST
    if requirement.operator is LabelOperator.IN:
        return value in requirement.values
    if requirement.operator is LabelOperator.NOT_IN:
        # Kubernetes: also when the label is absent.
        return value not in requirement.values
    return (value is not None) == (requirement.operator is LabelOperator.EXISTS)
