# SPDX-License-Identifier: Apache-2.0
"""The command ``podgate-nri``."""

import logging
import re
import signal

import click

from nri_plugin.config import OnAgentDown, PluginConfig
from nri_plugin.logfmt import make_handler
from nri_plugin.plugin import Plugin
from rthook.priority import set_priority, set_realtime

log = logging.getLogger("podgate.nri")


def check_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """What containerd/nri accepts at RegisterPlugin, or click's usage error."""
    if not re.fullmatch("[A-Za-z0-9_.+-]+", value):
        raise click.BadParameter(f"{value!r} is not a name of letters, digits and _.+-")
    return value


def check_index(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """What containerd/nri accepts at RegisterPlugin, or click's usage error."""
    if not re.fullmatch("[0-9]{2}", value):
        raise click.BadParameter(f"{value!r} is not exactly two digits")
    return value


def configure_logging(log_file: str | None) -> None:
    """JSON lines to `log_file` or stderr; a usage error if it cannot be opened."""
    try:
        handler = make_handler(log_file)
    except OSError as error:
        raise click.BadParameter(f"{log_file}: {error.strerror}", param_hint="--log-file") from error
    log.addHandler(handler)
    log.setLevel(logging.INFO)


def raise_priority(nice: int, *, realtime: bool) -> None:
    """Best effort: without the right to it the plugin works, only later under load."""
    refused = set_priority(nice)
    if realtime:
        refused.append(set_realtime())
    for reason in filter(None, refused):
        log.warning("priority_not_set", extra={"fields": {"reason": reason}})


def run_plugin(config: PluginConfig) -> None:
    """Run until SIGTERM or SIGINT."""
    plugin = Plugin(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: plugin.stop())
    plugin.run()


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--nri-socket", default="/var/run/nri/nri.sock", help="The container runtime's NRI socket.")
@click.option("--agent-socket", default="/run/podgate/agent.sock", help="The podgate agent's hook socket.")
@click.option("--name", callback=check_name, default="podgate", help="The name to register with the runtime.")
@click.option("--index", callback=check_index, default="10", help="Two digits: plugins are called in this order.")
@click.option(
    "--on-agent-down",
    type=click.Choice([choice.value for choice in OnAgentDown]),
    default=OnAgentDown.OPEN.value,
    help="When the agent cannot be reached, let containers start unguarded, or refuse their start.",
)
@click.option("--log-file", type=click.Path(dir_okay=False), help="Append the JSON log here instead of stderr.")
@click.option("--nice", type=click.IntRange(-20, 19), default=-10, help="Scheduling priority; starts wait for us.")
@click.option("--realtime/--no-realtime", default=True, help="Real-time scheduling (SCHED_RR) where it is allowed.")
def main(
    nri_socket: str,
    agent_socket: str,
    name: str,
    index: str,
    on_agent_down: str,
    log_file: str | None,
    nice: int,
    realtime: bool,
) -> None:
    """Hold each container's start until the podgate agent has bound its policies.

    Connects to the container runtime as an NRI plugin (containerd 1.7 and later, cri-o 1.26 and later), and reconnects
    for ever. It changes nothing in a container. Stops on SIGTERM.
    """
    configure_logging(log_file)
    raise_priority(nice, realtime=realtime)
    run_plugin(PluginConfig(nri_socket, agent_socket, name, index, OnAgentDown(on_agent_down)))


if __name__ == "__main__":
    main()
