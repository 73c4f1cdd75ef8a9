# SPDX-License-Identifier: Apache-2.0
"""C of a chunk whose rules are asked of the owner of a socket, where that socket is tracked: calls of bpf/lib/socks.h.

`owner` is the context's struct pg_owner; its sock is 0 when no socket of the call is tracked, and the process that runs
is meant. Chunks without such rules have nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.policy.access import Value
from agent.policy.codegen_value import follow
from agent.policy.model import Action, ActionKind, ArgType, Selector
from agent.policy.placed import Rule
from agent.policy.plan import Chunk
from agent.policy.sockets import tracked_value

INCLUDE = '#include "lib/socks.h"\n'
OWNER = "owner"
FORGET = "\tpg_forget_closed(ctx);"
_ADDRESSES = {
    ArgType.SOCK: "(const struct sock *)n",
    ArgType.SOCKET: "pg_sock_of_socket(n)",
    ArgType.SKB: "pg_sock_of_skb(n)",
}
_TRACKING = {
    ActionKind.TRACK_SOCK: "pg_track_hit(call, hit, {});",
    ActionKind.UNTRACK_SOCK: "pg_untrack_hit(hit, {});",
}


def declare_owner(chunk: Chunk) -> Iterator[str]:
    """The declaration, in a function that has `call`; the pointer may be NULL."""
    if chunk.sockets:
        yield f"\tstruct pg_owner *{OWNER} = pg_owner_of(call->context);"


def owner_names(chunk: Chunk) -> list[str]:
    """What must not be NULL."""
    return [OWNER] if chunk.sockets else []


def declare_process(chunk: Chunk) -> Iterator[str]:
    """What conditions on the owner's process look at."""
    if chunk.sockets and _asks_process(chunk):
        yield "\tstruct task_struct *task;"
        yield "\t__u64 start;"
        yield "\t__u32 tgid;"


def find_process(chunk: Chunk) -> Iterator[str]:
    """Behind the check that the owner is not NULL."""
    if chunk.sockets and _asks_process(chunk):
        yield f"\ttask = pg_subject_task({OWNER});"
        yield f"\ttgid = pg_subject_tgid({OWNER});"
        yield f"\tstart = pg_subject_start({OWNER});"


def _asks_process(chunk: Chunk) -> bool:
    return any(_looks_at_process(selector) for rule in chunk.rules for selector in rule.selectors)


def _looks_at_process(selector: Selector) -> bool:
    changes = selector.namespace_changes or selector.capability_changes
    now = selector.pids or selector.namespaces or selector.capabilities
    return bool(now or changes) or any(b.follow_children for b in (*selector.binaries, *selector.parent_binaries))


def choose_subject(chunk: Chunk, words: Sequence[int], end: Iterable[str]) -> Iterator[str]:
    """Whose the call is, in a program that has `call` with its inputs, and the policies of that process in `p`. end: of
    the call, where nobody can be asked.
    """
    yield f"\t{OWNER} = pg_owner_of(call->context);"
    yield f"\tif (!{OWNER}) {{"
    yield from (f"\t\t{line}" for line in end)
    yield "\t}"
    yield from _find_owner(chunk)
    yield from _select(words)


def _find_owner(chunk: Chunk) -> Iterator[str]:
    """Whose the call is: of the first of the chunk's sockets that is tracked."""
    yield f"\t{OWNER}->sock = 0;"
    for value in chunk.sockets:
        yield from (f"\t{line}" for line in follow(chunk, value.read, "n"))
        yield "\tif (!error)"
        yield f"\t\tpg_find_owner({OWNER}, {_ADDRESSES[value.type]});"


def _select(words: Sequence[int]) -> Iterator[str]:
    """Its policies in `p`; none when there is no answer. words: those of the bindings that rules have bits in."""
    mask = sum(1 << word for word in words)
    yield f"\tif (!pg_select_subject(p, &workload, {mask:#x}, {OWNER})) {{"
    yield from (f"\t\tp[{place}] = 0;" for place in range(len(words)))
    yield "\t\tworkload = 0;"
    yield "\t}"


def settle(chunk: Chunk, may: str) -> str:
    """may: what hits may ask for."""
    arguments = f"{len(chunk.rules)}, {may}, &signals"
    return f"\tflags = pg_settle{f'_subject(call, {OWNER}' if chunk.sockets else '(call'}, {arguments});"


def limit(chunk: Chunk, arguments: str) -> str:
    """Of a hit at hand as `hit`; arguments: scope, hash and interval."""
    return f"pg_limit_subject(hit, {OWNER}, {arguments});" if chunk.sockets else f"pg_limit(hit, {arguments});"


def event_subject(chunk: Chunk) -> Iterator[str]:
    """Behind the head of an event."""
    if chunk.sockets:
        yield f"\tpg_event_subject(event, {OWNER});"


def read_binary(chunk: Chunk, what: str, slot: str) -> str:
    """what: `binary` or `parent_binary`."""
    return f"pg_read_subject_{what}({slot}, {OWNER});" if chunk.sockets else f"pg_read_{what}({slot});"


def own_stack(chunk: Chunk) -> str:
    """A condition beside that of a user stack: that of another process is nobody's business."""
    return f" && !pg_is_foreign({OWNER})" if chunk.sockets else ""


def track(chunk: Chunk, rule: Rule, action: Action) -> Iterator[str]:
    """TrackSock or UntrackSock; the hit is at hand as `hit`."""
    value: Value | None = tracked_value(rule.hook, action)
    if value is not None and action.kind in _TRACKING:
        yield from _track(chunk, value, action.kind)


def track_returned(chunk: Chunk, rule: Rule) -> Iterator[str]:
    """returnArgAction; the hit is at hand as `hit`."""
    kind = rule.hook.hook.return_arg_action
    if kind is not None and rule.hook.return_value is not None:
        yield from _track(chunk, rule.hook.return_value, kind, "!error && n")  # none was returned


def _track(chunk: Chunk, value: Value, kind: ActionKind, holds: str = "!error") -> Iterator[str]:
    yield from follow(chunk, value.read, "n")
    yield f"if ({holds}) {_TRACKING[kind].format(_ADDRESSES[value.type])}"
