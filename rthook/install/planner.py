# SPDX-License-Identifier: Apache-2.0
"""Planning an installation and its end: what the node is to have, compared with what it has.

Reads the host, changes nothing. A plan begins by recording what is about to be, so that an interruption leaves nothing
that the record does not know. Asking twice for the same gives an empty plan.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from rthook.install import preinstalled
from rthook.install.containerd_state import inspect_containerd
from rthook.install.edits import backup_of, edit_steps, undo_steps
from rthook.install.hooksd import CREATE_FILE, POSTSTOP_FILE
from rthook.install.host import Host, join
from rthook.install.options import Options, RuntimeName
from rthook.install.plan import Kind, MakeDirectory, Plan, PutFile, RemoveDirectory, RemoveFile, Step, beside, digest
from rthook.install.readers import inspect_hooks_reader
from rthook.install.record import (
    RECORD,
    RECORD_DIR,
    Edit,
    Entry,
    Installed,
    Record,
    merge_records,
    parse_record,
    render_record,
)
from rthook.install.rule import render_new_rule
from rthook.install.shares import RESTART, Share, Wanted, share_of

_ORDER = tuple(Kind)


def read_record(host: Host) -> Record:
    """RecordError."""
    return parse_record(host.read(RECORD))


def plan_install(host: Host, options: Options, runtimes: Sequence[RuntimeName]) -> Plan:
    """InstallError of any kind."""
    old = read_record(host)
    shares = {name: share_of(host, options, name, old) for name in runtimes}
    rule, notes = _plan_rule(host, options, old)
    new = {name: _installed(host, share, rule, old) for name, share in shares.items()}
    after = Record({**old.runtimes, **new}, ())
    wanted = {path: item for share in shares.values() for path, item in (*share.files.items(), *rule.items())}
    puts = [step for path, item in wanted.items() if path in after.files for step in _put_steps(host, path, item, old)]
    edits = [
        s for share in shares.values() for path, texts in share.edits.items() for s in edit_steps(host, path, *texts)
    ]
    removals, removal_notes = _removal_steps(host, old, after)
    ordered = sorted(puts, key=lambda step: _ORDER.index(after.files[step.path].kind))
    triggers = [step for step in ordered if after.files[step.path].kind is Kind.TRIGGER]
    work: list[Step] = [*(step for step in ordered if step not in triggers), *edits, *triggers, *removals]
    steps = _recorded(host, old, after, work)
    said = [*(note for share in shares.values() for note in share.notes), *notes, *removal_notes]
    said += _kept_notes(host, wanted, old)
    return Plan(tuple(steps), tuple(dict.fromkeys(said)), _commands(shares, steps))


def _plan_rule(host: Host, options: Options, old: Record) -> tuple[dict[str, Wanted], list[str]]:
    """The failure rule as a file of ours, unless the node has one of its own."""
    path, data = options.failure_rule, render_new_rule(options.rule)
    now, entry = host.read(path), old.files.get(path)
    if now is not None and not (options.rule.asked and entry):
        differs = options.rule.asked and now != data
        return {path: _wanted_rule(now)} if entry else {}, [f"{path} exists and stays as it is"] if differs else []
    notes = (
        []
        if options.rule.own_namespace
        else [f"{path}: podgate's own namespace is not known, so that it is not exempt; name it with --own-namespace"]
    )
    return {path: _wanted_rule(data)}, notes


def _wanted_rule(data: bytes) -> Wanted:
    return Wanted(Kind.CONFIG, data, "what becomes of starts without the agent", "--failure-rule")


def _installed(host: Host, share: Share, rule: Mapping[str, Wanted], old: Record) -> Installed:
    files = {path: _entry(host, path, item, old) for path, item in (*share.files.items(), *rule.items())}
    edits = {path: Edit(base is None, (digest(text.encode()),)) for path, (base, text) in share.edits.items()}
    return Installed({path: entry for path, entry in files.items() if entry}, edits)


def _entry(host: Host, path: str, item: Wanted, old: Record) -> Entry | None:
    """A configuration file that somebody else wrote is not ours; one that was changed is known by what it was."""
    entry = old.files.get(path)
    if item.kind is Kind.CONFIG and host.read(path) is not None:
        if entry is None:
            return None
        if _is_changed(host, path, entry):
            return entry
    return Entry(item.kind, (digest(item.data),))


def _is_changed(host: Host, path: str, entry: Entry) -> bool:
    data = host.read(path)
    return entry.kind is Kind.CONFIG and data is not None and digest(data) not in entry.sha256


def _put_steps(host: Host, path: str, item: Wanted, old: Record) -> list[Step]:
    now, entry = host.read(path), old.files.get(path)
    if entry and _is_changed(host, path, entry):
        return []
    if now == item.data and stat.S_IMODE(host.at(path).stat().st_mode) == item.mode:
        return []
    return [PutFile(path, item.data, item.why, now, item.mode, option=item.option)]


def _kept_notes(host: Host, wanted: Mapping[str, Wanted], old: Record) -> list[str]:
    entries = {path: old.files.get(path) for path in wanted}
    changed = [path for path, entry in entries.items() if entry and _is_changed(host, path, entry)]
    foreign = [p for p, e in entries.items() if not e and wanted[p].kind is Kind.CONFIG and host.read(p) is not None]
    return [f"{path} was changed by hand and stays as it is" for path in changed] + [
        f"{path} was there before and stays as it is" for path in foreign
    ]


def _removal_steps(host: Host, old: Record, after: Record) -> tuple[list[Step], list[str]]:
    """What the old record has and the new one does not: triggers, then edits, then the rest."""
    gone = {path: entry for path, entry in old.files.items() if path not in after.files}
    kept = [path for path, entry in gone.items() if _is_changed(host, path, entry)]
    paths = sorted((p for p in gone if p not in kept), key=lambda p: _ORDER.index(gone[p].kind), reverse=True)
    undone = [undo_steps(host, path, edit) for path, edit in old.edits.items() if path not in after.edits]
    steps: list[Step] = [RemoveFile(path) for path in paths if gone[path].kind is Kind.TRIGGER]
    steps += [step for some, _ in undone for step in some]
    steps += [RemoveFile(path) for path in paths if gone[path].kind is not Kind.TRIGGER]
    notes = [note for _, some in undone for note in some]
    return steps, notes + [f"{path} was changed by hand and stays" for path in kept]


def _recorded(host: Host, old: Record, after: Record, work: Sequence[Step]) -> list[Step]:
    """The steps between their two records, each directory made before the first file that needs it."""
    now = host.read(RECORD)
    needed = {directory for path in (*after.files, *after.edits, RECORD) for directory in _above(path)}
    new = {d for step in work if isinstance(step, PutFile) for d in _missing(host, step.path)} | _missing(host, RECORD)
    made = {*old.directories, *new} & needed - {RECORD_DIR}  # which is ours in any case
    after = Record(after.runtimes, tuple(sorted(made)))
    gone = [RemoveDirectory(path) for path in sorted({*old.directories} - made, reverse=True) if host.exists(path)]
    work = [*_leftover_steps(host, old), *work, *gone]
    intent, done = render_record(merge_records(old, after)), render_record(after)
    if not work and done == now:
        return []
    return _with_directories(host, [*_put_record(intent, now), *work, *_put_record(done, intent)])


def _leftover_steps(host: Host, record: Record) -> list[Step]:
    """What a killed try was writing. An intent is recorded before the first change, so that the record knows it all."""
    paths = (RECORD, *record.files, *record.edits, *(backup_of(path) for path in record.edits))
    return [RemoveFile(beside(path), "left by an interruption") for path in paths if host.exists(beside(path))]


def _above(path: str) -> list[str]:
    return [str(directory) for directory in Path(path).parents]


def _put_record(data: bytes, now: bytes | None) -> list[Step]:
    return [PutFile(RECORD, data, "the record of the installation", now, shown=False)] if data != now else []


def _missing(host: Host, path: str) -> set[str]:
    return set(host.missing_directories(_above(path)[0]))


def _with_directories(host: Host, steps: Sequence[Step]) -> list[Step]:
    made: set[str] = set()
    result: list[Step] = []
    for step in steps:
        if isinstance(step, PutFile):
            new = sorted(_missing(host, step.path) - made)
            result += [MakeDirectory(path, step.option) for path in new]
            made.update(new)
        result.append(step)
    return result


def _commands(shares: Mapping[RuntimeName, Share], steps: Sequence[Step]) -> tuple[str, ...]:
    changed = {step.path for step in steps}
    touched = (share for share in shares.values() if changed & {*share.edits, *share.files})
    return tuple(dict.fromkeys(command for share in touched for command in share.commands))


def plan_uninstall(host: Host, options: Options, runtimes: Sequence[RuntimeName]) -> Plan:
    """By the record; what is not in it is found at the places that the options name. InstallError."""
    recorded = read_record(host)
    unknown = [name for name in runtimes if name not in recorded.runtimes]
    found = {name: _find_by_name(host, options, name) for name in unknown}
    old = Record({**recorded.runtimes, **found}, recorded.directories)
    after = Record({name: value for name, value in old.runtimes.items() if name not in runtimes}, old.directories)
    removals, notes = _removal_steps(host, old, after)
    for name in unknown:
        if found[name].files or found[name].edits:
            notes.append(f"{name.value}: no record of an installation, found by name")
    commands = (RESTART,) if _restarts(old, after, removals) else ()
    return Plan(tuple(_unrecorded(host, old, after, removals)), tuple(notes), commands)


def _find_by_name(host: Host, options: Options, name: RuntimeName) -> Installed:
    """What lies at the usual places under our names. The failure rule may be anybody's, and stays."""
    if name is RuntimeName.CONTAINERD:
        return _find_in_containerd(host, options)
    directories = (options.hooks_dir,) if options.hooks_dir else inspect_hooks_reader(host, name).hooks_dirs
    triggers = [join(directory, file) for directory in directories for file in (CREATE_FILE, POSTSTOP_FILE)]
    return Installed(_present(host, dict.fromkeys(triggers, Kind.TRIGGER) | {options.hook_path: Kind.PROGRAM}))


