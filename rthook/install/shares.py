# SPDX-License-Identifier: Apache-2.0
"""What each runtime of a node is to have of us. Reads the host, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rthook.install import containerd, preinstalled
from rthook.install.containerd import ConfigFile
from rthook.install.containerd_state import Containerd, inspect_containerd
from rthook.install.edits import base_text
from rthook.install.errors import BinaryMissingError, UnsupportedError
from rthook.install.hooksd import choose_directory, find_broken, render_hooks
from rthook.install.host import Host, join
from rthook.install.options import Mode, Options, RuntimeName
from rthook.install.plan import Kind
from rthook.install.readers import HooksReader, inspect_hooks_reader
from rthook.install.record import Installed, Record
from rthook.install.runtimes import detect

HOOK_BINARY = "podgate-hook"
# As package data, and where `make hook` puts it in the tree.
BINARY_PLACES = (
    Path(__file__).resolve().parents[1] / HOOK_BINARY,
    Path(__file__).resolve().parents[2] / "build" / HOOK_BINARY,
)
RESTART = "systemctl restart containerd"
RESTART_CRIO = "systemctl restart crio"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of ours. `option` is what puts it elsewhere."""

    kind: Kind
    data: bytes = field(repr=False)
    why: str
    option: str = ""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Share:
    """`edits`: a file of the runtime's, what it is without us (None: not there), and what it is to be.

    `commands` are for the user to run when anything of it changes.
    """

    files: Mapping[str, Wanted] = field(default_factory=dict)
    edits: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def find_binary(binary: Path | None) -> bytes:
    """The hook to install; BinaryMissingError."""
    places = (binary,) if binary else BINARY_PLACES
    for place in places:
        if place.is_file():
            return place.read_bytes()
    raise BinaryMissingError(places)


def share_of(host: Host, options: Options, name: RuntimeName, record: Record) -> Share:
    """InstallError of any kind."""
    if name is RuntimeName.CONTAINERD:
        return _containerd_share(host, options, record)
    return _hooks_share(host, options, inspect_hooks_reader(host, name))


def _containerd_share(host: Host, options: Options, record: Record) -> Share:
    if options.mode is Mode.OCI:
        raise UnsupportedError(
            "containerd reads no hooks.d directory, so that an OCI hook cannot be installed into it",
            f"take --mode nri; or write {options.hook_path} into the OCI spec file that base_runtime_spec of each"
            " runtime in containerd's configuration names, under hooks",
        )
    found = inspect_containerd(host, options.containerd_config)
    if found.release and found.release < containerd.FIRST_WITH_NRI:
        raise UnsupportedError(f"containerd {found.version} has no NRI", "1.7 is the first that has it")
    files = _preinstalled_files(host, options, found) if options.mode is Mode.NRI_PREINSTALLED else {}
    return Share(files, _containerd_edits(host, found, record), _containerd_notes(found), (RESTART,))


def _containerd_notes(found: Containerd) -> tuple[str, ...]:
    others = () if found.daemon else found.elsewhere
    elsewhere = (
        f"containerd runs as pid {daemon.pid} with another file than {found.config}: see --containerd-config"
        for daemon in others
    )
    return (*found.notes, *([found.fault] if found.fault else []), *elsewhere)


def _containerd_edits(host: Host, found: Containerd, record: Record) -> dict[str, tuple[str | None, str]]:
    """What is on already, by our own hand, stays as it is written."""
    recorded = record.runtimes.get(RuntimeName.CONTAINERD, Installed()).edits
    major = found.release[0] if found.release else None
    bases = {file.path: base_text(host, file, recorded.get(file.path)) for file in found.files}
    if bases.get(found.config) is None:
        needed = major is None or major < containerd.NRI_ON_SINCE
        return {found.config: (None, containerd.CREATED)} if needed else {}
    files = [ConfigFile(path, text) for path, text in bases.items() if text is not None]
    wanted = containerd.switch_on(files, major)
    if not containerd.switch_on(found.files, major):
        wanted |= {file.path: file.text for file in found.files if file.path in wanted}
    return {path: (bases[path], text) for path, text in wanted.items()}


def _preinstalled_files(host: Host, options: Options, found: Containerd) -> dict[str, Wanted]:
    if not host.exists(options.plugin):
        raise UnsupportedError(
            f"the host has no {options.plugin}, which containerd would start as its plugin",
            "install podgate on the host and name its podgate-nri with --plugin, or take --mode nri",
        )
    launcher = preinstalled.render_launcher(options.plugin)
    program = f"{options.install_dir}/{preinstalled.LAUNCHER}"
    config = join(found.nri["plugin_config_path"], f"{preinstalled.NAME}.conf")
    trigger = join(found.nri["plugin_path"], preinstalled.NAME)
    return {
        program: Wanted(Kind.PROGRAM, launcher, "starts podgate-nri", "--install-dir", 0o755),
        config: Wanted(Kind.CONFIG, preinstalled.render_config(options), "what podgate-nri is told"),
        trigger: Wanted(
            Kind.TRIGGER,
            preinstalled.render_launcher(program),
            "containerd starts it",
            "plugin_path of NRI's section in the containerd configuration",
            0o755,
        ),
    }


def _hooks_share(host: Host, options: Options, reader: HooksReader) -> Share:
    directory = options.hooks_dir or choose_directory(host, reader.hooks_dirs)
    readers = _readers_of(host, directory, reader)
    binary = Wanted(Kind.PROGRAM, find_binary(options.binary), "the hook's program", "--install-dir", 0o755)
    hooks = {
        join(directory, name): Wanted(Kind.TRIGGER, data, "the runtime calls the hook", "--hooks-dir")
        for name, data in render_hooks(options, readers).items()
    }
    notes = _hooks_notes(host, directory, reader, readers)
    # cri-o watches the directories that were there at its start.
    unwatched = reader.name is RuntimeName.CRI_O and not host.exists(directory)
    return Share({options.hook_path: binary, **hooks}, {}, tuple(notes), (RESTART_CRIO,) if unwatched else ())


def _readers_of(host: Host, directory: str, reader: HooksReader) -> list[RuntimeName]:
    """All runtimes of the host that read the directory, this one first."""
    others = [name for name in detect(host) if name not in (reader.name, RuntimeName.CONTAINERD)]
    return [reader.name, *(name for name in others if directory in inspect_hooks_reader(host, name).hooks_dirs)]


def _hooks_notes(host: Host, directory: str, reader: HooksReader, readers: list[RuntimeName]) -> list[str]:
    notes = [
        f"{path} {fault}: podman refuses every container until it is corrected or removed"
        for path, fault in find_broken(host, directory)
    ]
    if directory not in reader.hooks_dirs:
        known = ", ".join(reader.hooks_dirs)
        notes.append(f"{reader.name.value} reads {known}, not {directory}: add it to hooks_dir in its configuration")
    if len(readers) > 1:
        names = " and ".join(sorted(name.value for name in readers))
        notes.append(f"{names} both read {directory}: the hook runs for either, and tells them apart by itself")
    return [*notes, *([reader.fault] if reader.fault else [])]
