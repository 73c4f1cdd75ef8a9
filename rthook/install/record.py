# SPDX-License-Identifier: Apache-2.0
"""The record of what was installed, a JSON file: it is what uninstalling goes by. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rthook.install.errors import RecordError
from rthook.install.options import RuntimeName
from rthook.install.plan import Kind

RECORD_DIR = "/var/lib/podgate"
RECORD = f"{RECORD_DIR}/hooks.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that we wrote: its kind, and the SHA-256 of what we wrote, or of both contents while it is changed."""

    kind: Kind
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """A runtime's file that we changed, with a backup beside it, or `created`; the SHA-256 as in Entry."""

    created: bool
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """What one runtime has of us, by path."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    edits: Mapping[str, Edit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """`directories`: those that we made, outermost first."""

    runtimes: Mapping[RuntimeName, Installed] = field(default_factory=dict)
    directories: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, Entry]:
        return {path: entry for installed in self.runtimes.values() for path, entry in installed.files.items()}

    @property
    def edits(self) -> dict[str, Edit]:
        return {path: edit for installed in self.runtimes.values() for path, edit in installed.edits.items()}


def merge_records(before: Record, after: Record) -> Record:
    """What may lie on the node while one becomes the other."""
    runtimes = {
        name: Installed(
            _merge_entries(before.runtimes.get(name, Installed()).files, after.runtimes.get(name, Installed()).files),
            _merge_edits(before.runtimes.get(name, Installed()).edits, after.runtimes.get(name, Installed()).edits),
        )
        for name in dict.fromkeys((*before.runtimes, *after.runtimes))
    }
    return Record(runtimes, tuple(sorted({*before.directories, *after.directories})))


def _merge_entries(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> dict[str, Entry]:
    merged = {**before, **after}
    both = {path: tuple(sorted({*before[path].sha256, *after[path].sha256})) for path in before.keys() & after.keys()}
    return {path: Entry(entry.kind, both.get(path, entry.sha256)) for path, entry in merged.items()}


def _merge_edits(before: Mapping[str, Edit], after: Mapping[str, Edit]) -> dict[str, Edit]:
    merged = {**before, **after}
    both = {path: tuple(sorted({*before[path].sha256, *after[path].sha256})) for path in before.keys() & after.keys()}
    return {path: Edit(edit.created, both.get(path, edit.sha256)) for path, edit in merged.items()}


def render_record(record: Record) -> bytes:
    runtimes = {
        name.value: {
            "files": {
                path: {"kind": e.kind.value, "sha256": list(e.sha256)} for path, e in sorted(installed.files.items())
            },
            "edits": {p: {"created": e.created, "sha256": list(e.sha256)} for p, e in sorted(installed.edits.items())},
        }
        for name, installed in record.runtimes.items()
    }
    document = {"version": VERSION, "runtimes": runtimes, "directories": list(record.directories)}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def parse_record(data: bytes | None, path: str = RECORD) -> Record:
    """An empty record for None; RecordError for what is none of ours."""
    if data is None:
        return Record()
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise RecordError(path, f"version {document['version']} is not known here")
        runtimes = {RuntimeName(name): _parse_installed(value) for name, value in document["runtimes"].items()}
        return Record(runtimes, tuple(str(item) for item in document["directories"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(path, f"not a record of an installation ({error!r})") from error


def _parse_installed(value: Mapping[str, Any]) -> Installed:
    files = {path: Entry(Kind(e["kind"]), _parse_sums(e["sha256"])) for path, e in value["files"].items()}
    edits = {path: Edit(bool(e["created"]), _parse_sums(e["sha256"])) for path, e in value["edits"].items()}
    return Installed(files, edits)


def _parse_sums(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("sha256 is no list of texts")
    return tuple(value)
