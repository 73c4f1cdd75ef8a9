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
    NO_SPEC = "no_spec"  # the bundle's config.json cannot be read
    NO_LABELS = "no_labels"  # the pod's labels cannot be had
    NO_CGROUP = "no_cgroup"  # the process is gone, or in no cgroup of the container
    PROCESS_GONE = "process_gone"  # it ended while it was held
    CONFLICT = "conflict"  # contradicts what is known of the pod
    KERNEL = "kernel"  # a map refused
    DENIED = "denied"  # the caller may not ask for it


class HookError(Exception):
    """A refusal with its reason; the text says which container or process, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class SpecError(HookError):
    """A JSON document of the runtime does not say what it must. pointer: where (RFC 6901), empty for the whole."""

    def __init__(self, reason: Reason, document: str, pointer: str, problem: str) -> None:
        super().__init__(reason, f"{document}{f' at {pointer}' if pointer else ''}: {problem}")
        self.document = document
        self.pointer = pointer
        self.problem = problem


class AnnotationError(HookError):
    """Annotations from which no identity can be made; INVALID for one that is wrong, UNIDENTIFIED for one missing."""

    def __init__(self, reason: Reason, key: str, problem: str) -> None:
        super().__init__(reason, f"annotation {key}: {problem}")
        self.key = key
        self.problem = problem


class LookupFailed(HookError):  # noqa: N818 - named as the outcome that it is
    """A pod's labels could not be had from the runtime."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.NO_LABELS, detail)
