# SPDX-License-Identifier: Apache-2.0
"""An explanation as text for people, and as values for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from agent.policy.errors import PolicyError, quote
from agent.policy.explain import Explanation, HookText, SelectorText
from agent.policy.explain_cost import Cost
from agent.policy.explain_words import count, either
from agent.policy.gaps import Gap

WIDTH = 110


def explanation_fields(explanation: Explanation, unasked: str) -> dict[str, Any]:
    """unasked: why the node was not asked."""
    node = {
        "asked": explanation.asked,
        "reason": unasked,
        "refusals": [error_fields(error) for error in explanation.refusals],
        "not_enforced": list(map(gap_fields, explanation.gaps)),
    }
    traps = [{"where": trap.where, "source": str(trap.source), "text": trap.text} for trap in explanation.traps]
    fields = asdict(explanation) | {"node": node, "traps": traps}
    return {name: value for name, value in fields.items() if name not in ("asked", "refusals", "gaps")}


def error_fields(error: PolicyError) -> dict[str, Any]:
    """A fault with its place; message: what is wrong, advice: what to write."""
    return {
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "message": error.what,
        "advice": error.advice,
    }


def gap_fields(gap: Gap) -> dict[str, Any]:
    """What is left out: by the names of the agent's own answer."""
    return {"section": gap.section, "name": gap.name, "reason": gap.reason.value, "source": str(gap.source)}


def explanation_lines(explanation: Explanation, unasked: str) -> Iterator[str]:
    """unasked: why the node was not asked."""
    yield f"{explanation.kind} {explanation.policy} ({explanation.source})"
    yield from _entry("applies to", explanation.applies_to)
    yield from _entry("mode", explanation.mode)
    if explanation.enforcers:
        yield from _entry("enforced calls", _some(explanation.enforcers))
    for hook in explanation.hooks:
        yield ""
        yield from _hook(hook)
    yield ""
    yield from _cost(explanation.cost)
    yield ""
    yield from _node(explanation, unasked)
    if explanation.traps:
        yield ""
        yield "traps"
        for trap in explanation.traps:
            yield from _item(f"{trap.where}: {trap.text}" if trap.where else trap.text)


def _entry(name: str, text: str, indent: str = "  ") -> Iterator[str]:
    """A name and its text, broken into lines; the text says what it says, so words are never cut."""
    start = f"{indent}{name}: "
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(text: str, indent: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}- ",
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _some(texts: Iterable[str]) -> str:
    return either(texts, "and")


def _hook(hook: HookText) -> Iterator[str]:
    yield f"{hook.section}: {hook.kind} {hook.call}".rstrip()
    yield from _entry("hooks", _some(hook.through))
    if hook.places:
        yield from _entry("here", _some(hook.places))
    if hook.message:
        yield from _entry("message", quote(hook.message))
    for value in hook.values:
        yield from _entry("reads", value)
    for selector in hook.selectors:
        yield from _selector("when", selector, numbered=len(hook.selectors) > 1)
    for selector in hook.at_return:
        yield from _selector("at the return, when", selector, numbered=True)
    if hook.at_return:
        yield from _entry("at the return, when none of these holds", "no event")
    elif hook.returns:
        yield from _entry("at the return", "the event, with what was returned when returnArg is given")


def _selector(when: str, selector: SelectorText, *, numbered: bool) -> Iterator[str]:
    number = f"selectors[{selector.number}]" + (f" {quote(selector.label)}" if selector.label else "")
    start = f"{number}, {when}" if numbered or selector.label else when
    yield from _entry(start, selector.when)
    yield from _entry("then", "; ".join(selector.then), "    ")


def _cost(cost: Cost) -> Iterator[str]:
    yield "cost"
    programs = "" if cost.programs is None else f", {count(cost.programs, 'program')}"
    texts = "text is compared" if cost.compares_text else "no text is compared"
    watched = "the return is watched" if cost.watches_return else "the return is not watched"
    yield from _item(f"{count(cost.hook_points, 'hook point')}{programs}; {texts}; {watched}")
    yield from _item(cost.estimate)
    for note in cost.notes:
        yield from _item(note)


def _node(explanation: Explanation, unasked: str) -> Iterator[str]:
    if explanation.asked:
        yield _asked(explanation)
    else:
        yield f"this node was not asked: {unasked}"
        if explanation.refusals:
            yield "every node refuses it"
    for told in (*explanation.refusals, *explanation.gaps):
        yield from _item(str(told))


def _asked(explanation: Explanation) -> str:
    if explanation.refusals:
        return "this node refuses it"
    if not explanation.gaps:
        return "this node can do all of it"
    some = any(hook.places for hook in explanation.hooks)
    return "this node can do it in part: not enforced are" if some else "nothing of it is enforced on this node"
