# SPDX-License-Identifier: Apache-2.0
"""Runtimes that read hooks.d, and how they are configured: as running cri-o says it, else as their files say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rthook.install.containerd import parse_toml
from rthook.install.daemon import (
    Daemon,
    ask_crio,
    find_daemons,
    find_program,
    parse_version,
    run_program,
    version_word,
)
from rthook.install.errors import ConfigSyntaxError
from rthook.install.hooksd import DEFAULT_DIR
from rthook.install.host import Host, join
from rthook.install.options import RuntimeName

CRIO_CONFIG = "/etc/crio/crio.conf"
CRIO_CONFIG_DIR = "/etc/crio/crio.conf.d"
CRIO_SOCKETS = ("/run/crio/crio.sock", "/var/run/crio/crio.sock")
# containers.conf(5): later files win.
PODMAN_CONFIGS = ("/usr/share/containers/containers.conf", "/etc/containers/containers.conf")
PODMAN_CONFIG_DIR = "/etc/containers/containers.conf.d"
# crio.conf(5), table crio.nri; on by default since 1.30.
CRIO_NRI_ON_SINCE = (1, 30)
_Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HooksReader:
    """A runtime that reads hooks.d. `nri`: cri-o's table, defaults not included."""

    name: RuntimeName
    hooks_dirs: tuple[str, ...]
    source: str
    daemon: Daemon | None = None
    version: str = "unknown"
    nri: _Data = field(default_factory=dict)
    fault: str = ""

    @property
    def release(self) -> tuple[int, int] | None:
        return parse_version(self.version)

    @property
    def nri_enabled(self) -> bool | None:
        """Of cri-o; None when neither configuration nor version says it."""
        if isinstance(enabled := self.nri.get("enable_nri"), bool):
            return enabled
        return self.release >= CRIO_NRI_ON_SINCE if self.release else None


def inspect_hooks_reader(host: Host, name: RuntimeName) -> HooksReader:
    """cri-o or podman. ConfigSyntaxError."""
    return _inspect_crio(host) if name is RuntimeName.CRI_O else _inspect_podman(host)


def _inspect_crio(host: Host) -> HooksReader:
    daemons = find_daemons(host, "crio")
    daemon = daemons[0] if daemons else None
    version = _version_of(host, daemon, "crio")
    fault = ""
    if daemon:
        path = daemon.option("--listen") or next((p for p in CRIO_SOCKETS if host.exists(p)), CRIO_SOCKETS[0])
        try:
            _, data = parse_toml("cri-o's answer", ask_crio(host.at(path)).encode())
            return _crio_from([data], "running", daemon, version)
        except (OSError, ConfigSyntaxError) as error:
            fault = f"cri-o runs as pid {daemon.pid} and could not be asked: {error}"
    main = (daemon.option("--config", "-c") if daemon else None) or CRIO_CONFIG
    folder = (daemon.option("--config-dir", "-d") if daemon else None) or CRIO_CONFIG_DIR
    return _crio_from(_read_all(host, [main, *_drop_ins(host, folder)]), "file", daemon, version, fault)


def _crio_from(
    files: Sequence[_Data], source: str, daemon: Daemon | None, version: str, fault: str = ""
) -> HooksReader:
    hooks_dirs: tuple[str, ...] = (DEFAULT_DIR,)
    nri: _Data = {}
    for data in files:
        crio = data.get("crio", {})
        hooks_dirs = _strings(crio.get("runtime", {}).get("hooks_dir")) or hooks_dirs
        nri |= crio.get("nri", {})
    return HooksReader(RuntimeName.CRI_O, hooks_dirs, source, daemon, version, nri, fault)


def _inspect_podman(host: Host) -> HooksReader:
    """podman has no daemon: it reads its files at each call."""
    hooks_dirs: tuple[str, ...] = (DEFAULT_DIR,)
    for data in _read_all(host, [*PODMAN_CONFIGS, *_drop_ins(host, PODMAN_CONFIG_DIR)]):
        hooks_dirs = _strings(data.get("engine", {}).get("hooks_dir")) or hooks_dirs
    return HooksReader(RuntimeName.PODMAN, hooks_dirs, "file", None, _version_of(host, None, "podman"))


def _drop_ins(host: Host, folder: str) -> list[str]:
    return [join(folder, name) for name in host.names(folder) if name.endswith(".conf")]


def _read_all(host: Host, paths: Sequence[str]) -> list[_Data]:
    return [parse_toml(path, data)[1] for path in paths if (data := host.read(path)) is not None]


def _strings(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _version_of(host: Host, daemon: Daemon | None, name: str) -> str:
    program = daemon.program if daemon else find_program(host, name)
    try:
        return version_word(run_program(host, daemon, program, ["--version"])) if program else "unknown"
    except OSError:
        return "unknown"
