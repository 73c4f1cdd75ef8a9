# SPDX-License-Identifier: Apache-2.0
"""The status of containerd: NRI as the running daemon has it, and our plugin's files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from nri_plugin.budget import ASSUMED_TIMEOUT_S, Budget
from rthook.install import preinstalled
from rthook.install.checks import Check, RuntimeStatus, judge, note, wrong
from rthook.install.containerd import FIRST_WITH_NRI
from rthook.install.containerd_state import Containerd, containerd_config_of, inspect_containerd
from rthook.install.daemon import is_listening
from rthook.install.host import Host, join
from rthook.install.options import Options, RuntimeName
from rthook.install.planner import read_record
from rthook.install.record import Installed
from rthook.install.rule import check_rule
from rthook.install.shares import RESTART

INSTALL = "podgate hooks install --runtime containerd"
REFUSAL = "an error that the plugin answers (NRI) refuses the container's start"
# The first that tells a plugin how long it waits; before, the plugin has to assume (NRI 0.8, ConfigureRequest).
FIRST_THAT_TELLS = (2, 0)

# Go's time.Duration, as containerd writes it: 2s, 500ms, 1m30s.
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|us|µs|ns|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(text: object) -> float | None:
    """Seconds; None for what is no duration."""
    if not isinstance(text, str) or not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def containerd_status(host: Host, options: Options) -> RuntimeStatus:
    """InstallError when the configuration or the record cannot be read."""
    found = inspect_containerd(host, options.containerd_config)
    installed = read_record(host).runtimes.get(RuntimeName.CONTAINERD, Installed())
    plugin = join(found.nri.get("plugin_path", ""), preinstalled.NAME)
    starts_plugin = plugin in installed.files or host.exists(plugin)
    checks = [*_daemon_checks(found), *_nri_checks(found, starts_plugin)]
    checks += check_socket(host, found) if _is_on(found) and not found.nri.get("disable_connections") else []
    checks += _plugin_checks(host, found, plugin) if starts_plugin else []
    checks += check_rule(host, options.failure_rule)
    facts = {
        "config": found.config,
        "files": [file.path for file in found.files],
        "nri_enabled": _is_on(found),
        "nri": found.nri,
        "preinstalled": starts_plugin,
    }
    pid = found.daemon.pid if found.daemon else None
    return RuntimeStatus(RuntimeName.CONTAINERD, found.version, pid, found.source, REFUSAL, facts, tuple(checks))


def _is_on(found: Containerd) -> bool:
    return not found.disabled and found.nri.get("disable") is False


def _daemon_checks(found: Containerd) -> list[Check]:
    checks = []
    if found.daemon:
        checks.append(note("daemon", f"pid {found.daemon.pid} reads {found.config}"))
        advice = f"restart it: {RESTART}"
        checks.append(judge("loaded", not found.stale, _loaded_text(found), advice))
    elif found.elsewhere:
        others = ", ".join(f"pid {d.pid} reads {containerd_config_of(d)}" for d in found.elsewhere)
        text = f"no containerd runs with {found.config}: {others}"
        checks.append(wrong("daemon", text, "name the file with --containerd-config"))
    else:
        checks.append(note("daemon", f"not running: from the {found.source}"))
    if found.fault:
        checks.append(wrong("configuration", found.fault, f"correct {found.config}; what follows is read from files"))
    return checks


def _loaded_text(found: Containerd) -> str:
    return "the files have changed since its start" if found.stale else "the files are as they were at its start"


def _nri_checks(found: Containerd, starts_plugin: bool) -> list[Check]:
    if found.release and found.release < FIRST_WITH_NRI:
        return [wrong("version", f"containerd {found.version} has no NRI", "upgrade to 1.7 or later")]
    if found.disabled:
        return [wrong("NRI", "disabled_plugins names it", f"take it out of that list in {found.config}")]
    on = found.nri.get("disable") is False
    checks = [judge("NRI", on, "on" if on else "off", INSTALL)]
    if not starts_plugin:
        refused = bool(found.nri.get("disable_connections"))
        text = "only pre-installed plugins" if refused else "plugins may connect"
        checks.append(judge("connections", not refused, text, INSTALL))
    tells = found.release is not None and found.release >= FIRST_THAT_TELLS
    return [*checks, *check_patience(found.nri, "plugin_request_timeout", tells=tells)]


def check_patience(nri: Mapping[str, object], key: str, *, tells: bool) -> list[Check]:
    """Whether the runtime waits long enough for the plugin; nothing when it does not say how long.

    `tells`: whether it tells the plugin too, which then is the faster.
    """
    seconds = parse_duration(nri.get(key))
    if seconds is None:
        return []
    budget = Budget(seconds if tells else 0.0)
    text = f"{key} is {nri[key]}, the plugin answers within {budget.answer_s:g} s"
    advice = f"set {key} to {ASSUMED_TIMEOUT_S:g}s: a plugin that is late is dropped, and containers start without it"
    return [judge("patience", budget.answer_s < seconds and not budget.is_short, text, advice)]


def check_socket(host: Host, found: Containerd) -> list[Check]:
    """Of a running daemon: there, and listening."""
    path = str(found.nri.get("socket_path", ""))
    if found.daemon is None:
        return [note("socket", f"{path}, when containerd runs")]
    try:
        there = stat.S_ISSOCK(os.stat(host.at(path)).st_mode)
    except OSError as error:
        return [wrong("socket", f"{path}: {error.strerror}", f"restart containerd: {RESTART}")]
    good = there and is_listening(found.daemon, path)
    return [judge("socket", good, f"{path} {'listens' if good else 'does not listen'}", f"restart it: {RESTART}")]


def _plugin_checks(host: Host, found: Containerd, plugin: str) -> list[Check]:
    good = os.access(host.at(plugin), os.X_OK)
    config = join(found.nri["plugin_config_path"], f"{preinstalled.NAME}.conf")
    again = f"{INSTALL} --mode nri-preinstalled"
    text = "is executable" if good else "is missing or not executable"
    there = host.exists(config)
    return [
        judge("plugin", good, f"{plugin} {text}", again),
        judge("plugin configuration", there, f"{config} {'is there' if there else 'is missing'}", again),
        *_target_checks(host, plugin),
    ]


def _target_checks(host: Host, plugin: str) -> list[Check]:
    """The launchers lead to a program that is there."""
    path, steps = plugin, 0
    while (target := preinstalled.parse_launcher(host.read(path) or b"")) and steps < 2:
        path, steps = target, steps + 1
    good = os.access(host.at(path), os.X_OK)
    text = f"{plugin} starts {path}" + ("" if good else ", which is missing or not executable")
    return [judge("plugin program", good, text, "install podgate on the host, or name its podgate-nri with --plugin")]
