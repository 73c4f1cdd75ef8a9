# SPDX-License-Identifier: Apache-2.0
"""Nodes to the selectors of a hook, the macros that they name written out."""

from agent.policy import schemas
from agent.policy.context import Context, HookShape
from agent.policy.document import Entry, Mapping, Node, Scalar, Sequence
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, is_null, open_fields, suggest
from agent.policy.model import HookKind, Selector
from agent.policy.read_actions import ActionReader
from agent.policy.read_filters import FilterReader
from agent.policy.read_matches import MatchReader
from agent.policy.read_workloads import WorkloadReader
from agent.policy.values import MAX_TEXT

_RETURNING = frozenset({HookKind.SYSCALL, HookKind.KPROBE, HookKind.FENTRY, HookKind.UPROBE})
_RETURN_FIELDS = ("matchReturnArgs", "matchReturnActions")


class SelectorReader:
    """Reads the selectors of one hook."""

    def __init__(self, context: Context, shape: HookShape) -> None:
        self._context = context
        self._problems = context.problems
        self._shape = shape
        self._matches = MatchReader(context, shape)
        self._filters = FilterReader(context)
        self._workloads = WorkloadReader(context)
        self._actions = ActionReader(context, shape)

    def read(self, node: Node) -> Selector | None:
        """One selector; None with a report when it is not a mapping."""
        own = open_fields(node, schemas.SELECTOR, self._problems)
        if own is None or not isinstance(node, Mapping):
            return None
        self._context.budget.spend(node.source, 1)
        merged = merge_macros(node, own, self._context)
        fields = Fields(merged, schemas.SELECTOR, self._problems)
        self._check_return(fields)
        return Selector(
            label=read_label(fields, self._problems),
            args=self._matches.args(fields),
            data=self._matches.data(fields),
            pids=self._filters.pids(fields),
            binaries=self._filters.binaries(fields),
            parent_binaries=self._filters.parent_binaries(fields),
            namespaces=self._filters.namespaces(fields),
            namespace_changes=self._filters.namespace_changes(fields),
            capabilities=self._filters.capabilities(fields),
            capability_changes=self._filters.capability_changes(fields),
            workloads=self._workloads.match(fields),
            actions=self._actions.read(fields, "matchActions", at_return=False),
            return_args=self._matches.return_args(fields),
            return_actions=self._actions.read(fields, "matchReturnActions", at_return=True),
        )

    def _check_return(self, fields: Fields) -> None:
        given = [name for name in _RETURN_FIELDS if fields.items(name)]
        for name in given:
            if not self._shape.returns:
                fields.report(name, f"{name} is asked when the call returns", self._return_advice())
        if given and fields.node("matchWorkloads") is not None:
            what = f"matchWorkloads is asked when the call begins, and {given[0]} when it returns"
            fields.report("matchWorkloads", what, "put them into selectors of their own")

    def _return_advice(self) -> str:
        if self._shape.kind in _RETURNING:
            return f"give the {self._shape.noun.split(' ', 1)[1]} return: true and returnArg"
        return f"{self._shape.noun} has no return: leave it out"


def read_label(fields: Fields, problems: Problems) -> str:
    """The field `label`, empty when absent."""
    scalar = fields.string("label")
    if scalar is None:
        return ""
    if len(scalar.text) > MAX_TEXT:
        what = f"a label has {len(scalar.text)} characters and the limit is {MAX_TEXT}: each event carries it"
        problems.report(scalar.source, what, "shorten it")
    return scalar.text


def merge_macros(node: Mapping, fields: Fields, context: Context) -> Mapping:
    """A selector's node with the fields of its macros; faults of these keep their places in the macro."""
    entries = dict(node.entries)
    for scalar in fields.strings("macros", "the name of a macro"):
        macro = context.macros.get(scalar.text)
        if macro is None:
            advice = suggest(scalar.text, context.macros, "define it under selectorsMacros")
            context.problems.report(scalar.source, f"there is no selector macro {quote(scalar.text)}", advice)
        else:
            _merge(entries, macro, scalar, context.problems)
    return Mapping(entries, node.source)


def _merge(entries: dict[str, Entry], macro: Mapping, name: Scalar, problems: Problems) -> None:
    for field, entry in macro.entries.items():
        if field == "macros" or _is_empty(entry.value):
            continue
        if field in entries and not _is_empty(entries[field].value):
            what = f"{field} is given by the macro {quote(name.text)}, and by the selector or another macro"
            problems.report(name.source, what, "keep one of them")
        else:
            entries[field] = entry


def _is_empty(node: Node) -> bool:
    if isinstance(node, Scalar):
        return is_null(node) or not node.text
    return isinstance(node, Sequence) and not node.items
