# SPDX-License-Identifier: Apache-2.0
"""The command podgate-agent."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import TypedDict, Unpack

import click

from agent.app import Agent
from agent.config import HOOK_BINARY, Config, StartError
from agent.kernel.doors import DoorPolicy, Fallback, Treatment
from agent.kernel.errors import KernelError
from agent.kernel.loader import LoaderLimits
from agent.kernel.pins import DEFAULT_DIRECTORY
from agent.logs import configure, fields
from rthook.priority import set_priority

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SWITCH_INTERVAL_S = 0.0005  # a thread that answers a hook waits at most so long for one that parses a policy

log = logging.getLogger("podgate.agent")


class Options(TypedDict):
    """Those of the command line, by their names; grpc_address: as often as it was given."""

    run_dir: Path
    pin_dir: Path
    cache_dir: Path
    btf: Path | None
    policy_dir: Path | None
    ring_kib: int
    max_bindings: int
    arming_deadline: float
    loader_deadline: float
    loader_memory: int
    unannounced: str
    hold_deadline: float
    hold_fallback: str
    cri_socket: str
    hook_binary: Path
    own_namespace: str | None
    grpc_address: tuple[str, ...]
    allow_lookups: bool
    nice: int
    realtime: bool
    log_file: str | None
    log_level: str


def check_ring(_context: click.Context, _parameter: click.Parameter, kib: int) -> int:
    """A ring buffer's size is a power of two of pages (kernel/bpf/ringbuf.c)."""
    if kib & (kib - 1):
        raise click.BadParameter(f"{kib} is not a power of two")
    return kib


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("/run/podgate"), help="Sockets and lock.")
@click.option("--pin-dir", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY, help="Maps and links, on bpffs.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), default=Path("/var/cache/podgate/headers"), help="Header trees."
)
@click.option(
    "--btf",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PATH",
    help="The kernel's BTF, raw or in a vmlinux, when the kernel has none itself.",
)
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Policies to load at start: *.yaml, *.yml, *.json.",
)
@click.option(
    "--ring-kib", type=click.IntRange(4, 1 << 20), default=2048, callback=check_ring, help="Event ring buffer."
)
@click.option(
    "--max-bindings",
    type=click.IntRange(64, 1 << 20),
    default=65535,
    help="Cgroups that can be bound, nested ones included.",
)
@click.option(
    "--arming-deadline",
    type=click.FloatRange(0.1, 600),
    default=10.0,
    help="Seconds after which a container counts as started.",
)
@click.option(
    "--loader-deadline", type=click.FloatRange(0.1, 600), default=30.0, help="Seconds for compiling and loading."
)
@click.option("--loader-memory", type=click.IntRange(64, 1 << 16), default=2048, help="MiB of address space for that.")
@click.option(
    "--unannounced",
    type=click.Choice(["report", "strict", "hold"]),
    default="report",
    help="Containers that no hook announced: tell of them, bind them to every policy, or stop them until identified.",
)
@click.option(
    "--hold-deadline", type=click.FloatRange(0.01, 60), default=0.5, help="Seconds that a container is held at most."
)
@click.option(
    "--hold-fallback",
    type=click.Choice(["open", "strict", "kill"]),
    default="open",
    help="Then: let it go unguarded, under every policy, or kill it.",
)
@click.option(
    "--cri-socket", default="auto", help="Where to ask who a container is: a path, auto, or none.", metavar="PATH"
)
@click.option(
    "--hook-binary",
    type=click.Path(path_type=Path),
    default=HOOK_BINARY,
    help="The installed OCI hook, which is not taken for a container's process.",
)
@click.option(
    "--own-namespace",
    help="The namespace that podgate itself runs in: its containers may call the agent. [default: as the pod says]",
)
@click.option(
    "--grpc-address",
    multiple=True,
    metavar="ADDRESS",
    help="Serve the upstream RuntimeHook interface: unix:///PATH or a loopback address with port. May be repeated.",
)
@click.option(
    "--allow-lookups/--no-allow-lookups",
    default=False,
    help="Carry out the actions GetUrl and DnsLookup: the event process asks what policies name.",
)
@click.option(
    "--nice", type=click.IntRange(-20, 19), default=-10, help="Scheduling priority; starts wait for the agent."
)
@click.option(
    "--realtime/--no-realtime", default=True, help="Real-time scheduling (SCHED_RR) of hook threads, where allowed."
)
@click.option("--log-file", type=click.Path(dir_okay=False), help="Append the JSON log here instead of stderr.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def main(**options: Unpack[Options]) -> None:
    """Enforce tracing policies on this node's containers, from their first instruction on.

    Runtime hooks tell the agent of each container on RUN_DIR/agent.sock; events come out on RUN_DIR/events.sock.
    Stops on SIGTERM, and then no policy is enforced any more. Exit status 1: it could not start, and the last line of
    the log says why.
    """
    _configure(options["log_file"], options["log_level"], options["nice"])
    raise_file_limit()
    agent = Agent(make_config(options))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        agent.run(stop)
    except (StartError, KernelError, OSError) as error:
        log.error("cannot start", extra=fields(error=str(error)))
        click.echo(f"podgate-agent: {error}", err=True)
        sys.exit(1)


def make_config(options: Options) -> Config:
    """Sizes in bytes, and the own namespace as the pod says when the options do not."""
    return Config(
        run_dir=options["run_dir"],
        pin_dir=options["pin_dir"],
        cache_dir=options["cache_dir"],
        btf=options["btf"],
        policy_dir=options["policy_dir"],
        ring_bytes=options["ring_kib"] << 10,
        max_bindings=options["max_bindings"],
        arming_deadline_s=options["arming_deadline"],
        loader=LoaderLimits(options["loader_deadline"], options["loader_memory"] << 20),
        realtime=options["realtime"],
        doors=_door_policy(options),
        cri_socket=options["cri_socket"],
        hook_binary=options["hook_binary"],
        own_namespace=options["own_namespace"] or find_own_namespace(),
        grpc_addresses=options["grpc_address"],
        allow_lookups=options["allow_lookups"],
    )


def _door_policy(options: Options) -> DoorPolicy:
    return DoorPolicy(
        Treatment[options["unannounced"].upper()],
        Fallback[options["hold_fallback"].upper()],
        deadline_s=options["hold_deadline"],
        apart=True,
    )


def raise_file_limit() -> None:
    """As far as this process may: a hook point needs two descriptors, and two more while its rules change."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def find_own_namespace() -> str | None:
    """As the pod's downward API or its service account says; None outside of a pod."""
    if named := os.environ.get("POD_NAMESPACE"):
        return named
    try:
        return SERVICE_ACCOUNT.read_text().strip() or None
    except OSError:
        return None


def _configure(log_file: str | None, log_level: str, nice: int) -> None:
    try:
        configure(log_file, log_level)
    except OSError as error:
        raise click.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from error
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for reason in set_priority(nice):
        log.warning("priority_not_set", extra=fields(reason=reason))


if __name__ == "__main__":
    main()
