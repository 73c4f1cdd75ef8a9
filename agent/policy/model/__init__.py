# SPDX-License-Identifier: Apache-2.0
"""What a tracing policy says, as frozen values.

Semantics (those of the `cilium.io/v1alpha1` custom resources):

- The selectors of a hook are tried in order; the first that matches runs its actions, later ones are not tried.
- A selector matches when all its filters do. Within one filter the positive operators hold when any value does, the
  negative ones (`Not…`) when no value does.
- A hook always has at least one selector here: the reader writes the one that always posts when a policy has none.
- A hook with `returns` reports at its return. Its selectors with a return part form a second list: the first of them
  whose `return_args` hold runs its `return_actions`. When there are such selectors and none matches, nothing is
  reported.

Macros are expanded and lists are named by their values here; nothing depends on the node. Positions never take part
in comparisons: two policies are equal when they mean the same.
"""

from agent.policy.model.actions import SIGKILL, Action, ActionKind, RateScope, posts, signals
from agent.policy.model.filters import (
    ArgFilter,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    Cel,
    FilterValue,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Network,
    PidFilter,
    Range,
)
from agent.policy.model.hooks import Hook, HookKind, UprobeTarget
from agent.policy.model.operators import Operator
from agent.policy.model.policies import Policy, PolicyKey, PolicyKind, PolicyMode
from agent.policy.model.selectors import Selector
from agent.policy.model.source import Source
from agent.policy.model.types import Arg, ArgType, DataSource
from agent.policy.model.workloads import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement, WorkloadSelector

__all__ = [
    "Action",
    "ActionKind",
    "Arg",
    "ArgFilter",
    "ArgType",
    "BinaryFilter",
    "CapabilityChangeFilter",
    "CapabilityFilter",
    "CapabilityType",
    "Cel",
    "DataSource",
    "FilterValue",
    "Hook",
    "HookKind",
    "LabelOperator",
    "LabelSelector",
    "NAMESPACE_LABEL",
    "NamespaceChangeFilter",
    "NamespaceFilter",
    "NamespaceType",
    "Network",
    "Operator",
    "PidFilter",
    "Policy",
    "PolicyKey",
    "PolicyKind",
    "PolicyMode",
    "Range",
    "RateScope",
    "Requirement",
    "SIGKILL",
    "Selector",
    "Source",
    "UprobeTarget",
    "WorkloadSelector",
    "posts",
    "signals",
]
