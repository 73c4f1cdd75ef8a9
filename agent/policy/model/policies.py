# SPDX-License-Identifier: Apache-2.0
"""A policy as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from types import MappingProxyType

from agent.policy.model.hooks import Hook
from agent.policy.model.source import Source
from agent.policy.model.workloads import LabelSelector, WorkloadSelector


@unique
class PolicyKind(Enum):
    """The `kind` of the custom resource."""

    CLUSTER = "TracingPolicy"
    NAMESPACED = "TracingPolicyNamespaced"


@unique
class PolicyMode(Enum):
    """Whether enforcing actions are carried out, or only counted."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True, order=True)
class PolicyKey:
    """What names a policy on a node; `namespace` is None for cluster-wide policies."""

    namespace: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.namespace is None else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    `namespace` is None for cluster-wide policies and a name for namespaced ones. `workloads` is unset when the policy
    has no selector: a cluster-wide policy then applies to host processes too. `mode` is the option `policy-mode`.
    `enforcers`: the system calls and functions that NotifyEnforcer acts on. `options`: the others that were given, by
    name. `text_digest` is the SHA-256, in hexadecimal, of the content without positions, comments and server-written
    fields (see `digest`).
    """

    kind: PolicyKind
    name: str
    namespace: str | None
    hooks: tuple[Hook, ...]
    workloads: WorkloadSelector
    source: Source = field(compare=False)
    text_digest: str
    mode: PolicyMode = PolicyMode.ENFORCE
    nodes: LabelSelector | None = None
    enforcers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def key(self) -> PolicyKey:
        """The namespace and name."""
        return PolicyKey(self.namespace, self.name)

    @property
    def enforces(self) -> bool:
        """Whether any action, at the return too, changes what a process does."""
        return any(
            action.kind.enforces
            for hook in self.hooks
            for selector in hook.selectors
            for action in (*selector.actions, *selector.return_actions)
        )
