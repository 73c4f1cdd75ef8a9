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
# What a program has of the process that it is asked of, where that is not always the one that runs: variables of
# agent/policy/codegen_sock.py.
_THREAD, _PROCESS, _BOTH = "task", "tgid, start", "task, tgid, start"


def _ask(name: str, of: str, *arguments: object) -> str:
    """of: the variables of the process; empty for the one that runs."""
    return f"{name}{'_of' if of else ''}({', '.join(map(str, ([of] if of else []) + list(arguments)))})"


def pid_condition(condition: PidFilter, table: LineageTable, owned: bool = False) -> str:
    """table: has the predicate of a filter with followForks. owned, here and below: of the process that the program is
    asked of.
    """
    own_pid = "tgid" if owned else "pg_tgid()"
    reader = _ask("pg_ns_tgid", _THREAD if owned else "") if condition.namespace_pid else own_pid
    own = _any(reader, condition.values)
    if not condition.follow_forks:
        return f"!({own})" if condition.operator.negative else own
    placed = table.find(pid_predicate(condition))
    side = "outside" if condition.operator.negative else "in"
    asked = _ask(f"pg_{side}_lineage", _PROCESS if owned else "", placed.bit, f"{placed.since}ULL")
    return f"(!({own}) && {asked})" if condition.operator.negative else f"({own} || {asked})"


def lineage_condition(condition: BinaryFilter, table: LineageTable, *, of_parent: bool, owned: bool = False) -> str:
    """A filter with followChildren; table has its predicate. of_parent: matchParentBinaries."""
    placed = table.find(binary_predicate(condition))
    whose = "pg_parent_" if of_parent else "pg_"
    side = "outside" if condition.operator.negative else "in"
    of = (_BOTH if of_parent else _PROCESS) if owned else ""
    return _ask(f"{whose}{side}_lineage", of, placed.bit, f"{placed.since}ULL")


def namespace_condition(condition: NamespaceFilter, host: Mapping[NamespaceType, int], owned: bool = False) -> str:
    """host: inode numbers of the host's namespaces. Of a type that this kernel lacks everybody is in the same, 0."""
    values = (*condition.values, *([host.get(condition.namespace, 0)] if condition.host else []))
    found = _any(_ask("pg_ns_inum", _THREAD if owned else "", _NAMESPACES[condition.namespace]), values)
    return f"!({found})" if condition.operator.negative else found


def namespace_change_condition(condition: NamespaceChangeFilter, owned: bool = False) -> str:
    """Any of the types, as one mask."""
    mask = sum(1 << _NAMESPACES[kind] for kind in set(condition.namespaces))
    return _ask(f"pg_ns_{_changed(condition.operator.negative)}", _BOTH if owned else "", f"{mask:#x}")


def capability_condition(condition: CapabilityFilter, owned: bool = False) -> str:
    """Any of the mask."""
    caps = _ask("pg_caps", _THREAD if owned else "", _CAPABILITIES[condition.type], int(condition.namespaced))
    found = f"({caps} & {condition.mask:#x}ULL)"
    return f"!{found}" if condition.operator.negative else f"{found} != 0"


def capability_change_condition(condition: CapabilityChangeFilter, owned: bool = False) -> str:
    """Any of the mask."""
    name = f"pg_caps_{_changed(condition.operator.negative)}"
    of = _BOTH if owned else ""
    return _ask(name, of, _CAPABILITIES[condition.type], f"{condition.mask:#x}ULL", int(condition.namespaced))


def _changed(negative: bool) -> str:
    return "unchanged" if negative else "changed"


def _any(reader: str, values: tuple[int, ...]) -> str:
    """Read once, and compared with each."""
    if not values:
        return "0"
    terms = " || ".join(f"v_ == {value}U" for value in sorted(set(values)))
    return f"({{ __u32 v_ = {reader}; {terms}; }})"
