# SPDX-License-Identifier: Apache-2.0
"""The status of runtimes that read hooks.d: cri-o and podman."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rthook.install.checks import Check, RuntimeStatus, judge, note, wrong
from rthook.install.errors import BinaryMissingError
from rthook.install.hooksd import CREATE_FILE, POSTSTOP, POSTSTOP_FILE, find_broken, parse_hook
from rthook.install.host import Host, join
from rthook.install.options import DEFAULT_DEADLINE_MS, Options, RuntimeName, Stage
from rthook.install.plan import digest
from rthook.install.readers import HooksReader, inspect_hooks_reader
from rthook.install.rule import check_rule, refuses_starts
from rthook.install.shares import find_binary
from rthook.install.status_containerd import check_patience

REFUSAL_HOOK = "the OCI hook refuses a container's start by its exit status"
REFUSAL_CRIO_NRI = "an error that the plugin answers (NRI) is only logged, and the container starts"
_DEADLINE = "--deadline-ms="


def hooks_status(host: Host, options: Options, name: RuntimeName) -> RuntimeStatus:
    """InstallError when the configuration cannot be read."""
    reader = inspect_hooks_reader(host, name)
    hooks = {file: _find_hook(host, reader, file) for file in (CREATE_FILE, POSTSTOP_FILE)}
    create = hooks[CREATE_FILE]
    checks = [*_daemon_checks(reader), *_directory_checks(host, reader)]
    checks += _hook_checks(host, options, reader, hooks)
    checks += _crio_checks(host, options, reader, create is not None) if name is RuntimeName.CRI_O else []
    checks += check_rule(host, options.failure_rule)
    facts = {
        "hooks_dirs": list(reader.hooks_dirs),
        "hooks": {file: path for file, path in hooks.items() if path},
        "nri": {**reader.nri, "enabled": reader.nri_enabled} if name is RuntimeName.CRI_O else {},
    }
    refusal = REFUSAL_HOOK if name is RuntimeName.PODMAN else f"{REFUSAL_CRIO_NRI}; {REFUSAL_HOOK}"
    pid = reader.daemon.pid if reader.daemon else None
    return RuntimeStatus(name, reader.version, pid, reader.source, refusal, facts, tuple(checks))


def _find_hook(host: Host, reader: HooksReader, file: str) -> str | None:
    """Of the same name in several directories, the last counts (oci-hooks(5))."""
    paths = [join(directory, file) for directory in reader.hooks_dirs]
    return next((path for path in reversed(paths) if host.exists(path)), None)


def _daemon_checks(reader: HooksReader) -> list[Check]:
    if reader.fault:
        return [wrong("daemon", reader.fault, "restart cri-o, or run this as root; what follows is read from files")]
    if reader.name is RuntimeName.PODMAN:
        return [note("daemon", "none: podman reads its files at each call")]
    return [note("daemon", f"pid {reader.daemon.pid}" if reader.daemon else "not running: from the file")]


def _directory_checks(host: Host, reader: HooksReader) -> list[Check]:
    checks = [note("hooks directories", ", ".join(reader.hooks_dirs))]
    for directory in reader.hooks_dirs:
        for path, fault in find_broken(host, directory):
            advice = "correct or remove it: podman refuses every container because of it"
            checks.append(wrong("hooks directory", f"{path} {fault}", advice))
    return checks


def _hook_checks(host: Host, options: Options, reader: HooksReader, hooks: Mapping[str, str | None]) -> list[Check]:
    install = f"podgate hooks install --runtime {reader.name.value}"
    missing = [file for file, path in hooks.items() if path is None]
    if len(missing) == len(hooks) and reader.name is RuntimeName.CRI_O and reader.nri_enabled:
        return [note("hook", "not installed; containers are announced over NRI alone")]
    checks = [wrong("hook", f"{file} is in none of them", install) for file in missing]
    for file, path in hooks.items():
        if path is not None:
            document = parse_hook(host.read(path) or b"")
            checks += _file_checks(path, document, POSTSTOP if file == POSTSTOP_FILE else "", install)
            checks += _program_checks(host, options, document, install) if document and file == CREATE_FILE else []
    return checks


def _file_checks(path: str, document: dict[str, Any] | None, stage: str, install: str) -> list[Check]:
    """`stage` empty: one of those that hold a container."""
    if document is None:
        return [wrong("hook file", f"{path} is no hook's file", install)]
    stages, args = document.get("stages"), document["hook"].get("args") or []
    allowed = [stage] if stage else [item.value for item in Stage]
    said = stages[0] if isinstance(stages, list) and len(stages) == 1 else None
    good = said in allowed and said in args and document.get("when") == {"always": True}
    why = f": {Stage(said).reason}" if good and not stage else ""
    return [judge("hook file", good, f"{path}, {said}{why}", install), _timeout_check(path, document["hook"], install)]


def _timeout_check(path: str, hook: dict[str, Any], install: str) -> Check:
    given = [arg.removeprefix(_DEADLINE) for arg in hook.get("args") or [] if str(arg).startswith(_DEADLINE)]
    deadline_s = int(given[0] if given and given[0].isdigit() else DEFAULT_DEADLINE_MS) / 1000
    timeout = hook.get("timeout")
    good = isinstance(timeout, int) and timeout > deadline_s
    text = f"{timeout} s for a hook that takes {deadline_s:g} s at most"
    return judge("hook timeout", good, f"{path}: {text}", install)


def _program_checks(host: Host, options: Options, document: dict[str, Any], install: str) -> list[Check]:
    path = str(document["hook"].get("path", ""))
    data = host.read(path)
    if data is None:
        return [wrong("hook program", f"{path} is missing: every container's start fails", install)]
    if not os.access(host.at(path), os.X_OK):
        return [wrong("hook program", f"{path} is not executable: every container's start fails", install)]
    try:
        shipped = digest(find_binary(options.binary))
    except BinaryMissingError:
        return [note("hook program", f"{path}, sha256 {digest(data)[:12]}; there is none here to compare it with")]
    same = digest(data) == shipped
    text = f"{path} {'is' if same else 'is not'} the one of this podgate, sha256 {digest(data)[:12]}"
    return [judge("hook program", same, text, install)]


def _crio_checks(host: Host, options: Options, reader: HooksReader, installed: bool) -> list[Check]:
    on = reader.nri_enabled
    checks = [note("NRI", {True: "on", False: "off", None: "not known: neither configuration nor version says it"}[on])]
    if on is not False:
        checks += check_patience(reader.nri, "nri_plugin_request_timeout", tells=False)
    if refuses_starts(host, options.failure_rule) and not installed:
        text = f"{options.failure_rule} wants starts refused, and {REFUSAL_CRIO_NRI}"
        checks.append(wrong("refusal", text, "podgate hooks install --runtime cri-o, whose hook can refuse"))
    return checks
