# SPDX-License-Identifier: Apache-2.0
"""hooks.d files (oci-hooks(5), schema 1.0.0), which cri-o and podman read.

One file has one set of arguments for all its stages, and the runtime hands them over word for word: each stage has a
file of its own. A file that does not parse, whoever wrote it, makes podman refuse every container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from rthook.install.host import Host, join
from rthook.install.options import (
    DEFAULT_AGENT_SOCKET,
    DEFAULT_DEADLINE_MS,
    DEFAULT_FAILURE_RULE,
    DEFAULT_PIN_DIR,
    HookOptions,
    Options,
    RuntimeName,
)

CREATE_FILE = "podgate-create.json"
POSTSTOP_FILE = "podgate-poststop.json"
POSTSTOP = "poststop"
DEFAULT_DIR = "/usr/share/containers/oci/hooks.d"
PROGRAM = "podgate-hook"
# What the hook calls a runtime whose annotations it is to read; `auto` where several read the same directory.
SPOKEN = {RuntimeName.CRI_O: "crio", RuntimeName.PODMAN: "podman"}


def render_hooks(options: Options, readers: Sequence[RuntimeName]) -> dict[str, bytes]:
    """File name to content. `readers`: the runtimes that read the directory."""
    stage = options.hook.stage
    runtime = SPOKEN[readers[0]] if len(readers) == 1 else "auto"
    create = f"podgate, {stage.value}: {stage.reason}"
    return {
        CREATE_FILE: _render(options, stage.value, runtime, create),
        POSTSTOP_FILE: _render(options, POSTSTOP, runtime, "podgate, poststop: the agent forgets the container"),
    }


def _render(options: Options, stage: str, runtime: str, description: str) -> bytes:
    """`description` is none of the schema's: readers pass over what they do not know."""
    hook = {
        "path": options.hook_path,
        "args": [PROGRAM, stage, f"--runtime={runtime}", *_changed_arguments(options.hook, options.failure_rule)],
        "timeout": options.hook.timeout_s,
    }
    document = {
        "version": "1.0.0",
        "description": description,
        "hook": hook,
        "when": {"always": True},
        "stages": [stage],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _changed_arguments(hook: HookOptions, failure_rule: str) -> list[str]:
    """Only what differs from the hook's own defaults."""
    settings = (
        ("--agent-socket", hook.agent_socket, DEFAULT_AGENT_SOCKET),
        ("--pin-dir", hook.pin_dir, DEFAULT_PIN_DIR),
        ("--failure-rule", failure_rule, DEFAULT_FAILURE_RULE),
        ("--deadline-ms", str(hook.deadline_ms), str(DEFAULT_DEADLINE_MS)),
    )
    return [f"{name}={value}" for name, value, default in settings if value != default]


def find_broken(host: Host, directory: str) -> list[tuple[str, str]]:
    """Paths and faults of the *.json files that a reader would stumble over."""
    found = []
    for name in host.names(directory):
        if name.endswith(".json"):
            path = join(directory, name)
            if fault := _fault(host.read(path) or b""):
                found.append((path, fault))
    return found


def _fault(data: bytes) -> str:
    """Empty when it is a JSON object with a version that readers know."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"does not parse: {error}"
    version = document.get("version") if isinstance(document, dict) else None
    # 0.1.0 is the older schema, and that of files without a version.
    return "" if version in (None, "0.1.0", "1.0.0") and isinstance(document, dict) else f"has version {version!r}"


def parse_hook(data: bytes) -> dict[str, Any] | None:
    """A hooks.d file as an object; None when it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("hook"), dict) else None


def choose_directory(host: Host, directories: Sequence[str]) -> str:
    """The first that can be written to and outlasts a boot; else the first. `directories` is not empty."""
    lasting = [path for path in directories if not path.startswith(("/run/", "/var/run/"))] or list(directories)
    return next((path for path in lasting if _is_writable(host, path)), lasting[0])


def _is_writable(host: Host, directory: str) -> bool:
    missing = host.missing_directories(directory)
    existing = missing[0].rpartition("/")[0] or "/" if missing else directory
    return os.access(host.at(existing), os.W_OK, effective_ids=True)
