# SPDX-License-Identifier: Apache-2.0
"""Nodes to hooks on the kernel: kprobes, fentries, lsmhooks and tracepoints; and what all hooks have."""

from dataclasses import dataclass

from agent.policy import schemas
from agent.policy.context import Context, Declared, HookShape
from agent.policy.document import Node
from agent.policy.errors import quote
from agent.policy.fields import Fields, open_fields
from agent.policy.hook_types import types_of
from agent.policy.model import ActionKind, Arg, ArgType, Hook, HookKind, Selector, UprobeTarget
from agent.policy.read_args import ArgReader
from agent.policy.read_calls import CallReader, Calls
from agent.policy.selectors import SelectorReader
from agent.policy.spec_hooks import MAX_TAGS
from agent.policy.values import MAX_TEXT, is_event_name, is_identifier

MIN_TEXT = 2
MAX_TAG = 128

# `Post` is what happens without the field.
_RETURN_ARG_ACTIONS = {each.value: each for each in (ActionKind.TRACK_SOCK, ActionKind.UNTRACK_SOCK, ActionKind.POST)}
_SOCKETS = frozenset({ArgType.SOCK, ArgType.SOCKET})


@dataclass(frozen=True, slots=True)
class Heading:
    """What a hook is on, before its arguments and selectors are read."""

    kind: HookKind
    calls: Calls
    call: str
    section: str
    ignore_missing: bool = False
    target: UprobeTarget | None = None


@dataclass(frozen=True, slots=True)
class _Return:
    """What a hook does when the call returns."""

    returns: bool = False
    arg: Arg | None = None
    action: ActionKind | None = None


