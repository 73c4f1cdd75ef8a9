# SPDX-License-Identifier: Apache-2.0
"""What programs for a kernel function or a system call are attached to: the cheapest that does all the policy wants.

fentry costs least, but a program of fentry or fmod_ret that is interrupted by another process lets that one's call of
the same function by: on a kernel that can be preempted kprobes and LSM programs are taken instead where they can be.
LSM programs miss nothing; kprobes do while somebody who changes a map by bpf(2) is interrupted. Override takes a
program whose result the kernel asks for: of the security module `bpf`, of fmod_ret, or one that calls
bpf_override_return.
"""

from __future__ import annotations

from agent.policy.access import HookPoint, PointHook, PointKind, syscall_function
from agent.policy.errors import quote
from agent.policy.facts import Abilities, Facts, FactsError, KernelFunction, NoFunctionError, Prototype, Shape
from agent.policy.fields import nearest
from agent.policy.model import Action, ActionKind, Hook, HookKind
from agent.policy.resolve_btf import spell
from agent.policy.resolve_faults import ResolveError

OVERRIDE_METHOD = "override-method"  # an option of a policy
FMOD_RET = "fmod-ret"
OVERRIDE_RETURN = "override-return"
MAX_ARGUMENTS = 6  # MAX_BPF_FUNC_REG_ARGS of include/linux/bpf.h, and the registers of the System V ABI
SECURITY = "security_"
LSM_FUNCTION = "bpf_lsm_"
_WORD = 8
_COMPOSITES = frozenset({Shape.STRUCT, Shape.UNION})
# Functions that the kernel marks __noreturn; programs of fexit on them are refused since Linux 6.16.
NEVER_RETURN = frozenset(
    {
        "__module_put_and_kthread_exit",
        "__x64_sys_exit",
        "__x64_sys_exit_group",
        "do_exit",
        "do_group_exit",
        "kthread_complete_and_exit",
        "kthread_exit",
        "make_task_dead",
    }
)
# System calls after which there is nothing to return to, or another place.
_ONE_WAY = frozenset({"exit", "exit_group", "rt_sigreturn"})
_DOCTOR = "see `podgate doctor`"
_NO_RETURN = "the kernel passes by the return of what bpf_override_return keeps from running, which the hook waits for"


class OverrideError(ResolveError):
    """What is wrong is Override, not the hook."""


def override_of(hook: Hook) -> Action | None:
    """The first action Override of a hook."""
    actions = (action for selector in hook.selectors for action in selector.actions)
    return next((action for action in actions if action.kind is ActionKind.OVERRIDE), None)


def hooked_function(rule: PointHook) -> str:
    """The name of the function as the policy has it: `security_file_open` also where an LSM hook takes its place."""
    is_stand_in = rule.point.kind is PointKind.LSM and rule.hook.kind is not HookKind.LSM
    return f"{SECURITY}{rule.point.name}" if is_stand_in else rule.point.name


def choose_point(hook: Hook, function: KernelFunction, facts: Facts, method: str) -> HookPoint:
    """Where a KPROBE, FENTRY or LSM hook is attached. method: the policy's option `override-method`, "" without.

    Raises OverrideError where the function could be hooked and Override is not possible, ResolveError and FactsError
    where not even that.
    """
    if hook.kind is HookKind.LSM:
        return _lsm_point(hook, function, facts.abilities())
    if override_of(hook) is not None:
        return _overriding(hook, function, facts, method)
    kind = _observing(hook, function, facts)
    return HookPoint(kind, function.name, module=function.module)


def choose_syscall_point(call: str, hook: Hook, facts: Facts, method: str) -> HookPoint:
    """Where a hook on a system call of this kernel is attached. Raises OverrideError and FactsError."""
    abilities = facts.abilities()
    if override_of(hook) is None:
        return HookPoint(_observed_call(call, hook, facts, abilities), call)
    if method == FMOD_RET:
        what = (
            f"Override of system calls is done by bpf_override_return, and the policy wants {OVERRIDE_METHOD} {method}"
        )
        raise OverrideError(what, "leave the option out")
    if hook.returns:
        raise OverrideError(f"Override together with `return`: {_NO_RETURN}", "leave one of them out")
    refusal = abilities.kprobe or facts.override_refusal(syscall_function(call))
    if refusal:
        what = f"Override is not possible here: {refusal}"
        raise OverrideError(what, f"use Sigkill, or a hook on a function {SECURITY}*; {_DOCTOR}")
    return HookPoint(PointKind.SYSCALL_OVERRIDE, call)


def _observed_call(call: str, hook: Hook, facts: Facts, abilities: Abilities) -> PointKind:
    """The tracepoints of system calls cost every call of the machine something, so that they come last. A call that can
    be overridden has all its hooks in one place: each call is checked by all of them, and once.
    """
    function = _find(syscall_function(call), facts)
    if not abilities.kprobe and not facts.override_refusal(syscall_function(call)):
        return PointKind.SYSCALL_OVERRIDE
    is_fast = not abilities.fentry and not abilities.preemptible and call not in _ONE_WAY
    if is_fast and function and function.traceable and function.prototype is not None:
        return PointKind.SYSCALL_FENTRY
    if not abilities.kprobe and function and _ends_at_entry(hook):
        return PointKind.SYSCALL_KPROBE
    return PointKind.SYSCALL


def _ends_at_entry(hook: Hook) -> bool:
    """Whether all that a hook asks for is known at a call's entry, whatever the process's memory has."""
    numbers = all(arg.type.is_number and not arg.resolve and not arg.btf_type for arg in hook.args)
    return numbers and not hook.returns and not hook.data


def _find(name: str, facts: Facts) -> KernelFunction | None:
    try:
        return facts.function(name)
    except FactsError:
        return None


