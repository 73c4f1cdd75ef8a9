# SPDX-License-Identifier: Apache-2.0
"""Which actions and parameters a hook can carry out, by its kind alone; what depends on the node comes later."""

from agent.policy.context import HookShape
from agent.policy.model import ActionKind, HookKind

# What is wrong, and what to write.
Refusal = tuple[str, str]

_USER = frozenset({HookKind.UPROBE, HookKind.USDT})
_OBSERVING = frozenset({HookKind.TRACEPOINT, HookKind.RAW_TRACEPOINT, HookKind.USDT})
_OF_LSM = frozenset({ActionKind.POST, ActionKind.NO_POST, ActionKind.SIGKILL, ActionKind.SIGNAL, ActionKind.OVERRIDE})
_OF_ENTRY = frozenset({ActionKind.OVERRIDE, ActionKind.NOTIFY_ENFORCER, ActionKind.SET})
_OF_ENFORCERS = frozenset({ActionKind.NOTIFY_ENFORCER, ActionKind.CLEANUP_ENFORCER})
_OF_AGENT = frozenset({ActionKind.GET_URL, ActionKind.DNS_LOOKUP})

# The hooks at which the kernel can ask IMA for a file's digest: those that may sleep and have the file.
_IMA_HOOKS = frozenset({"file_open", "file_post_open", "file_ioctl", "file_lock", "file_receive", "mmap_file"})
_IMA_PREFIX = "bprm_"


def refuse_action(kind: ActionKind, shape: HookShape, at_return: bool, has_enforcers: bool) -> Refusal | None:
    """Why a hook cannot carry out an action; None when it can."""
    name = kind.value
    if kind in _OF_ENFORCERS and not has_enforcers:
        return f"{name} needs enforcers", "list the calls that are enforced in spec.enforcers"
    if at_return and kind in _OF_ENTRY:
        return f"{name} comes too late when the call returns", "put it into matchActions"
    if kind is ActionKind.SET and shape.kind is not HookKind.USDT:
        return "Set writes an argument of a usdt and of no other hook", "leave it out"
    if kind in _OF_AGENT and shape.kind in _USER:
        return f"{name} is refused for {shape.noun}: any program could make the agent ask servers", "leave it out"
    if shape.kind is HookKind.LSM and kind not in _OF_LSM:
        return f"{name} is not supported for an lsmhook", f"use {', '.join(sorted(each.value for each in _OF_LSM))}"
    if shape.kind is HookKind.FENTRY and kind.enforces:
        return f"{name} is not supported for a fentry", "use kprobes or lsmhooks"
    return _refuse_override(shape) if kind is ActionKind.OVERRIDE else None


def _refuse_override(shape: HookShape) -> Refusal | None:
    if shape.kind in _OBSERVING:
        return f"Override is not supported for {shape.noun}: it cannot change what happens", "use Sigkill or Signal"
    return None


def refuse_stack(name: str, shape: HookShape) -> Refusal | None:
    """Why an event of a hook cannot have a stack trace; None when it can."""
    if shape.kind is HookKind.LSM:
        return f"{name} is not supported for an lsmhook", "leave it out"
    return None


def refuse_ima_hash(shape: HookShape) -> Refusal | None:
    """Why an event of a hook cannot have a file's IMA digest; None when it can."""
    calls = shape.calls
    if (
        shape.kind is HookKind.LSM
        and calls
        and all(call in _IMA_HOOKS or call.startswith(_IMA_PREFIX) for call in calls)
    ):
        return None
    known = f"{_IMA_PREFIX}*, {', '.join(sorted(_IMA_HOOKS))}"
    return "imaHash is known at some lsmhooks only", f"leave it out, or hook one of {known}"
