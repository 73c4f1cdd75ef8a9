# SPDX-License-Identifier: Apache-2.0
"""Selectors as sentences: their conditions, and what a match does."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.errors import quote
from agent.policy.explain_words import (
    capabilities,
    duration,
    either,
    error_name,
    expression,
    joined,
    signal_name,
    text,
    value,
)
from agent.policy.explain_workloads import applies_in_selector
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    Cel,
    Hook,
    HookKind,
    NamespaceChangeFilter,
    NamespaceFilter,
    Operator,
    PidFilter,
    Policy,
    RateScope,
    Selector,
    posts,
)

ALWAYS = "always"
_EQUALITIES = frozenset({Operator.EQUAL, Operator.IN, Operator.IN_MAP})
# By the positive operator: how it reads, and how its negation does.
VERBS = {
    Operator.EQUAL: ("is", "is not"),
    Operator.IN: ("is", "is not"),
    Operator.IN_MAP: ("is", "is not"),
    Operator.GT: ("is greater than", ""),
    Operator.LT: ("is less than", ""),
    Operator.MASK: ("has a bit in common with", ""),
    Operator.IN_RANGE: ("is from", "is not from"),
    Operator.PREFIX: ("begins with", "does not begin with"),
    Operator.POSTFIX: ("ends with", "does not end with"),
    Operator.SUBSTRING: ("contains", ""),
    Operator.SUBSTRING_IGNORE_CASE: ("contains, in upper or lower case,", ""),
    Operator.FILE_TYPE: ("is of file type", "is not of file type"),
    Operator.SADDR: ("has its source address in", "does not have its source address in"),
    Operator.DADDR: ("has its destination address in", "does not have its destination address in"),
    Operator.SPORT: ("has the source port", "does not have the source port"),
    Operator.DPORT: ("has the destination port", "does not have the destination port"),
    Operator.SPORT_PRIV: ("has a source port below 1024", "does not have a source port below 1024"),
    Operator.DPORT_PRIV: ("has a destination port below 1024", "does not have a destination port below 1024"),
    Operator.PROTOCOL: ("is of protocol", ""),
    Operator.FAMILY: ("is of family", ""),
    Operator.STATE: ("is in state", ""),
}
_SCOPES = {
    RateScope.THREAD: "per thread",
    RateScope.PROCESS: "per process",
    RateScope.GLOBAL: "on the node",
}


def describe_arg(arg: Arg, kind: HookKind) -> str:
    """`argument 1 (string)`, with its label and the members that lead to it. Of `data` where it begins."""
    if arg.data_source is not None:
        name = arg.data_source.value
    else:
        name = f"{'field' if kind is HookKind.TRACEPOINT else 'argument'} {arg.index}"
    members = "".join(f".{member}" for member in arg.resolve)
    label = f" {quote(arg.label)}" if arg.label else ""
    return f"{name}{members}{label} ({arg.type.value})"


def conditions(selector: Selector, hook: Hook, policy: Policy) -> str:
    """All that must hold at the entry, as one sentence's part."""
    return joined([*_of_values(selector, hook), *_of_process(selector, policy)]) or ALWAYS


def return_conditions(selector: Selector, hook: Hook) -> str:
    """All that must hold at the return."""
    arg_type = hook.return_arg.type if hook.return_arg else None
    return joined([f"what is returned {_compared(each, arg_type)}" for each in selector.return_args]) or ALWAYS


def _of_values(selector: Selector, hook: Hook) -> Iterator[str]:
    for filters, declared in ((selector.args, hook.args), (selector.data, hook.data)):
        for each in filters:
            yield describe_filter(each, tuple(declared[place] for place in each.positions), hook)


def describe_filter(each: ArgFilter, args: tuple[Arg, ...], hook: Hook) -> str:
    """args: those that it looks at."""
    if each.operator is Operator.CEL_EXPR:
        trees = (expression(tree) for tree in each.values if isinstance(tree, Cel))
        names = (f"arg{n} is {describe_arg(a, hook.kind)}" for n, a in zip(each.positions, args, strict=True))
        return f"{' '.join(trees)} holds, where {either(names, 'and')}"
    if each.operator is Operator.CAPABILITIES_GAINED:
        before, after = (describe_arg(arg, hook.kind) for arg in args)
        masks = [mask for mask in each.values if isinstance(mask, int)]
        which = either(capabilities(masks[0])) if masks else "a capability"
        return f"{after} has {which}, which {before} does not have"
    (arg,) = args
    return f"{describe_arg(arg, hook.kind)} {_compared(each, arg.type)}"


def _compared(each: ArgFilter, arg_type: ArgType | None) -> str:
    return _is(each.operator, [value(each.operator, arg_type, wanted) for wanted in each.values])


def _is(operator: Operator, values: list[str]) -> str:
    """The operator and what it compares with."""
    verb = VERBS[operator.positive][operator.negative]
    if operator.negative and operator.positive in _EQUALITIES and len(values) > 1:
        return f"is none of {either(values, 'and')}"
    return f"{verb} {either(values)}" if values else verb


def _of_process(selector: Selector, policy: Policy) -> Iterator[str]:
    yield from map(_pids, selector.pids)
    yield from (_binaries(each, "the binary", "an ancestor's") for each in selector.binaries)
    yield from (_binaries(each, "the parent's binary", "one of its ancestors'") for each in selector.parent_binaries)
    yield from map(_namespaces, selector.namespaces)
    yield from map(_namespace_changes, selector.namespace_changes)
    yield from map(_capabilities, selector.capabilities)
    yield from map(_capability_changes, selector.capability_changes)
    for workload in selector.workloads:
        yield f"the process is one of: {applies_in_selector(policy, workload)}"