def _lsm_point(hook: Hook, function: KernelFunction, abilities: Abilities) -> HookPoint:
    name = function.name.removeprefix(LSM_FUNCTION)
    if abilities.lsm:
        what = f"LSM hooks are not possible on this node: {abilities.lsm}"
        raise ResolveError(what, f"hook the function {SECURITY}{name} with kprobes; {_DOCTOR}")
    if override_of(hook) is not None:
        _check_result(name, function.prototype)
    return HookPoint(PointKind.LSM, name)


def _observing(hook: Hook, function: KernelFunction, facts: Facts) -> PointKind:
    abilities = facts.abilities()
    if not abilities.kprobe and not facts.override_refusal(function.name):
        return PointKind.KPROBE  # a trampoline loses the error that bpf_override_return gives
    refusal = abilities.fentry or _no_trampoline(function)
    if not refusal and abilities.preemptible:
        if not abilities.kprobe:
            return PointKind.KPROBE
        refusal = "the kernel can be preempted, so that it would miss calls"
    if not refusal:
        return PointKind.FENTRY
    if hook.kind is HookKind.FENTRY:
        what = f"fentry is not possible on {quote(function.name)}: {refusal}"
        raise ResolveError(what, f"hook it with kprobes and `syscall: false`; {_DOCTOR}")
    if abilities.kprobe:
        what = f"{quote(function.name)} cannot be hooked on this node: kprobe: {abilities.kprobe}; fentry: {refusal}"
        raise ResolveError(what, f"hook a system call or a tracepoint; {_DOCTOR}")
    return PointKind.KPROBE


def _no_trampoline(function: KernelFunction) -> str:
    """Why programs of fentry and fmod_ret cannot be attached to a function; "" when they can."""
    if function.prototype is None:
        return "BTF does not have it"
    if not function.traceable:
        return "it does not begin with a place for ftrace"
    prototype = function.prototype
    if prototype.types.describe(prototype.result).shape in _COMPOSITES:
        return "it returns a structure"
    if len(prototype.parameters) > MAX_ARGUMENTS:
        return f"it has {len(prototype.parameters)} arguments, and at most {MAX_ARGUMENTS} are possible"
    sizes = [prototype.types.describe(each.type_id).size for each in prototype.parameters]
    wide = next((n for n, size in enumerate(sizes) if not 0 < size <= _WORD), None)
    return "" if wide is None else f"its argument {wide} is given in several registers, or in none"


def _overriding(hook: Hook, function: KernelFunction, facts: Facts, method: str) -> HookPoint:
    """The first kind of those that the policy and the kernel leave."""
    _check_result(function.name, function.prototype)
    abilities = facts.abilities()
    if not method and abilities.preemptible and (lsm := _stand_in(hook, function, facts)) is not None:
        return lsm
    is_security = function.name.startswith(SECURITY)
    refusals: list[str] = []
    if method == FMOD_RET or (not method and is_security):
        refusal = abilities.fmod_ret or _no_trampoline(function)
        refusal = refusal or ("" if is_security else facts.override_refusal(function.name))
        if not refusal:
            return HookPoint(PointKind.FMOD_RET, function.name, module=function.module)
        refusals.append(f"{FMOD_RET}: {refusal}")
    if method != FMOD_RET:
        refusal = abilities.kprobe or (_NO_RETURN if hook.returns else "") or facts.override_refusal(function.name)
        if not refusal:
            return HookPoint(PointKind.OVERRIDE, function.name, module=function.module)
        refusals.append(f"{OVERRIDE_RETURN}: {refusal}")
    what = f"Override is not possible on {quote(function.name)}: {'; '.join(refusals)}"
    raise OverrideError(what, _instead(function.name, facts, method))


def _instead(name: str, facts: Facts, method: str) -> str:
    if method:
        return f"leave the option {OVERRIDE_METHOD} out, or use Sigkill; {_DOCTOR}"
    if name.startswith(SECURITY):
        return f"use Sigkill; {_DOCTOR}"
    try:
        near = nearest(f"{SECURITY}{name}", facts.functions_like(f"^{SECURITY}"))
    except FactsError:
        near = []
    example = f", {near[0]} perhaps" if near else ""
    return f"hook a function that begins with {SECURITY}{example}, or use Sigkill; {_DOCTOR}"


def _stand_in(hook: Hook, function: KernelFunction, facts: Facts) -> HookPoint | None:
    """The LSM hook that a `security_` function calls, where it is given the same and its verdict is the result."""
    name = function.name.removeprefix(SECURITY)
    if name == function.name or hook.returns or facts.abilities().lsm:
        return None
    try:
        behind = facts.lsm_hook(name)
    except NoFunctionError:
        return None
    is_same = _signature(behind.prototype) == _signature(function.prototype)
    return HookPoint(PointKind.LSM, name) if is_same else None


def _signature(prototype: Prototype | None) -> tuple[str, ...]:
    if prototype is None:
        return ()
    ids = (prototype.result, *(each.type_id for each in prototype.parameters))
    return tuple(spell(prototype.types, type_id) for type_id in ids)


def _check_result(name: str, prototype: Prototype | None) -> None:
    """Override answers with a negative error number, which must be what the callers of a function understand."""
    if prototype is None:
        what = f"Override answers with an error number, and BTF does not say what {quote(name)} returns"
        raise OverrideError(what, "use Sigkill, or hook a function that BTF has")
    result = prototype.types.describe(prototype.result)
    if result.shape is Shape.INTEGER and result.signed and result.size in (4, 8):
        return
    text = "nothing" if result.shape is Shape.VOID else spell(prototype.types, prototype.result)
    what = f"Override answers with an error number, and {quote(name)} returns {text}"
    raise OverrideError(what, "use Sigkill, or hook a function that returns int")