def _find_in_containerd(host: Host, options: Options) -> Installed:
    found = inspect_containerd(host, options.containerd_config)
    kinds = {
        join(found.nri["plugin_path"], preinstalled.NAME): Kind.TRIGGER,
        join(found.nri["plugin_config_path"], f"{preinstalled.NAME}.conf"): Kind.CONFIG,
        f"{options.install_dir}/{preinstalled.LAUNCHER}": Kind.PROGRAM,
    }
    backed = [file.path for file in found.files if host.read(backup_of(file.path)) is not None]
    return Installed(_present(host, kinds), {path: Edit(False, ()) for path in backed})


def _present(host: Host, kinds: Mapping[str, Kind]) -> dict[str, Entry]:
    contents = {path: host.read(path) for path in kinds}
    return {path: Entry(kinds[path], (digest(data),)) for path, data in contents.items() if data is not None}


def _restarts(old: Record, after: Record, steps: Sequence[Step]) -> bool:
    """containerd reads its file, and ends a plugin that it started, at its own restart alone."""
    if RuntimeName.CONTAINERD in after.runtimes:
        return False
    paths = {path for path, entry in old.files.items() if entry.kind is Kind.TRIGGER and not path.endswith(".json")}
    return bool({step.path for step in steps} & {*old.edits, *paths})


def _unrecorded(host: Host, old: Record, after: Record, removals: Sequence[Step]) -> list[Step]:
    """The record goes last of all files; directories when they are empty, innermost first."""
    now = host.read(RECORD)
    above_record = {d for d in after.directories if f"{RECORD_DIR}/".startswith(f"{d}/")}
    others = sorted({*after.directories} - above_record, reverse=True)
    steps = [*_leftover_steps(host, old), *removals, *(RemoveDirectory(path) for path in others if host.exists(path))]
    if after.runtimes:
        return [*steps, *_put_record(render_record(after), now)]
    steps += [RemoveFile(RECORD)] if now is not None else []
    last = sorted({*above_record, RECORD_DIR}, reverse=True)
    return [*steps, *(RemoveDirectory(path) for path in last if host.exists(path))]
