# SPDX-License-Identifier: Apache-2.0
"""The command podgate: policies, events and the state of a node's agent.

Exit status: 0 done, 1 refused or not found (the reason is on standard error), 2 usage, 3 no agent answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agent.cli.client import ControlClient, NoAgentError, connect
from agent.cli.lazy import LazyGroup
from agent.cli.output import EXIT_REFUSED, NoAgent, Refused, as_fields, ask, json_option, print_json, print_table

HOOK_HEADER = ("KIND", "NAME", "THROUGH", "PROGRAMS", "INSTRUCTIONS", "MISSED")
STAGE_HEADER = ("BY", "STAGE", "COUNT", "P50 MS", "P99 MS", "MAX MS", "HEADROOM MS", "LAST SUCCESS", "OUTCOMES")
EVENTS = (b'{"type":"policy"', b'{"type":"unannounced"')


@click.group(
    cls=LazyGroup,
    later={"hooks": "agent.cli.hooks:hooks", "policy": "agent.cli.policy:policy"},
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    """What the agent has done, everything that it hooks, and what went wrong."""
    fields = as_fields(ask(ControlClient(run_dir).status))
    if output == "json":
        print_json(fields)
        return
    tables = ((map(_hook_row, fields.pop("hooks")), HOOK_HEADER), (map(_stage_row, fields.pop("stages")), STAGE_HEADER))
    print_table(
        (name, json.dumps(value) if isinstance(value, dict | list) else value) for name, value in fields.items()
    )
    for rows, header in ((list(rows), header) for rows, header in tables):
        if rows:
            click.echo()
            print_table(rows, header)


def _hook_row(hook: dict[str, Any]) -> tuple[object, ...]:
    through = ", ".join(hook["through"])
    return (hook["kind"], hook["name"], through, hook["programs"], hook["instructions"], hook["missed"])


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
        print_json([{"name": r.name, "ok": r.ok, "needed": r.needed, "detail": r.detail} for r in results])
    else:
        rows = [(r.name, "yes" if r.ok else "NO", "needed" if r.needed else "", r.detail) for r in results]
        print_table(rows, ("CAPABILITY", "HERE", "", "DETAIL"))
    if any(r.needed and not r.ok for r in results):
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
