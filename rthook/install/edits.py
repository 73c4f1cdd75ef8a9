# SPDX-License-Identifier: Apache-2.0
"""A runtime's own configuration file, edited: what it is without us, the steps to it, and the steps back.

Beside an edited file lies a backup of what it was. As long as the file is as we left it, the way back is that backup,
byte for byte; once somebody has changed it, only our own keys go back to what the backup says of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rthook.install.containerd import ConfigFile, parse_toml, undo
from rthook.install.host import Host
from rthook.install.plan import PutFile, RemoveFile, Step, digest
from rthook.install.record import Edit

SUFFIX = ".podgate-backup"


def backup_of(path: str) -> str:
    return path + SUFFIX


def base_text(host: Host, file: ConfigFile, edit: Edit | None) -> str | None:
    """What the file is without our edit; None when it was not there before us, and nobody has changed it since.

    ConfigSyntaxError for a backup that is none.
    """
    untouched = edit is not None and digest(file.text.encode()) in edit.sha256
    if edit is not None and edit.created:
        return None if untouched else undo(file, "")
    path = backup_of(file.path)
    raw = host.read(path)
    if raw is None:
        return file.text
    backup, _ = parse_toml(path, raw)
    return backup if untouched else undo(file, backup)


def edit_steps(host: Host, path: str, base: str | None, text: str) -> list[Step]:
    """From whatever lies there now to `text`, with `base` as the backup."""
    now = host.read(path)
    steps: list[Step] = []
    if base is not None and host.read(backup_of(path)) != base.encode():
        before = host.read(backup_of(path))
        steps.append(
            PutFile(backup_of(path), base.encode(), f"what {path} is without us", before, like=path, shown=False)
        )
    if now != text.encode():
        steps.append(PutFile(path, text.encode(), "NRI is switched on", now, like=path))
    return steps


def undo_steps(host: Host, path: str, edit: Edit) -> tuple[list[Step], list[str]]:
    """Back to what the file was, and notes on what could not be taken back. ConfigSyntaxError."""
    raw, backup = host.read(path), host.read(backup_of(path))
    drop: Sequence[Step] = [RemoveFile(backup_of(path))] if backup is not None else []
    if raw is None:
        return [*drop], [f"{path} is gone; nothing is put in its place"]
    if backup is None and not edit.created:
        return [], [f"{backup_of(path)} is gone: {path} stays as it is, with NRI switched on"]
    text, _ = parse_toml(path, raw)
    base = base_text(host, ConfigFile(path, text), edit)
    if base is None:
        return [RemoveFile(path, "it was not there before")], []
    touched = digest(raw) not in edit.sha256 and raw != backup
    notes = [f"{path} was changed since: only NRI's own keys were set back, nothing else"] if touched else []
    put = PutFile(path, base.encode(), "as it was before us", raw, like=path)
    return [*([put] if base != text else []), *drop], notes
