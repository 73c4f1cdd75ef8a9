# SPDX-License-Identifier: Apache-2.0
"""Conditions on the calling process, one function for each filter.

Where the kernel's side has lost track of a process, filters on lineage and on change hold, positive and negative ones
alike: a policy that may be meant is in force.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.policy.evaluate_seen import Lineage, Process, Text
from agent.policy.evaluate_values import meets_value
from agent.policy.lineage import Predicate, binary_predicate, pid_predicate
from agent.policy.model import (
    ArgFilter,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    PidFilter,
)


def _answer(found: bool, negative: bool) -> bool:
    return not found if negative else found


def _follows(lineage: Lineage, predicate: Predicate, negative: bool) -> bool:
    """Whether it is among what was met, or for a negative filter is not; both when nobody knows."""
    met = predicate in lineage.met
    return _answer(met, negative) or not (met or lineage.known)


def meets_pids(condition: PidFilter, process: Process) -> bool:
    """matchPIDs."""
    negative = condition.operator.negative
    pid = process.namespace_pid if condition.namespace_pid else process.pid
    own = _answer(pid in condition.values, negative)
    if not condition.follow_forks:
        return own
    followed = _follows(process.lineage, pid_predicate(condition), negative)
    return own and followed if negative else own or followed


def meets_binaries(condition: BinaryFilter, process: Process) -> bool:
    """matchBinaries."""
    return _meets_binary(condition, process.binary, process.lineage)


def meets_parent_binaries(condition: BinaryFilter, process: Process) -> bool:
    """matchParentBinaries."""
    return _meets_binary(condition, process.parent_binary, process.parent_lineage)


def _meets_binary(condition: BinaryFilter, binary: Text | None, lineage: Lineage) -> bool:
    negative = condition.operator.negative
    own = meets_value(ArgFilter((0,), condition.operator, condition.values), binary)
    if not condition.follow_children:
        return own
    followed = _follows(lineage, binary_predicate(condition), negative)
    return own and followed if negative else own or followed


def meets_namespace(condition: NamespaceFilter, process: Process, host: Mapping[NamespaceType, int]) -> bool:
    """matchNamespaces. host: what `host_ns` means. A process without such a namespace has the number 0."""
    wanted = set(condition.values)
    if condition.host and condition.namespace in host:
        wanted.add(host[condition.namespace])
    found = process.now.namespaces.get(condition.namespace, 0) in wanted
    return _answer(found, condition.operator.negative)


def meets_namespace_change(condition: NamespaceChangeFilter, process: Process) -> bool:
    """matchNamespaceChanges."""
    then = process.at_execve
    if then is None:
        return True
    now = process.now
    changed = any(now.namespaces.get(kind, 0) != then.namespaces.get(kind, 0) for kind in condition.namespaces)
    return _answer(changed, condition.operator.negative)


def meets_capabilities(condition: CapabilityFilter, process: Process) -> bool:
    """matchCapabilities."""
    found = process.now.capability_set(condition.type, namespaced=condition.namespaced) & condition.mask != 0
    return _answer(found, condition.operator.negative)


def meets_capability_change(condition: CapabilityChangeFilter, process: Process) -> bool:
    """matchCapabilityChanges."""
    then = process.at_execve
    if then is None:
        return True
    has = process.now.capability_set(condition.type, namespaced=condition.namespaced)
    had = then.capability_set(condition.type, namespaced=condition.namespaced)
    return _answer((has ^ had) & condition.mask != 0, condition.operator.negative)
