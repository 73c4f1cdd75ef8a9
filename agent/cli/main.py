# SPDX-License-Identifier: Apache-2.0
"""The command podgate: policies, events and the state of a node's agent.

Exit status: 0 done, 1 refused or not found (the reason is on standard error), 2 usage, 3 no agent answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from tabulate import tabulate

from agent.api import control_pb2
from agent.cli.client import ControlClient, NoAgentError, connect
from agent.cli.hooks import hooks
from agent.policy.errors import PolicyErrors
from agent.policy.reader import parse_policies
from nri_plugin.ttrpc import RemoteError

EXIT_REFUSED = 1
EXIT_NO_AGENT = 3
STDIN = "-"
STAGE_HEADER = ("BY", "STAGE", "COUNT", "P50 MS", "P99 MS", "MAX MS", "HEADROOM MS", "LAST SUCCESS", "OUTCOMES")
EVENTS = (b'{"type":"policy"', b'{"type":"unannounced"')

json_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


class Refused(click.ClickException):
    """Prints the reason as it is: a policy's errors are file:line:column lines already."""

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(self.message, err=True)


class NoAgent(Refused):
    exit_code = EXIT_NO_AGENT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path("/run/podgate"),
    show_default=True,
    envvar="PODGATE_RUN_DIR",
    help="Where the agent's sockets are.",
)
@click.version_option(package_name="podgate")
@click.pass_context
def main(context: click.Context, run_dir: Path) -> None:
    """Tracing policies that are in force before a container's first instruction."""
    context.obj = run_dir


@main.group()
def policy() -> None:
    """Check, add, delete and list policies."""


@policy.command()
@click.argument("files", nargs=-1, required=True)
@json_option
def check(files: Sequence[str], output: str) -> None:
    """Read policies and tell every error with its place. Needs no agent. FILE - is standard input."""
    found: list[dict[str, Any]] = []
    errors: list[str] = []
    for file in files:
        try:
            policies = parse_policies(_read(file), _shown(file))
        except PolicyErrors as error:
            errors += map(str, error.errors)
            continue
        found += [
            {
                "policy": str(p.key),
                "kind": p.kind.value,
                "calls": sorted({h.syscall for h in p.hooks}),
                "source": str(p.source),
            }
            for p in policies
        ]
    _print_check(found, errors, output)
    if errors:
        sys.exit(EXIT_REFUSED)


def _print_check(found: list[dict[str, Any]], errors: list[str], output: str) -> None:
    if output == "json":
        click.echo(json.dumps({"ok": not errors, "policies": found, "errors": errors}, indent=2))
        return
    for row in found:
        click.echo(f"{row['source']}: {row['kind']} {row['policy']} on {', '.join(row['calls'])}: ok")
    for line in errors:
        click.echo(line, err=True)


@policy.command()
@click.argument("files", nargs=-1, required=True)
@json_option
@click.pass_obj
def add(run_dir: Path, files: Sequence[str], output: str) -> None:
    """Put policies in force. All of a file or none; one of the same name is replaced. FILE - is standard input."""
    client = ControlClient(run_dir)
    statuses: list[control_pb2.PolicyStatus] = []
    for file in files:
        text = _read(file)
        statuses += _ask(lambda text=text, file=file: client.add(_shown(file), text)).policies
    if output == "json":
        _print_json(statuses)
        return
    for status in statuses:
        done = f"{status.change}, {status.state} after {status.milliseconds} ms"
        click.echo(f"{_key(status)}: {done}, selects {status.containers} containers")
    _print_notes(statuses)


@policy.command()
@click.argument("name")
@click.option("-n", "--namespace", default="", help="Of a TracingPolicyNamespaced; NAME can also be NAMESPACE/NAME.")
@json_option
@click.pass_obj
def delete(run_dir: Path, name: str, namespace: str, output: str) -> None:
    """End a policy."""
    if not namespace and "/" in name:
        namespace, _, name = name.partition("/")
    status = _ask(lambda: ControlClient(run_dir).delete(name, namespace)).policy
    if output == "json":
        _print_json([status])
    else:
        click.echo(f"{_key(status)}: deleted after {status.milliseconds} ms")


@policy.command("list")
@json_option
@click.pass_obj
def list_(run_dir: Path, output: str) -> None:
    """The policies of this node. Exit status 1 when one of them is not in force."""
    statuses = _ask(ControlClient(run_dir).list).policies
    if output == "json":
        _print_json(statuses)
    else:
        rows = [
            (s.name, s.namespace, s.kind, s.state, s.containers, ",".join(s.system_calls), s.error) for s in statuses
        ]
        click.echo(
            tabulate(rows, ("NAME", "NAMESPACE", "KIND", "STATE", "CONTAINERS", "CALLS", "ERROR"), tablefmt="plain")
        )
        _print_notes(statuses)
    if any(status.state != "enabled" for status in statuses):
        sys.exit(EXIT_REFUSED)


