# SPDX-License-Identifier: Apache-2.0
"""podgate policy: writing policies, and those of this node.

Exit status: 0 done; 1 refused, not found, or something is wrong with a policy; 2 usage; 3 no agent answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from agent.api import control_pb2
from agent.cli.client import ControlClient
from agent.cli.lazy import LazyGroup
from agent.cli.output import (
    EXIT_REFUSED,
    NoAgent,
    Refused,
    as_fields,
    ask,
    json_option,
    print_json,
    print_table,
    read_file,
    shown,
    split_name,
)
from agent.policy.model import PolicyMode

HEADER = (
    "ID", "NAME", "NAMESPACE", "KIND", "STATE", "MODE", "CONTAINERS", "HOOKS", "ATTACHED", "KERNELMEMORY", "POST",
    "ENFORCED", "MONITORED", "ERROR",
)  # fmt: skip
GAP_HEADER = ("POLICY", "HOOK", "NOT ENFORCED", "REASON")
SELECTOR_HEADER = ("POLICY", "HOOK", "SELECTOR", "LABEL", "AT", "DID")
ENFORCING = ("sigkill", "signal", "override", "notify_enforcer", "set")
MAX_HOOKS = 3  # in a cell of the table
IN_FORCE = ("enabled", "partial")
_WAY = re.compile(r"(?:raw )?\w+", re.ASCII)  # of what a policy is attached to: the kind of program

mode_choice = click.Choice([mode.value for mode in PolicyMode])
namespace_option = click.option(
    "-n", "--namespace", default="", help="Of a TracingPolicyNamespaced; NAME can also be NAMESPACE/NAME."
)


AUTHORING = {name: f"agent.cli.authoring:{name}" for name in ("check", "explain", "show")}


@click.group(cls=LazyGroup, later={**AUTHORING, "schema": "agent.cli.schema:schema"})
def policy() -> None:
    """Write, check, add, switch, delete and list policies."""


@policy.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--mode", type=mode_choice, help="Instead of the mode that the policies say.")
@json_option
@click.pass_obj
def add(run_dir: Path, files: Sequence[str], mode: str | None, output: str) -> None:
    """Put policies in force. All of a file or none; one of the same name is replaced. FILE - is standard input.

    In mode monitor actions that enforce are left out and counted. Every fault of every file is told, and a file
    without any is in force all the same; exit status 1 when one is not.
    """
    client = ControlClient(run_dir)
    statuses: list[control_pb2.PolicyStatus] = []
    refusals: list[str] = []
    for file, text in [(file, read_file(file)) for file in files]:
        try:
            statuses += ask(partial(client.add, shown(file), text, mode or "")).policies
        except NoAgent:
            raise
        except Refused as error:
            refusals.append(error.message)
    if output == "json":
        print_json(list(map(as_fields, statuses)))
    else:
        _print_added(statuses)
    if refusals:
        raise Refused("\n".join(refusals))


def _print_added(statuses: Sequence[control_pb2.PolicyStatus]) -> None:
    for status in statuses:
        state = f"{status.state} in monitor mode" if status.mode == PolicyMode.MONITOR.value else status.state
        done = f"{status.change}, {state} after {status.milliseconds} ms"
        click.echo(f"{_key(status)}: {done}, selects {status.containers} containers")
        for gap in status.not_enforced:
            click.echo(f"{gap.source}: {gap.section}: {gap.name} is not enforced here: {gap.reason}", err=True)
    _print_notes(statuses)


@policy.command("set-mode")
@click.argument("name")
@click.argument("mode", type=mode_choice)
@namespace_option
@json_option
@click.pass_obj
def set_mode(run_dir: Path, name: str, mode: str, namespace: str, output: str) -> None:
    """Switch a policy of this node to enforce or monitor, until it is added again.

    It is one write: a call sees the one mode or the other.
    """
    name, namespace = split_name(name, namespace)
    status = ask(lambda: ControlClient(run_dir).set_mode(name, namespace, mode)).policy
    if output == "json":
        print_json([as_fields(status)])
    else:
        click.echo(f"{_key(status)}: {status.mode} after {status.milliseconds} ms")


@policy.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@namespace_option
@json_option
@click.pass_obj
def delete(run_dir: Path, names: tuple[str, ...], namespace: str, output: str) -> None:
    """End policies.

    Several are one change: when one of them is not there, all stay.
    """
    wanted = [split_name(name, namespace) for name in names]
    statuses = ask(lambda: ControlClient(run_dir).delete_all(wanted)).policies
    if output == "json":
        print_json(list(map(as_fields, statuses)))
        return
    for status in statuses:
        click.echo(f"{_key(status)}: deleted after {status.milliseconds} ms")


@policy.command("list")
@click.option("--selectors", is_flag=True, help="What each selector did, as a second table; JSON has it anyway.")
@json_option
@click.pass_obj
def list_(run_dir: Path, selectors: bool, output: str) -> None:
    """The policies of this node. Exit status 1 when one of them is not in force.

    POST counts events, ENFORCED what was done to processes, MONITORED what monitor mode left out. STATE partial: all of
    the policy is in force but for what the table below says; not_hooked: nothing of it is.
    """
    statuses = ask(ControlClient(run_dir).list).policies
    if output == "json":
        print_json(list(map(as_fields, statuses)))
    else:
        print_table(map(_row, statuses), HEADER)
        if gaps := [row for status in statuses for row in _gap_rows(status)]:
            click.echo()
            print_table(gaps, GAP_HEADER)
        if selectors:
            click.echo()
            print_table((row for status in statuses for row in _selector_rows(status)), SELECTOR_HEADER)
        _print_notes(statuses)
    if any(status.state not in IN_FORCE for status in statuses):
        sys.exit(EXIT_REFUSED)


def _row(status: control_pb2.PolicyStatus) -> tuple[object, ...]:
    actions = status.actions
    return (
        status.id or "-",
        status.name,
        status.namespace,
        status.kind,
        status.state,
        status.mode,
        status.containers,
        _few(status.hooks),
        ",".join(_ways(status.attached)) or "-",
        _kibibytes(status.kernel_memory_bytes),
        actions.get("post", 0),
        _sum(actions, ENFORCING),
        _sum(actions, [f"monitor_{name}" for name in ENFORCING]),
        status.error,
    )


def _kibibytes(number: int) -> str:
    return f"{number / 1024:.1f} KiB" if number else "-"


def _gap_rows(status: control_pb2.PolicyStatus) -> Iterable[tuple[object, ...]]:
    """What is not enforced, and why."""
    return ((_key(status), gap.section, gap.name, gap.reason) for gap in status.not_enforced)


def _ways(attached: Iterable[str]) -> list[str]:
    """The kinds of programs, each once."""
    return sorted({found[0].replace(" ", "_") for text in attached if (found := _WAY.match(text))})


def _few(hooks: Sequence[str]) -> str:
    more = len(hooks) - MAX_HOOKS
    return ",".join(hooks[:MAX_HOOKS]) + (f",+{more}" if more > 0 else "")


def _sum(actions: Mapping[str, int], names: Iterable[str]) -> int:
    return sum(actions.get(name, 0) for name in names)


def _selector_rows(status: control_pb2.PolicyStatus) -> Iterable[tuple[object, ...]]:
    """One for each selector that did anything."""
    for each in status.selectors:
        did = " ".join(f"{name}={number}" for name, number in sorted(each.actions.items()) if number)
        at = "return" if each.at_return else "entry"
        yield (_key(status), each.function, each.selector, each.label or "-", at, did)


def _print_notes(statuses: Iterable[control_pb2.PolicyStatus]) -> None:
    """What is not enforced although the policies are, once each."""
    for note in sorted({note for status in statuses for note in status.notes}):
        click.echo(f"note: {note}", err=True)


def _key(status: control_pb2.PolicyStatus) -> str:
    return f"{status.namespace}/{status.name}" if status.namespace else status.name
