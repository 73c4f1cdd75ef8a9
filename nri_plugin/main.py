# SPDX-License-Identifier: Apache-2.0
"""The command ``podgate-nri``."""

import dataclasses
import logging
import os
import signal
from pathlib import Path

import click

from nri_plugin.config import DEFAULT_AGENT_SOCKET, DEFAULT_FAILURE_RULE, DEFAULT_NRI_SOCKET, PluginConfig
from nri_plugin.logfmt import make_handler
from nri_plugin.plugin import Plugin
from nri_plugin.preinstalled import (
    DEFAULT_LOG_FILE,
    INDEX_PATTERN,
    NAME_PATTERN,
    Preinstalled,
    check_descriptor,
    parse_environment,
)
from rthook.generations import DEFAULT_PIN_DIR
from rthook.priority import set_priority, set_realtime

log = logging.getLogger("podgate.nri")


def check_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """What containerd/nri accepts at RegisterPlugin, or click's usage error."""
    if not NAME_PATTERN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a name of letters, digits and _.+-")
    return value


def check_index(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """What containerd/nri accepts at RegisterPlugin, or click's usage error."""
    if not INDEX_PATTERN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not exactly two digits")
    return value


def configure_logging(log_file: str | None) -> None:
    """JSON lines to `log_file` or stderr; a usage error if it cannot be opened."""
    try:
        handler = make_handler(log_file)
    except OSError as error:
        raise click.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from error
    add_handler(handler)


def configure_preinstalled_logging() -> None:
    """To DEFAULT_LOG_FILE, which is made when the first line comes: the configuration may name another one before.

    Standard error is /dev/null there, and containers are guarded without a log, too.
    """
    add_handler(make_handler(DEFAULT_LOG_FILE, delay=True))


def add_handler(handler: logging.Handler) -> None:
    """To the plugin's logger, from level info up."""
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def raise_priority(nice: int, *, realtime: bool) -> None:
    """Best effort: without the right to it the plugin works, only later under load."""
    refused = set_priority(nice)
    if realtime:
        refused.append(set_realtime())
    for reason in filter(None, refused):
        log.warning("priority_not_set", extra={"fields": {"reason": reason}})


def find_preinstalled() -> Preinstalled | None:
    """What the runtime that started this process says; a usage error, logged, when that makes no sense."""
    try:
        preinstalled = parse_environment(os.environ)
        if preinstalled is not None:
            check_descriptor(preinstalled.fd)
    except (ValueError, OSError) as error:
        configure_preinstalled_logging()
        log.error("cannot_start", extra={"fields": {"reason": str(error)}})
        raise click.UsageError(str(error)) from error
    return preinstalled


def run_plugin(config: PluginConfig) -> None:
    """Run until SIGTERM or SIGINT, or the end of the connection that the plugin was started with."""
    plugin = Plugin(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: plugin.stop())
    try:
        plugin.run()
    except Exception:
        # Standard error may be /dev/null.
        log.critical("ended_by_an_error", exc_info=True)
        raise


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--nri-socket", default=DEFAULT_NRI_SOCKET, help="The container runtime's NRI socket.")
@click.option("--agent-socket", default=DEFAULT_AGENT_SOCKET, help="The podgate agent's hook socket.")
@click.option(
    "--failure-rule",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_FAILURE_RULE,
    help="What becomes of a start, by namespace, when the agent is down, slow or refuses; read again when changed.",
)
@click.option(
    "--pin-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_PIN_DIR,
    help="The agent's directory in bpffs, for quarantine and for what a dead agent holds.",
)
@click.option("--name", callback=check_name, default="podgate", help="The name to register with the runtime.")
@click.option("--index", callback=check_index, default="10", help="Two digits: plugins are called in this order.")
@click.option("--log-file", type=click.Path(dir_okay=False), help="Append the JSON log here instead of stderr.")
@click.option("--nice", type=click.IntRange(-20, 19), default=-10, help="Scheduling priority; starts wait for us.")
@click.option("--realtime/--no-realtime", default=True, help="Real-time scheduling (SCHED_RR) where it is allowed.")
def main(
    nri_socket: str,
    agent_socket: str,
    failure_rule: Path,
    pin_dir: Path,
    name: str,
    index: str,
    log_file: str | None,
    nice: int,
    realtime: bool,
) -> None:
    """Hold each container's start until the podgate agent has bound its policies.

    Connects to the container runtime as an NRI plugin (containerd 1.7 and later, cri-o 1.26 and later), and reconnects
    for ever. It changes nothing in a container. Stops on SIGTERM.

    A runtime also starts it by itself, as a file NN-NAME of its plugin directory (/opt/nri/plugins). Then there are no
    options: the agent-socket, failure-rule, log-file and pin-dir come from the YAML file of the same name in
    /etc/nri/conf.d, the log goes to /var/log/podgate-nri.log unless it is named there, and the plugin ends with the
    runtime.
    """
    preinstalled = find_preinstalled()
    config = PluginConfig(nri_socket, agent_socket, name, index, failure_rule, pin_dir)
    if preinstalled is None:
        configure_logging(log_file)
    else:
        if log_file is None:
            configure_preinstalled_logging()
        else:
            configure_logging(log_file)
        config = dataclasses.replace(
            config, name=preinstalled.name, index=preinstalled.index, preconnected=preinstalled.fd
        )
    raise_priority(nice, realtime=realtime)
    run_plugin(config)


if __name__ == "__main__":
    main()