@main.command()
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    help="End after so many seconds without a line; exit status 1 if --count was not reached.",
)
@click.pass_obj
def events(run_dir: Path, count: int | None, timeout: float | None) -> None:
    """Print events as they come, one JSON object a line. What was lost comes as a line of its own."""
    seen = 0
    try:
        for line in _lines(run_dir, timeout):
            if line.startswith(b'{"type":"subscribed"'):
                click.echo("listening", err=True)
                continue
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            seen += line.startswith(EVENTS)
            if count and seen >= count:
                return
    except TimeoutError:
        if count:
            raise Refused(f"{seen} of {count} events came, then none for {timeout:g} s") from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone: nothing more to say


def _lines(run_dir: Path, timeout: float | None) -> Iterable[bytes]:
    try:
        channel = connect(run_dir / "events.sock", timeout)
    except NoAgentError as error:
        raise NoAgent(str(error)) from error
    with channel:
        rest = b""
        while data := channel.recv(1 << 16):
            *whole, rest = (rest + data).split(b"\n")
            yield from (line + b"\n" for line in whole)
    raise NoAgent("the agent ended the stream")


@main.command()
@json_option
@click.pass_obj
def status(run_dir: Path, output: str) -> None:
    """What the agent has done and what went wrong."""
    answer = _ask(ControlClient(run_dir).status)
    fields = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if output == "json":
        click.echo(json.dumps(fields, indent=2))
        return
    stages = fields.pop("stages")
    rows = [(name, json.dumps(value) if isinstance(value, dict | list) else value) for name, value in fields.items()]
    click.echo(tabulate(rows, tablefmt="plain"))
    if stages:
        click.echo()
        click.echo(tabulate(map(_stage_row, stages), STAGE_HEADER, tablefmt="plain"))


main.add_command(hooks)


def _stage_row(stage: dict[str, Any]) -> tuple[object, ...]:
    """Milliseconds; - for what is not known."""
    last = int(stage["last_success_us"])
    return (
        stage["door"],
        stage["stage"],
        stage["count"],
        *(f"{int(stage[name]) / 1000:.2f}" for name in ("p50_us", "p99_us", "max_us")),
        f"{int(stage['headroom_us']) / 1000:.0f}" if int(stage["timeout_us"]) else "-",
        datetime.fromtimestamp(last / 1e6, UTC).isoformat(timespec="seconds") if last else "-",
        " ".join(f"{name}={count}" for name, count in sorted(stage["outcomes"].items())),
    )


@main.command()
@json_option
def doctor(output: str) -> None:
    """Try what this node's kernel can do. Needs root, no agent. Exit status 1 when podgate cannot run here."""
    from agent.kernel.probes import probe_all

    results = probe_all()
    if output == "json":
        click.echo(
            json.dumps(
                [{"name": r.name, "ok": r.ok, "needed": r.needed, "detail": r.detail} for r in results], indent=2
            )
        )
    else:
        rows = [(r.name, "yes" if r.ok else "NO", "needed" if r.needed else "", r.detail) for r in results]
        click.echo(tabulate(rows, ("CAPABILITY", "HERE", "", "DETAIL"), tablefmt="plain"))
    if any(r.needed and not r.ok for r in results):
        sys.exit(EXIT_REFUSED)


def _print_notes(statuses: Iterable[control_pb2.PolicyStatus]) -> None:
    """What is not enforced although the policies are, once each."""
    for note in sorted({note for status in statuses for note in status.notes}):
        click.echo(f"note: {note}", err=True)


def _ask(call: Any) -> Any:
    try:
        return call()
    except RemoteError as error:
        raise Refused(error.message) from error
    except NoAgentError as error:
        raise NoAgent(str(error)) from error


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error


def _shown(file: str) -> str:
    return "<stdin>" if file == STDIN else file


def _key(status: control_pb2.PolicyStatus) -> str:
    return f"{status.namespace}/{status.name}" if status.namespace else status.name


def _print_json(statuses: Iterable[control_pb2.PolicyStatus]) -> None:
    rows = [
        MessageToDict(s, preserving_proto_field_name=True, always_print_fields_with_no_presence=True) for s in statuses
    ]
    click.echo(json.dumps(rows, indent=2))
    return


if __name__ == "__main__":
    main()
