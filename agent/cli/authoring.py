# SPDX-License-Identifier: Apache-2.0
"""Commands for writing policies. None of them changes anything, and only `show NAME` needs an agent."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from agent.api import control_pb2
from agent.cli.client import ControlClient
from agent.cli.explanation import error_fields, explanation_fields, explanation_lines, gap_fields
from agent.cli.node import NodeUnknownError, look_at, make_plans, open_node
from agent.cli.output import (
    EXIT_REFUSED,
    STDIN,
    NoAgent,
    Refused,
    as_fields,
    ask,
    json_option,
    print_json,
    read_file,
    shown,
    split_name,
)
from agent.kernel.errors import KernelError
from agent.placing import Resolved
from agent.policy.automaton import SubstringTooLongError
from agent.policy.errors import PolicyError, PolicyErrors
from agent.policy.explain import Explanation, NodeView, explain_policy, refused_anywhere
from agent.policy.lineage import LineageError
from agent.policy.model import Hook, Policy
from agent.policy.model_json import policy_document
from agent.policy.plan import PlanError, str_point
from agent.policy.preview import preview
from agent.policy.reader import parse_policies
from agent.policy.resolve import resolve_policy
from agent.policy.user_facts import HookFacts

_OFFLINE = "--offline was given"


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--node", is_flag=True, help="Find the hooks and arguments on this node too. Needs root.")
@json_option
def check(files: Sequence[str], node: bool, output: str) -> None:
    """Read policies and tell every error with its place. Needs no agent, and without --node no Linux of any kind.

    FILE - is standard input. Exit status 1 when there is an error.
    """
    with ExitStack() as stack:
        facts = _open(stack) if node else None
        found = [entry for file in files for entry in _check_file(file, facts)]
    if output == "json":
        print_json([fields | {"errors": list(map(error_fields, errors))} for fields, errors in found])
    else:
        for fields, errors in found:
            _print_checked(fields, errors, " on this node" if node else "")
    if any(errors for _, errors in found):
        sys.exit(EXIT_REFUSED)


def _open(stack: ExitStack) -> HookFacts:
    """Raises Refused."""
    try:
        return stack.enter_context(open_node())
    except NodeUnknownError as error:
        raise Refused(str(error)) from error


_Checked = tuple[dict[str, Any], tuple[PolicyError, ...]]


def _check_file(file: str, facts: HookFacts | None) -> list[_Checked]:
    """Each policy with its faults; a file that cannot be read whole is one entry without a policy."""
    try:
        policies = parse_policies(read_file(file), shown(file))
    except PolicyErrors as error:
        return [({"policy": None, "kind": None, "hooks": [], "source": shown(file)}, error.errors)]
    views = [look_at(policy, facts) if facts else None for policy in policies]
    pairs = zip(policies, views, strict=True)
    return [(_summary(policy, view), view.errors if view else refused_anywhere(policy)) for policy, view in pairs]


def _summary(policy: Policy, view: NodeView | None) -> dict[str, Any]:
    """hooks: the places that were found on the node, or what the policy says."""
    if view and not view.errors:
        hooks = sorted({str_point(each.point) for found in view.hooks for each in found})
    else:
        hooks = sorted({name for hook in policy.hooks for name in _names(hook)})
    fields = {"policy": str(policy.key), "kind": policy.kind.value, "hooks": hooks, "source": str(policy.source)}
    return fields | {"not_enforced": list(map(gap_fields, view.gaps(policy)))} if view else fields


def _names(hook: Hook) -> tuple[str, ...]:
    target = hook.target
    if target is None:
        return hook.calls or (hook.call,)
    names = (*hook.calls, *target.symbols, *(f"{place:#x}" for place in (*target.offsets, *target.addresses)))
    return tuple(f"{target.path}:{name}" for name in names)


def _print_checked(fields: dict[str, Any], errors: tuple[PolicyError, ...], where: str) -> None:
    for error in errors:
        click.echo(str(error), err=True)
    if errors:
        return
    gaps = fields.get("not_enforced", ())
    done = f"ok{where}" + (f", but for {len(gaps)} that are not enforced" if gaps else "")
    hooks = ", ".join(fields["hooks"]) or "nothing"
    click.echo(f"{fields['source']}: {fields['kind']} {fields['policy']} on {hooks}: {done}")
    for gap in gaps:
        click.echo(f"{gap['source']}: {gap['section']}: {gap['name']} is not enforced here: {gap['reason']}", err=True)


@click.command()
@click.argument("file")
@click.option("--offline", is_flag=True, help="Do not ask this node, even as root.")
@json_option
def explain(file: str, offline: bool, output: str) -> None:
    """Say in words what policies do and cost, what this node cannot do of it, and what to beware of.

    Needs no agent. As root it also finds every hook and argument on this node; nothing is loaded. FILE - is standard
    input.
    """
    policies = _parse(file)
    explanations, unasked = _explain(policies, offline)
    if output == "json":
        print_json([explanation_fields(each, unasked) for each in explanations])
        return
    for number, each in enumerate(explanations):
        if number:
            click.echo()
        for line in explanation_lines(each, unasked):
            click.echo(line)


def _explain(policies: Sequence[Policy], offline: bool) -> tuple[list[Explanation], str]:
    """And why the node was not asked, empty when it was."""
    if offline:
        return [explain_policy(policy) for policy in policies], _OFFLINE
    try:
        with open_node() as facts:
            return [explain_policy(policy, look_at(policy, facts)) for policy in policies], ""
    except NodeUnknownError as error:
        return [explain_policy(policy) for policy in policies], str(error)


def _parse(file: str) -> tuple[Policy, ...]:
    """Raises Refused with every fault."""
    try:
        return parse_policies(read_file(file), shown(file))
    except PolicyErrors as error:
        raise Refused(str(error)) from error


@click.command()
@click.argument("policy")
@click.option("--c", "as_c", is_flag=True, help="The C that policies become on this node. Of a file it needs root.")
@click.option("-n", "--namespace", default="", help="Of the policy named; it can also be named NAMESPACE/NAME.")
@click.pass_obj
def show(run_dir: Path, policy: str, as_c: bool, namespace: str) -> None:
    """Show policies as they were understood, as JSON.

    POLICY is a file, - for standard input: macros and lists are written out, defaults filled in. Otherwise it is the
    name of a policy of this node, and the agent tells all that it knows of it, and what it says as `policy`.
    """
    if namespace or not (policy == STDIN or Path(policy).is_file()):
        found = _ask_policy(run_dir, policy, namespace, as_c)
        if as_c:
            click.echo(found.c, nl=False)
        else:
            print_json(as_fields(found.policy) | {"policy": json.loads(found.document)})
    elif as_c:
        click.echo(_generate(_parse(policy)), nl=False)
    else:
        print_json([policy_document(each) for each in _parse(policy)])


def _ask_policy(run_dir: Path, name: str, namespace: str, c: bool) -> control_pb2.GetPolicyResponse:
    """Raises Refused with the agent's reason, which names those that there are; NoAgent."""
    name, namespace = split_name(name, namespace)
    try:
        return ask(lambda: ControlClient(run_dir).get(name, namespace, c=c))
    except NoAgent as error:
        raise NoAgent(f"{name}: no such file, and {error.message}") from error
    except Refused as error:
        raise Refused(f"{name}: no such file, and {error.message}") from error


def _generate(policies: Sequence[Policy]) -> str:
    """Raises Refused."""
    try:
        with open_node() as facts:
            resolved = [Resolved(policy, resolve_policy(policy, facts)) for policy in policies]
        return preview(make_plans(resolved))
    except (PolicyErrors, PlanError, LineageError, SubstringTooLongError, KernelError, NodeUnknownError) as error:
        raise Refused(str(error)) from error
