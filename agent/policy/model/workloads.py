# SPDX-License-Identifier: Apache-2.0
"""To which processes something applies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

# The pseudo label under which a pod's namespace can be selected.
NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"


@unique
class LabelOperator(Enum):
    """How one label is matched."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label; `values` are sorted and unique, empty for the two existence operators."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all hold, sorted by key, unique. Without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadSelector:
    """To which processes something applies; None where the policy has no such field. host: `hostSelector: {}`.

    A container selector's keys are `name` and `repo`.
    """

    pods: LabelSelector | None = None
    containers: LabelSelector | None = None
    host: bool = False

    @property
    def is_unset(self) -> bool:
        """Whether no field is given."""
        return self.pods is None and self.containers is None and not self.host
