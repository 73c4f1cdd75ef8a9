# SPDX-License-Identifier: Apache-2.0
"""Why a hook's request is refused. A refused container is not bound, and the hook that asked decides what that means
for its start.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """One word for counters and logs."""

    INVALID = "invalid"  # the message does not say what it must
    UNIDENTIFIED = "unidentified"  # no container id, or no pod
    NO_CGROUP = "no_cgroup"  # the process is gone, or in no cgroup of the container
    PROCESS_GONE = "process_gone"  # it ended while it was held
    CONFLICT = "conflict"  # contradicts what is known of the pod
    KERNEL = "kernel"  # a map refused


class HookError(Exception):
    """A refusal with its reason; the text says which container or process, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