def _pids(each: PidFilter) -> str:
    where = " in its own pid namespace" if each.namespace_pid else ""
    whose = f"the process id{where}" + (", or that of an ancestor," if each.follow_forks else "")
    if each.operator.negative and each.follow_forks:
        whose = f"neither the process id{where} nor that of an ancestor"
        return f"{whose} is {either(map(str, each.values))}"
    return f"{whose} {_is(each.operator, [str(number) for number in each.values])}"


def _binaries(each: BinaryFilter, whose: str, ancestors: str) -> str:
    values = [text(path) for path in each.values]
    if each.follow_children and each.operator.negative:
        return f"neither {whose} nor {ancestors} {_is(each.operator.positive, values)}"
    return f"{f'{whose}, or {ancestors},' if each.follow_children else whose} {_is(each.operator, values)}"


def _namespaces(each: NamespaceFilter) -> str:
    values = [*(["the host's"] if each.host else []), *map(str, each.values)]
    return f"the {each.namespace.value} namespace {_is(each.operator, values)}"


def _namespace_changes(each: NamespaceChangeFilter) -> str:
    names = either(kind.value for kind in each.namespaces)
    verb = "no other than" if each.operator.negative else "another than"
    return f"the {names} namespace is {verb} at the process's execve"


def _capabilities(each: CapabilityFilter) -> str:
    verb = "has none of" if each.operator.negative else "has"
    return f"the {_set(each)} {verb} {either(capabilities(each.mask))}{_where(each)}"


def _capability_changes(each: CapabilityChangeFilter) -> str:
    verb = "neither gained nor lost" if each.operator.negative else "gained or lost"
    return f"the {_set(each)} {verb} {either(capabilities(each.mask))} since the process's execve{_where(each)}"


def _set(each: CapabilityFilter | CapabilityChangeFilter) -> str:
    return f"{each.type.value.lower()} capability set"


def _where(each: CapabilityFilter | CapabilityChangeFilter) -> str:
    return ", in whatever user namespace" if each.namespaced else ""


def describe_actions(
    actions: tuple[Action, ...], hook: Hook, *, at_return: bool = False, means: str = ""
) -> tuple[str, ...]:
    """What a match does, one entry each, the event first. at_return: these are a selector's return actions. means: how
    Override is done, "" when there is nothing to say of that.
    """
    post = next((action for action in actions if action.kind is ActionKind.POST), Action(ActionKind.POST))
    others = [_describe(action, hook, means) for action in actions if action.kind in ACTION_TEXTS]
    if hook.returns and not at_return and hook.return_selectors:
        return (f"the selectors of the return are asked then{_limit(post)}", *others)
    if not posts(actions):
        return ("no event", *others)
    if hook.returns and not at_return:
        return (f"an event at the return{_extras(post)}{_limit(post)}", *others)
    return (f"an event{_extras(post)}{_limit(post)}", *others)


def _describe(action: Action, hook: Hook, means: str) -> str:
    done = ACTION_TEXTS[action.kind](action, hook)
    return f"{done}, {means}" if means and action.kind is ActionKind.OVERRIDE else done


def _extras(post: Action) -> str:
    wanted = (("the kernel's stack", post.kernel_stack), ("the process's stack", post.user_stack))
    extras = [name for name, given in (*wanted, ("the file's IMA digest", post.ima_hash)) if given]
    return f" with {either(extras, 'and')}" if extras else ""


def _limit(post: Action) -> str:
    if not post.rate_ms:
        return ""
    return f", of equal ones at most one in {duration(post.rate_ms)} {_SCOPES[post.rate_scope]}"


def _signal(action: Action, _hook: Hook) -> str:
    return f"{signal_name(action.signal)} to the calling process"


def _override(action: Action, _hook: Hook) -> str:
    if action.error:
        return f"the call returns {error_name(action.error)} without being carried out"
    where = (action.new_symbol, action.new_address and f"{action.new_address:#x}")
    place = next((text for text in where if text), "")
    if place:
        return f"the process goes on at {place} instead"
    if action.registers:
        return f"the registers are set: {', '.join(action.registers)}"
    return f"the process goes on at offset {action.new_offset:#x} of the file instead"


def _notify(action: Action, _hook: Hook) -> str:
    parts = [signal_name(action.signal)] if action.signal else []
    parts += [f"the result {error_name(action.error)}"] if action.error else []
    return f"the next enforced call of this thread gets {either(parts, 'and')}"


def _set_argument(action: Action, hook: Hook) -> str:
    return f"{describe_arg(hook.args[action.position], hook.kind)} is set to {action.value}"


def _track(action: Action) -> str:
    return f"the socket in argument {action.sock} is this process's from now on, unless it is another's who lives"


def _untrack(action: Action) -> str:
    return f"whose the socket in argument {action.sock} is, is forgotten"


ACTION_TEXTS = {
    ActionKind.SIGKILL: lambda _action, _hook: "SIGKILL to the calling process",
    ActionKind.SIGNAL: _signal,
    ActionKind.OVERRIDE: _override,
    ActionKind.NOTIFY_ENFORCER: _notify,
    ActionKind.CLEANUP_ENFORCER: lambda _action, _hook: "what the next enforced call was to get is forgotten",
    ActionKind.TRACK_SOCK: lambda action, _hook: _track(action),
    ActionKind.UNTRACK_SOCK: lambda action, _hook: _untrack(action),
    ActionKind.GET_URL: lambda action, _hook: f"the agent fetches {action.text}, where it is allowed to",
    ActionKind.DNS_LOOKUP: lambda action, _hook: f"the agent looks up {action.text}, where it is allowed to",
    ActionKind.SET: _set_argument,
}
