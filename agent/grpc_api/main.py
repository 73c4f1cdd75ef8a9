# SPDX-License-Identifier: Apache-2.0
"""The process of the public gRPC interface: `python -m agent.grpc_api.main`, started by the agent.

It forwards to the agent's socket and holds nothing: ended and started again it goes on where it was. It ends with
status 0 at SIGTERM, SIGINT, and when the process that --parent names has ended; with 1 when it cannot start.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys

import click

from agent.grpc_api.addresses import Address, TcpAddress, parse_address
from agent.grpc_api.errors import StartError
from agent.logs import configure, fields

log = logging.getLogger("podgate.grpc")


def check_addresses(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[Address]:
    """The addresses, or click's usage error."""
    try:
        return [parse_address(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def watch(parent: int) -> int:
    """A descriptor that becomes readable when the parent has ended, pidfd_open(2). StartError when it has already."""
    try:
        descriptor = os.pidfd_open(parent)
    except OSError as error:
        raise StartError(f"process {parent}", error.strerror or str(error)) from error
    if os.getppid() != parent:
        os.close(descriptor)
        raise StartError(f"process {parent}", "it is not this process's parent, or has ended")
    return descriptor


class Ending:
    """Waits for a reason to end. From its construction on a signal no longer kills."""

    def __init__(self, parent: int | None) -> None:
        self._parent = None if parent is None else watch(parent)
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(writer)

    def wait(self) -> str:
        """The reason, once there is one."""
        watched = [self._reader] if self._parent is None else [self._reader, self._parent]
        ready, _, _ = select.select(watched, [], [])
        return "signal" if self._reader in ready else "parent ended"


def serve(addresses: list[Address], agent_socket: str, deadline: float, parent: int | None) -> None:
    """Until there is a reason to end. StartError."""
    # grpc writes errors of its own to standard error, where our lines of JSON go; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from agent.grpc_api.server import WORKERS, GrpcServer
    from agent.grpc_api.service import RuntimeHookService

    ending = Ending(parent)
    server = GrpcServer(RuntimeHookService(agent_socket, deadline, WORKERS))
    bound = server.start(addresses)
    for address in bound:
        if isinstance(address, TcpAddress):
            log.warning("every process of the host's network can announce containers", extra=fields(address=address))
    log.info("ready", extra=fields(pid=os.getpid(), addresses=[str(address) for address in bound]))
    log.info("stopping", extra=fields(reason=ending.wait()))
    server.stop()


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option(
    "--address",
    "addresses",
    multiple=True,
    required=True,
    callback=check_addresses,
    help="unix:///PATH, or HOST:PORT on the loopback interface; may be repeated.",
)
@click.option("--agent-socket", default="/run/podgate/agent.sock", help="The podgate agent's hook socket.")
@click.option(
    "--deadline",
    type=click.FloatRange(0.05, 10),
    default=1.8,
    help="Seconds for the agent's answer, when the caller does not give up sooner.",
)
@click.option("--parent", type=click.IntRange(1), help="The pid of the parent process, with which this one ends.")
@click.option("--log-file", type=click.Path(dir_okay=False), help="Append the JSON log here instead of stderr.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def main(
    addresses: list[Address],
    agent_socket: str,
    deadline: float,
    parent: int | None,
    log_file: str | None,
    log_level: str,
) -> None:
    """Serve the public gRPC interface's RuntimeHook, and forward it to the podgate agent."""
    try:
        configure(log_file, log_level)
    except OSError as error:
        raise click.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from error
    try:
        serve(addresses, agent_socket, deadline, parent)
    except StartError as error:
        log.error("cannot start", extra=fields(reason=str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
