# SPDX-License-Identifier: Apache-2.0
"""Whether a pod's labels satisfy a label selector, with the rules of Kubernetes."""

from collections.abc import Mapping

from agent.policy.model import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement
from agent.workload.identity import Labels


def selectable_labels(namespace: str, labels: Labels) -> dict[str, str]:
    """A new dictionary of what selectors see of a pod: its labels, and its namespace as one more."""
    return {**dict(labels), NAMESPACE_LABEL: namespace}


def is_selected(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold for the labels that `selectable_labels` gave."""
    # A loop, not all(): a node may have a thousand selectors to look at while a container waits.
    for requirement in selector.requirements:  # noqa: SIM110
        if not _holds(requirement, labels):
            return False
    return True


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    if requirement.operator is LabelOperator.IN:
        return value in requirement.values
    if requirement.operator is LabelOperator.NOT_IN:
        # Kubernetes: also when the label is absent.
        return value not in requirement.values
    return (value is not None) == (requirement.operator is LabelOperator.EXISTS)
