# SPDX-License-Identifier: Apache-2.0
"""How a node's containerd is configured: as its own binary says it, else as its files say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rthook.install.containerd import (
    NRI_DEFAULTS,
    NRI_ON_SINCE,
    SECTION,
    SECTION_V1,
    ConfigFile,
    import_patterns,
    nri_section,
    parse_toml,
)
from rthook.install.daemon import Daemon, find_daemons, find_program, parse_version, run_program, version_word
from rthook.install.errors import ConfigSyntaxError
from rthook.install.host import Host, join
from rthook.install.options import DEFAULT_CONTAINERD_CONFIG

_Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Containerd:
    """`nri`: its section, defaults included where containerd itself said it. `source`: running, binary or file.

    `fault`: why containerd could not be asked. `elsewhere`: daemons that read another file. `stale`: a file has changed
    since the daemon's start.
    """

    config: str
    files: tuple[ConfigFile, ...]
    source: str = "file"
    nri: _Data = field(default_factory=dict)
    disabled: bool = False
    daemon: Daemon | None = None
    version: str = "unknown"
    fault: str = ""
    elsewhere: tuple[Daemon, ...] = ()
    stale: bool = False
    notes: tuple[str, ...] = ()

    @property
    def release(self) -> tuple[int, int] | None:
        return parse_version(self.version)


def load_containerd_files(host: Host, config: str) -> tuple[tuple[ConfigFile, ...], tuple[str, ...]]:
    """The file and what it imports, in containerd's order (breadth first), and notes on imports that are not there.

    No files when the first does not exist. ConfigSyntaxError.
    """
    files: list[ConfigFile] = []
    notes: list[str] = []
    pending, seen = [config], {config}
    while pending:
        path = pending.pop(0)
        raw = host.read(path)
        if raw is None:
            notes += [f"{path} is imported and does not exist"] if files else []
            continue
        text, data = parse_toml(path, raw)
        files.append(ConfigFile(path, text))
        for pattern in import_patterns(data):
            full = pattern if pattern.startswith("/") else join(path.rpartition("/")[0], pattern)
            new = [p for p in (host.glob(full) if "*" in full else [full]) if p not in seen]
            pending += new
            seen.update(new)
    return tuple(files), tuple(notes)


def inspect_containerd(host: Host, config: str) -> Containerd:
    """ConfigSyntaxError."""
    files, notes = load_containerd_files(host, config)
    daemons = find_daemons(host, "containerd")
    reading = tuple(d for d in daemons if host.at(containerd_config_of(d)) == host.at(config))
    daemon = reading[0] if reading else None
    elsewhere = tuple(d for d in daemons if d not in reading)
    program = daemon.program if daemon else find_program(host, "containerd")
    guess = Containerd(config, files, daemon=daemon, elsewhere=elsewhere, notes=notes)
    if program is None:
        return _from_files(guess)
    try:
        guess = replace(guess, version=version_word(run_program(host, daemon, program, ["--version"])))
        return _from_dump(host, guess, _dump(host, guess, program))
    except (OSError, ConfigSyntaxError) as error:
        return _from_files(replace(guess, fault=str(error)))


def _dump(host: Host, guess: Containerd, program: str) -> _Data:
    """`containerd config dump`: files and imports merged, defaults filled in. OSError, ConfigSyntaxError."""
    chosen = ["--config", guess.config] if guess.files else []
    text = run_program(host, guess.daemon, program, [*chosen, "config", "dump"])
    return parse_toml("containerd config dump", text.encode())[1]


def _from_dump(host: Host, guess: Containerd, dump: _Data) -> Containerd:
    daemon = guess.daemon
    return replace(
        guess,
        source="running" if daemon else "binary",
        nri=nri_section(dump) or {},
        disabled=SECTION in dump.get("disabled_plugins", []),
        stale=daemon is not None and any(_changed_since(host, file.path, daemon.started) for file in guess.files),
    )


def containerd_config_of(daemon: Daemon) -> str:
    return daemon.option("--config", "-config", "-c") or DEFAULT_CONTAINERD_CONFIG


def _changed_since(host: Host, path: str, started: float) -> bool:
    """A second more: the boot's time is told in whole seconds."""
    return host.at(path).stat().st_mtime > started + 1.0


def _from_files(guess: Containerd) -> Containerd:
    """What the files say, with containerd's defaults for what they do not."""
    parsed = [parse_toml(file.path, file.text.encode())[1] for file in guess.files]
    version = parsed[0].get("version", 1) if parsed else 1
    newer = guess.release[0] >= NRI_ON_SINCE if guess.release else version >= 3
    nri: _Data = {"disable": not newer, **NRI_DEFAULTS}
    for data in parsed:
        nri |= nri_section(data, SECTION_V1 if version == 1 and not newer else SECTION) or {}
    disabled = any({SECTION, SECTION_V1} & {*data.get("disabled_plugins", [])} for data in parsed)
    return replace(guess, nri=nri, disabled=disabled)
