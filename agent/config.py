# SPDX-License-Identifier: Apache-2.0
"""What an agent is started with, and how a start fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.kernel.doors import DoorPolicy
from agent.kernel.loader import LoaderLimits
from agent.kernel.pins import DEFAULT_DIRECTORY

HOOK_BINARY = Path("/usr/libexec/podgate/podgate-hook")


@dataclass(frozen=True, slots=True)
class Config:
    """The options of podgate-agent, sizes in bytes. btf: of a kernel that has none itself. cri_socket: a path, auto or
    none.
    """

    run_dir: Path = Path("/run/podgate")
    pin_dir: Path = DEFAULT_DIRECTORY
    cache_dir: Path = Path("/var/cache/podgate/headers")
    btf: Path | None = None
    policy_dir: Path | None = None
    ring_bytes: int = 2 << 20
    max_bindings: int = 65535
    arming_deadline_s: float = 10.0
    loader: LoaderLimits = field(default_factory=LoaderLimits)
    realtime: bool = True
    doors: DoorPolicy = field(default_factory=DoorPolicy)
    cri_socket: str = "auto"
    hook_binary: Path = HOOK_BINARY
    own_namespace: str | None = None
    grpc_addresses: tuple[str, ...] = ()
    allow_lookups: bool = False


class StartError(Exception):
    """The agent cannot start; the text says which part is missing and what to do."""
