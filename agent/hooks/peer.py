# SPDX-License-Identifier: Apache-2.0
"""Who calls, by the kernel's word (SO_PEERCRED, unix(7)), and who may.

The credentials are those of the process that connected, as the agent's own namespaces number them. The socket is for
root alone; what is checked here is for the case that it was mounted into a container.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.hooks.errors import HookError, Reason
from agent.hooks.limits import MAX_NAME
from agent.kernel.errors import CgroupError
from agent.logs import fields

HOOK_SERVICE = "podgate.hook.v1.RuntimeHook"
HOOK_CALL = (HOOK_SERVICE, "Hook")
QUIET_S = 1.0  # between two lines of the log about callers that are refused: they may come as fast as they like

_UCRED = struct.Struct("iII")  # struct ucred (include/linux/socket.h)

log = logging.getLogger("podgate.server")


@dataclass(frozen=True, slots=True)
class Peer:
    """pid: 0 for a process that the agent's pid namespace does not have."""

    pid: int
    uid: int
    gid: int


def read_peer(channel: socket.socket) -> Peer:
    """Raises OSError."""
    return Peer(*_UCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


# A process's root directory: device and inode.
_Root = tuple[int, int]


def _root_of(procfs: Path, process: str) -> _Root:
    status = os.stat(procfs / process / "root")
    return status.st_dev, status.st_ino


def find_host_root(procfs: Path = Path("/proc")) -> _Root:
    """That of init, or the agent's own where init is out of reach, which is right for an agent that runs on the host:
    from a container it would refuse every hook. Raises OSError.
    """
    try:
        return _root_of(procfs, "1")
    except PermissionError as error:  # init has capabilities that the agent lacks (ptrace(2), access mode checking)
        log.warning("init's root directory is out of reach, taking our own", extra=fields(error=str(error)))
        return _root_of(procfs, "self")


class Callers:
    """The policy. Root may call, from the host or from the namespace that the agent itself runs in.

    container_of: the namespace of the bound container that a process is in, None when it is in none; raises CgroupError
    when that cannot be told. own_namespace: None when no container may call. outcomes: refusals are counted there.
    running_in: the same for one whose workload runs: a container's hook is called before that.
    Raises OSError when the host's root directory cannot be told.
    """

    def __init__(
        self,
        container_of: Callable[[int], str | None],
        outcomes: Counter[str],
        own_namespace: str | None = None,
        procfs: Path = Path("/proc"),
        running_in: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self._container_of = container_of
        self._running_in = running_in
        self._outcomes = outcomes
        self._own_namespace = own_namespace
        self._procfs = procfs
        self._host_root = find_host_root(procfs)
        self._quiet_until = 0.0
        self._untold = 0

    def admit(self, channel: socket.socket) -> Caller:
        """The caller at the other end. Raises OSError."""
        return Caller(self, read_peer(channel))

    def fault_of(self, peer: Peer, *, hook: bool) -> str:
        """Why it may not call; empty when it may. hook: it runs in a container's cgroup, and not in its root."""
        if peer.pid <= 0:
            return "it is outside of the agent's pid namespace"
        if peer.uid != 0:
            return f"it is not root but uid {peer.uid}"
        try:
            root = _root_of(self._procfs, str(peer.pid))
        except OSError as error:
            return f"it has exited, or cannot be looked at ({error.strerror})"
        if hook and root != self._host_root:
            return "its root directory is not the host's: it is in a container"
        return self._fault_in_container(peer, self._running_in if hook else self._container_of)

    def _fault_in_container(self, peer: Peer, container_of: Callable[[int], str | None]) -> str:
        try:
            namespace = container_of(peer.pid)
        except CgroupError as error:
            return f"it cannot be told where it runs: {error}"
        if namespace is None or namespace == self._own_namespace:
            return ""
        return f"it is in a container of {f'namespace {namespace}' if namespace else 'no namespace'}"

    def note_denied(self, detail: str) -> None:
        """Counts it; tells it unless another has just been told."""
        self._outcomes[Reason.DENIED.value] += 1
        now = time.monotonic()
        if now < self._quiet_until:
            self._untold += 1
            return
        log.warning("denied", extra=fields(detail=detail, untold=self._untold))
        self._quiet_until, self._untold = now + QUIET_S, 0


class Caller:
    """One connection's caller."""

    def __init__(self, callers: Callers, peer: Peer) -> None:
        self._callers = callers
        self._may_announce = False
        self.peer = peer

    def is_unwelcome(self) -> bool:
        """Whether it may call nothing at all. The OCI hook is looked at first: a container's start waits for it."""
        return all(self._callers.fault_of(self.peer, hook=hook) for hook in (True, False))

    def check(self, service: str, method: str) -> None:
        """Raises HookError, reason DENIED. What a plugin's container starts wait for is found out once a connection,
        everything else anew for each call.
        """
        hook = (service, method) == HOOK_CALL
        announces = service == HOOK_SERVICE and not hook
        if announces and self._may_announce:
            return
        if fault := self._callers.fault_of(self.peer, hook=hook):
            detail = f"process {self.peer.pid} may not call {service[:MAX_NAME]}: {fault}"
            self._callers.note_denied(detail)
            raise HookError(Reason.DENIED, detail)
        self._may_announce |= announces
