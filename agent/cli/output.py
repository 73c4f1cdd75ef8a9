# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common: their failures, reading files, asking the agent, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from agent.cli.client import NoAgentError
from agent.policy.document import MAX_FILE_BYTES
from nri_plugin.ttrpc import RemoteError

EXIT_REFUSED = 1
EXIT_NO_AGENT = 3
STDIN = "-"

json_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)

_Answer = TypeVar("_Answer")


class Refused(click.ClickException):
    """Prints the reason as it is: a policy's errors are file:line:column lines already."""

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(self.message, err=True)


class NoAgent(Refused):
    exit_code = EXIT_NO_AGENT


def ask(call: Callable[[], _Answer]) -> _Answer:
    """Raises Refused with the agent's reason, NoAgent."""
    try:
        return call()
    except RemoteError as error:
        raise Refused(error.message) from error
    except NoAgentError as error:
        raise NoAgent(str(error)) from error


def read_file(file: str) -> bytes:
    """`-` is standard input. Raises Refused; so for more than a policy file may have, and the rest is not read."""
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"{shown(file)}: more than {MAX_FILE_BYTES:,} bytes, the most of a policy file: split it")
    return data


def shown(file: str) -> str:
    """A file's name in messages."""
    return "<stdin>" if file == STDIN else file


def split_name(name: str, namespace: str) -> tuple[str, str]:
    """Name and namespace of `NAME` or `NAMESPACE/NAME`."""
    if namespace or "/" not in name:
        return name, namespace
    namespace, _, name = name.partition("/")
    return name, namespace


def print_json(value: object) -> None:
    """Indented; texts as they are."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> None:
    """Cells as they are: a policy may be called 1e5."""
    from tabulate import tabulate  # takes a tenth of the time of a command that prints no table

    click.echo(tabulate(list(rows), header, tablefmt="plain", disable_numparse=True))


def as_fields(message: Message) -> dict[str, Any]:
    """Every field of a message, those with their default too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
