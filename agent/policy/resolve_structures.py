# SPDX-License-Identifier: Apache-2.0
"""Values that are read from structures which this kernel was built without: refused, for there is no code for them."""

from __future__ import annotations

from agent.policy.access import PointHook
from agent.policy.errors import Problems
from agent.policy.facts import Facts, FactsError, Types
from agent.policy.model import Arg, ArgType

# What bpf/lib reads for a type, where a kernel's configuration decides whether it is there, and what decides.
_NEEDED = {
    ArgType.MODULE: (("module", "CONFIG_MODULES"),),
    ArgType.LOAD_INFO: (("module", "CONFIG_MODULES"), ("load_info", "CONFIG_MODULES")),
}


def check_structures(hook: PointHook, facts: Facts, problems: Problems) -> None:
    """Reports each value of a type whose structure the kernel does not have."""
    returned = (hook.hook.return_arg, hook.return_value)
    for arg, value in (*hook.args, *hook.data, returned):
        if arg is None or value is None or value.type not in _NEEDED:
            continue
        try:
            types = facts.types()
        except FactsError:
            return  # no BTF: the programs are compiled against the kernel's own headers, and those say it
        _check(hook, arg, value.type, types, problems)


def _check(hook: PointHook, arg: Arg, kind: ArgType, types: Types, problems: Problems) -> None:
    for name, option in _NEEDED[kind]:
        if types.find(f"struct {name}") is None:
            what = f"type {kind.value} is read from struct {name}, which this kernel does not have: it needs {option}"
            problems.report(arg.source or hook.hook.source, what, "leave the argument out")
            return