class HookBody:
    """Reads the fields that all hooks have."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems

    def hook(self, fields: Fields, heading: Heading) -> Hook:
        """The hook of a heading; what is faulty in it was reported."""
        shape, end = self._shape(fields, heading)
        reader = SelectorReader(self._context, shape)
        selectors = tuple(each for each in map(reader.read, fields.items("selectors")) if each)
        return Hook(
            kind=heading.kind,
            calls=heading.calls.names,
            call=heading.call,
            args=_known(shape.args),
            selectors=selectors or (Selector(),),
            source=fields.source,
            section=heading.section,
            data=_known(shape.data),
            returns=end.returns,
            return_arg=end.arg,
            return_arg_action=end.action,
            message=self._message(fields),
            tags=self._tags(fields),
            ignore_missing=heading.ignore_missing or heading.calls.generated,
            generated=heading.calls.generated,
            target=heading.target,
            call_pattern=heading.calls.pattern,
        )

    def _shape(self, fields: Fields, heading: Heading) -> tuple[HookShape, _Return]:
        types = types_of(heading.kind)
        reader = ArgReader(self._context, heading.kind, fields.flag("return"))
        end = self._return(fields, reader) if types.returned else _Return()
        shape = HookShape(
            kind=heading.kind,
            noun=types.noun,
            calls=heading.calls.names,
            args=reader.args(fields.items("args")),
            data=reader.data(fields.items("data")) if types.data else (),
            returns=end.returns,
            return_arg=end.arg,
        )
        return shape, end

    def _return(self, fields: Fields, reader: ArgReader) -> _Return:
        returns = fields.flag("return")
        node = fields.node("returnArg")
        if returns and node is None:
            what = "return: true needs returnArg, the type of what the call returns"
            fields.report("return", what, "give the hook the field returnArg")
        if node is not None and not returns:
            what = "returnArg says how the returned value is read, and the hook does not ask for it"
            fields.report("returnArg", what, "write return: true or leave it out")
        arg = None if node is None else reader.return_arg(node)
        return _Return(returns, arg if returns else None, self._return_arg_action(fields, arg))

    def _return_arg_action(self, fields: Fields, arg: Arg | None) -> ActionKind | None:
        action = fields.word("returnArgAction", "returnArgAction", _RETURN_ARG_ACTIONS, required=False)
        if action is None:
            return None
        if fields.node("returnArg") is None:
            fields.report("returnArgAction", "returnArgAction needs returnArg", "leave it out")
        elif action is not ActionKind.POST and arg is not None and arg.type not in _SOCKETS:
            what = f"returnArgAction {action.value} needs a returnArg of type sock or socket"
            fields.report("returnArgAction", what, "leave it out")
        return None if action is ActionKind.POST else action

    def _message(self, fields: Fields) -> str:
        scalar = fields.string("message")
        if scalar is None or not scalar.text:
            return ""
        if len(scalar.text) < MIN_TEXT:
            what = f"the message {quote(scalar.text)} has one character"
            self._problems.report(scalar.source, what, f"write {MIN_TEXT} to {MAX_TEXT}")
        return scalar.text[:MAX_TEXT]

    def _tags(self, fields: Fields) -> tuple[str, ...]:
        scalars = fields.strings("tags", "a tag")
        if len(scalars) > MAX_TAGS:
            what = f"the hook has {len(scalars)} tags and the limit is {MAX_TAGS}"
            fields.report("tags", what, "leave some out")
        for scalar in scalars:
            if len(scalar.text) < MIN_TEXT:
                what = f"the tag {quote(scalar.text)} has fewer than {MIN_TEXT} characters"
                self._problems.report(scalar.source, what, f"write {MIN_TEXT} to {MAX_TAG}")
        return tuple(scalar.text[:MAX_TAG] for scalar in scalars)


def _known(declared: tuple[Declared, ...]) -> tuple[Arg, ...]:
    return tuple(each.arg for each in declared if each.arg is not None)


class KernelHookReader:
    """Reads the hooks of one policy that stand on the kernel."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems
        self._calls = CallReader(context)
        self._body = HookBody(context)

    def kprobe(self, node: Node, section: str) -> Hook | None:
        """An entry of `kprobes`: a system call, or with `syscall: false` a function."""
        fields = open_fields(node, schemas.KPROBE, self._problems)
        if fields is None:
            return None
        is_syscall = fields.boolean("syscall", default=True) is not False
        return self._called(fields, HookKind.SYSCALL if is_syscall else HookKind.KPROBE, section)

    def fentry(self, node: Node, section: str) -> Hook | None:
        """An entry of `fentries`: always a function. The API server writes `syscall: true`, the default, into all."""
        fields = open_fields(node, schemas.KPROBE, self._problems)
        if fields is None:
            return None
        fields.flag("syscall")
        return self._called(fields, HookKind.FENTRY, section)

    def lsm_hook(self, node: Node, section: str) -> Hook | None:
        """An entry of `lsmhooks`."""
        fields = open_fields(node, schemas.LSM_HOOK, self._problems)
        scalar = None if fields is None else fields.string("hook", required=True)
        if fields is None:
            return None
        name = "" if scalar is None else scalar.text
        if scalar is not None and not is_identifier(name):
            what = f"{quote(name)} is not the name of an LSM hook"
            self._problems.report(scalar.source, what, "write one as file_open")
        return self._body.hook(fields, Heading(HookKind.LSM, Calls((name,)), name, section))

    def tracepoint(self, node: Node, section: str) -> Hook | None:
        """An entry of `tracepoints`."""
        fields = open_fields(node, schemas.TRACEPOINT, self._problems)
        if fields is None:
            return None
        kind = HookKind.RAW_TRACEPOINT if fields.flag("raw") else HookKind.TRACEPOINT
        name = f"{self._event_part(fields, 'subsystem')}/{self._event_part(fields, 'event')}"
        return self._body.hook(fields, Heading(kind, Calls((name,)), name, section))

    def _event_part(self, fields: Fields, name: str) -> str:
        scalar = fields.string(name, required=True)
        if scalar is None:
            return ""
        if not is_event_name(scalar.text):
            what = f"{quote(scalar.text)} is not the name of a tracepoint's {name}"
            advice = "write letters, digits, '_', '-', '.' and ':', as in sched and sched_process_exec"
            self._problems.report(scalar.source, what, advice)
        return scalar.text

    def _called(self, fields: Fields, kind: HookKind, section: str) -> Hook | None:
        scalar = fields.string("call", required=True)
        ignore = self._ignores_missing(fields)
        if scalar is None:
            calls = None
        elif kind is HookKind.SYSCALL:
            calls = self._calls.syscalls(scalar, ignore)
        else:
            calls = self._calls.functions(scalar)
        call = "" if scalar is None else scalar.text
        hook = self._body.hook(fields, Heading(kind, calls or Calls(), call, section, ignore))
        return None if calls is None else hook

    def _ignores_missing(self, fields: Fields) -> bool:
        node = fields.node("ignore")
        inner = None if node is None else open_fields(node, schemas.KPROBE_IGNORE, self._problems)
        return inner is not None and inner.flag("callNotFound")
