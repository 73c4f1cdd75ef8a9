# SPDX-License-Identifier: Apache-2.0
"""Filters, and what follows when they hold."""

from __future__ import annotations

from dataclasses import dataclass

from agent.policy.model.actions import Action, posts, signals
from agent.policy.model.filters import (
    ArgFilter,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    NamespaceChangeFilter,
    NamespaceFilter,
    PidFilter,
)
from agent.policy.model.workloads import WorkloadSelector


@dataclass(frozen=True, slots=True)
class Selector:
    """Filters that must all hold, and what to do then; what to ask and do at the return."""

    label: str = ""
    args: tuple[ArgFilter, ...] = ()
    data: tuple[ArgFilter, ...] = ()
    pids: tuple[PidFilter, ...] = ()
    binaries: tuple[BinaryFilter, ...] = ()
    parent_binaries: tuple[BinaryFilter, ...] = ()
    namespaces: tuple[NamespaceFilter, ...] = ()
    namespace_changes: tuple[NamespaceChangeFilter, ...] = ()
    capabilities: tuple[CapabilityFilter, ...] = ()
    capability_changes: tuple[CapabilityChangeFilter, ...] = ()
    workloads: tuple[WorkloadSelector, ...] = ()
    actions: tuple[Action, ...] = ()
    return_args: tuple[ArgFilter, ...] = ()
    return_actions: tuple[Action, ...] = ()

    @property
    def asks_return(self) -> bool:
        """Whether it takes part in the second list, at the return."""
        return bool(self.return_args or self.return_actions)

    @property
    def posts(self) -> bool:
        """Whether a match makes an event: unless an action says NoPost."""
        return posts(self.actions)

    @property
    def signals(self) -> tuple[int, ...]:
        """The signals that a match sends to the calling process, in the order written."""
        return signals(self.actions)
