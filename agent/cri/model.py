# SPDX-License-Identifier: Apache-2.0
"""What the runtime knows, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from agent.workload.identity import ContainerId


class State(Enum):
    """A container's state (ContainerState of the CRI)."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class CriVersion:
    """Name and version of the runtime, such as containerd 2.1.9, and of the interface that it speaks."""

    name: str
    version: str
    api: str


@dataclass(frozen=True, slots=True)
class CriContainer:
    """One container; `sandbox` is the id of its pod's sandbox. Labels and annotations are its own, not its pod's."""

    id: ContainerId
    sandbox: ContainerId
    name: str
    image: str
    state: State
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CriPod:
    """One pod; `sandbox` is the id of its sandbox, which is also that of its pause container."""

    sandbox: ContainerId
    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Identified:
    """Whose a container is. Without a `container` it is the pod's own: the sandbox, its pause process."""

    pod: CriPod
    container: CriContainer | None

    @property
    def is_sandbox(self) -> bool:
        return self.container is None


@dataclass(frozen=True, slots=True)
class CriProcess:
    """A container's init process in the initial pid namespace, and its cgroups path as the runtime's OCI config has
    it: a path, or slice:prefix:name; empty when it has none."""

    pid: int
    cgroups_path: str
