# SPDX-License-Identifier: Apache-2.0
"""The failure rule's file: what an installation writes where there is none, and how the one that is there fares."""

from __future__ import annotations

from rthook.failure import BUILT_IN_EXEMPT, FailureRule, Treatment, read_rule, render_rule
from rthook.install.checks import Check, judge, note, wrong
from rthook.install.host import Host
from rthook.install.options import RuleOptions

COMMENTS = (
    "What becomes of a container's start when the podgate agent does not bind it:",
    "open - it starts, unguarded; closed - it does not start; quarantine - every filtered policy binds it.",
    "Lines: default T | namespace NAME T | pattern GLOB T | exempt NAME (always open).",
)
NAME = "failure rule"


def render_new_rule(options: RuleOptions) -> bytes:
    """The names have been checked; the system's namespace and our own are always exempt."""
    own = (options.own_namespace,) if options.own_namespace else ()
    exempt = tuple(dict.fromkeys((*BUILT_IN_EXEMPT, *own, *options.exempt)))
    return render_rule(FailureRule(Treatment(options.default), exempt=exempt), COMMENTS).encode()


def check_rule(host: Host, path: str) -> list[Check]:
    if not host.exists(path):
        return [note(NAME, f"{path} is not there: without the agent every container starts, unguarded")]
    rule = read_rule(host.at(path))
    advice = f"correct {path}; until then its default is closed"
    faults = [wrong(NAME, f"{path}: {fault}", advice) for fault in rule.faults]
    exempt = ", ".join(rule.exempt)
    text = f"{path}: default {rule.default.value}, at most {rule.strictest.value}, exempt {exempt}"
    return faults or [judge(NAME, True, text, "")]


def refuses_starts(host: Host, path: str) -> bool:
    """Whether the file has closed or quarantine anywhere; a fault makes the default closed."""
    return host.exists(path) and read_rule(host.at(path)).strictest is not Treatment.OPEN
