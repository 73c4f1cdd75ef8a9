# SPDX-License-Identifier: Apache-2.0
"""What the caller of an installation decides. Paths are those of the host, without the prefix of --root."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

DEFAULT_INSTALL_DIR = "/usr/libexec/podgate"
DEFAULT_CONTAINERD_CONFIG = "/etc/containerd/config.toml"
DEFAULT_FAILURE_RULE = "/etc/podgate/failure-rule"
DEFAULT_AGENT_SOCKET = "/run/podgate/agent.sock"
DEFAULT_PIN_DIR = "/sys/fs/bpf/podgate"
# As in hook/options.c: what the hook takes altogether.
DEFAULT_DEADLINE_MS = 2_000
# After its deadline the hook still writes a line or quarantines: what is not done by then hangs.
GRACE_S = 3


class RuntimeName(Enum):
    """A container runtime, as --runtime names it."""

    CONTAINERD = "containerd"
    CRI_O = "cri-o"
    PODMAN = "podman"


class Mode(Enum):
    """How podgate gets at containerd's containers."""

    NRI = "nri"
    NRI_PREINSTALLED = "nri-preinstalled"
    OCI = "oci"


class Stage(Enum):
    """The OCI stage at which the hook holds a container (OCI runtime spec, "POSIX-platform Hooks")."""

    CREATE_CONTAINER = "createContainer"
    CREATE_RUNTIME = "createRuntime"

    @property
    def reason(self) -> str:
        """Why one would choose it; stands in the hook's file and in the status."""
        if self is Stage.CREATE_CONTAINER:
            return "the hook runs in the container's own cgroup, which the agent reads from the hook's connection"
        return "the hook runs as root on the host, also where pods use user namespaces"


@dataclass(frozen=True, slots=True)
class HookOptions:
    """What the OCI hook is told. `deadline_ms`: what it takes altogether."""

    stage: Stage = Stage.CREATE_CONTAINER
    agent_socket: str = DEFAULT_AGENT_SOCKET
    pin_dir: str = DEFAULT_PIN_DIR
    deadline_ms: int = DEFAULT_DEADLINE_MS

    @property
    def timeout_s(self) -> int:
        """When the runtime kills a hook that hangs, and refuses the start."""
        return math.ceil(self.deadline_ms / 1000) + GRACE_S


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """A failure rule file to write where there is none. `asked`: the caller said what is to stand in it."""

    default: str = "open"
    exempt: tuple[str, ...] = ()
    own_namespace: str = ""
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """`hooks_dir` empty: the one that the runtime reads. `binary` and `plugin` lie on this machine and on the host."""

    install_dir: str = DEFAULT_INSTALL_DIR
    hooks_dir: str = ""
    containerd_config: str = DEFAULT_CONTAINERD_CONFIG
    failure_rule: str = DEFAULT_FAILURE_RULE
    mode: Mode = Mode.NRI
    hook: HookOptions = HookOptions()
    rule: RuleOptions = RuleOptions()
    binary: Path | None = None
    plugin: str = ""

    @property
    def hook_path(self) -> str:
        return f"{self.install_dir}/podgate-hook"
