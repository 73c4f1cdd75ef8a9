# SPDX-License-Identifier: Apache-2.0
"""OCI hooks as tests hand them to a runtime: in a hooks.d file (podman, cri-o) or in a spec (containerd's base spec).

Sources: the OCI runtime specification, config.md "POSIX-platform Hooks"; containers/common, oci-hooks.5.md.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CREATE_RUNTIME = "createRuntime"
CREATE_CONTAINER = "createContainer"
POSTSTOP = "poststop"
HOOKSD_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Hook:
    """One program at one stage. `args` follow argv[0], which is the program's name; without a timeout there is none."""

    stage: str
    program: Path
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: int | None = None

    def entry(self) -> dict[str, object]:
        """The hook object of the runtime specification."""
        entry: dict[str, object] = {"path": str(self.program), "args": [self.program.name, *self.args]}
        if self.env:
            entry["env"] = [f"{name}={value}" for name, value in self.env.items()]
        if self.timeout_s is not None:
            entry["timeout"] = self.timeout_s
        return entry


def render_hooksd(hook: Hook) -> str:
    """A hooks.d file that runs the hook for every container."""
    document = {"version": HOOKSD_VERSION, "hook": hook.entry(), "when": {"always": True}, "stages": [hook.stage]}
    return json.dumps(document, indent=2) + "\n"


def add_hooks(spec: Mapping[str, Any], hooks: Iterable[Hook]) -> dict[str, Any]:
    """A copy of an OCI config.json with the hooks behind those that it has."""
    document: dict[str, Any] = copy.deepcopy(dict(spec))
    stages = document.setdefault("hooks", {})
    for hook in hooks:
        stages.setdefault(hook.stage, []).append(hook.entry())
    return document


# procfs is the host's until the container's root is pivoted to, so these pids are the host's, whatever pid namespace
# the hook is in; so is the content of /proc/self/cgroup, except in a cgroup namespace. There is no PATH.
_RECORDER = """\
#!/bin/sh
# facts FOLDER STAGE STATUS: write what is true here to FOLDER, and end with STATUS.
state=$(/bin/cat)
read -r pid comm status ppid rest </proc/self/stat
read -r parent </proc/$ppid/comm
cgroup=$(while read -r line; do case $line in 0::*) echo "${line#0::}" ;; esac; done </proc/self/cgroup)
printf '%s\\n' "$2" "$pid" "$ppid" "$parent" "$PWD" "$cgroup" "$state" >"$1/$pid.part"
/bin/mv "$1/$pid.part" "$1/$pid.facts"
exit "$3"
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One run of the recorder: `pid`, `ppid` as the host counts; `cgroup` is its own in the unified hierarchy."""

    stage: str
    pid: int
    ppid: int
    parent: str
    cwd: str
    cgroup: str
    state: Mapping[str, Any]

    @property
    def container(self) -> str:
        """The id of the container that the hook ran for."""
        return str(self.state["id"])


class Recorder:
    """A hook program that writes down what it sees, below `folder`, which is made and which every user can write to."""

    def __init__(self, folder: Path) -> None:
        self._records = folder / "records"
        self._records.mkdir(parents=True)
        self._records.chmod(0o1777)
        self._program = folder / "facts"
        self._program.write_text(_RECORDER)
        self._program.chmod(0o755)

    def hook(self, stage: str, status: int = 0) -> Hook:
        """The recorder at a stage; it ends with `status`."""
        return Hook(stage, self._program, (str(self._records), stage, str(status)))

    def records(self, container: str = "") -> list[Record]:
        """What ran until now, in no order; of one container if its id is given."""
        found = [parse_record(path.read_text()) for path in self._records.glob("*.facts")]
        return [record for record in found if container in ("", record.container)]


def parse_record(text: str) -> Record:
    """A file that the recorder wrote; ValueError when it is not one."""
    parts = text.split("\n", 6)
    if len(parts) != 7:
        raise ValueError(f"not a record of a hook: {text!r}")
    stage, pid, ppid, parent, cwd, cgroup, state = parts
    return Record(stage, int(pid), int(ppid), parent, cwd, cgroup, json.loads(state))
