# SPDX-License-Identifier: Apache-2.0
"""C expressions for what selectors ask of the calling process: calls of bpf/lib/process.h.

A filter on lineage or on change holds, positive or negative, for a process of which the kernel's side has lost track:
a policy that may be meant is in force.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.policy.lineage import LineageTable, binary_predicate, pid_predicate
from agent.policy.model import (
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    PidFilter,
)

_NAMESPACES = {kind: number for number, kind in enumerate(NamespaceType)}  # enum pg_ns_type of bpf/maps/process.h
_CAPABILITIES = {kind: number for number, kind in enumerate(CapabilityType)}  # enum pg_cap_type


def pid_condition(condition: PidFilter, table: LineageTable) -> str:
    """table: has the predicate of a filter with followForks."""
    reader = "pg_ns_tgid()" if condition.namespace_pid else "pg_tgid()"
    own = _any(reader, condition.values)
    if not condition.follow_forks:
        return f"!({own})" if condition.operator.negative else own
    placed = table.find(pid_predicate(condition))
    asked = f"({placed.bit}, {placed.since}ULL)"
    if condition.operator.negative:
        return f"(!({own}) && pg_outside_lineage{asked})"
    return f"({own} || pg_in_lineage{asked})"


def lineage_condition(condition: BinaryFilter, table: LineageTable, *, of_parent: bool) -> str:
    """A filter with followChildren; table has its predicate. of_parent: matchParentBinaries."""
    placed = table.find(binary_predicate(condition))
    whose = "pg_parent_" if of_parent else "pg_"
    side = "outside" if condition.operator.negative else "in"
    return f"{whose}{side}_lineage({placed.bit}, {placed.since}ULL)"


def namespace_condition(condition: NamespaceFilter, host: Mapping[NamespaceType, int]) -> str:
    """host: inode numbers of the host's namespaces. Of a type that this kernel lacks everybody is in the same, 0."""
    values = (*condition.values, *([host.get(condition.namespace, 0)] if condition.host else []))
    found = _any(f"pg_ns_inum({_NAMESPACES[condition.namespace]})", values)
    return f"!({found})" if condition.operator.negative else found


def namespace_change_condition(condition: NamespaceChangeFilter) -> str:
    """Any of the types, as one mask."""
    mask = sum(1 << _NAMESPACES[kind] for kind in set(condition.namespaces))
    return f"pg_ns_{_changed(condition.operator.negative)}({mask:#x})"


def capability_condition(condition: CapabilityFilter) -> str:
    """Any of the mask."""
    found = f"(pg_caps({_CAPABILITIES[condition.type]}, {int(condition.namespaced)}) & {condition.mask:#x}ULL)"
    return f"!{found}" if condition.operator.negative else f"{found} != 0"


def capability_change_condition(condition: CapabilityChangeFilter) -> str:
    """Any of the mask."""
    name = f"pg_caps_{_changed(condition.operator.negative)}"
    return f"{name}({_CAPABILITIES[condition.type]}, {condition.mask:#x}ULL, {int(condition.namespaced)})"


def _changed(negative: bool) -> str:
    return "unchanged" if negative else "changed"


def _any(reader: str, values: tuple[int, ...]) -> str:
    """Read once, and compared with each."""
    if not values:
        return "0"
    terms = " || ".join(f"v_ == {value}U" for value in sorted(set(values)))
    return f"({{ __u32 v_ = {reader}; {terms}; }})"
