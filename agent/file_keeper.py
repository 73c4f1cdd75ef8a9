# SPDX-License-Identifier: Apache-2.0
"""Keeps probes on the files that are there.

A probe stays on the inode that it was attached to. When a package is upgraded another one stands under the path, and
what is started from then on runs without the probe. So the files of all policies are looked at every two seconds, one
stat(2) each; where one is not what it was, the policy is resolved and attached anew, as if it had been added again:
digests are checked, symbols are looked up, and the old rules go when the new ones are in force. When that fails the
probes stay where they are, the policy is listed with the reason, and it is tried again, ever more seldom: whoever can
write to a file cannot keep the agent at work.

A thread of its own: a file system that does not answer holds up nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.logs import fields
from agent.policy.model import PolicyKey
from agent.policy.user_facts import FileIdentity
from agent.policy_entry import Entry, PolicyRejected
from agent.probed_files import Files, find_files

log = logging.getLogger("podgate.files")

LOOK_S = 2.0  # how long a program that was replaced runs without its probes, besides some seconds of compiling
FIRST_WAIT_S = 10.0  # between two attempts for one policy; twice as long each time
MAX_WAIT_S = 600.0
STOP_S = 60.0  # a change takes no longer than the loader's deadline, 30 s


class Store(Protocol):
    """What is used of a PolicyStore."""

    def entries(self) -> tuple[Entry, ...]: ...

    def follow_files(self, entry: Entry, changed: str) -> int: ...

    def note(self, entry: Entry, error: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The last one for a policy, which has this serial number since: the next is due then, after so many seconds."""

    serial: int
    due: float
    wait_s: float
    failed: bool


class FileKeeper:
    """identity: of the file under a path now, raises UserFileError. clock: seconds."""

    def __init__(
        self, store: Store, identity: Callable[[str], FileIdentity], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._attempts: dict[PolicyKey, _Attempt] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for a change that is being made."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def check(self) -> None:
        """Looks at all files once."""
        entries = [entry for entry in self._store.entries() if entry.placed and entry.files]
        known = {entry.policy.key for entry in entries}
        self._attempts = {key: attempt for key, attempt in self._attempts.items() if key in known}
        for entry in entries:
            self._check(entry)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.check()
            except Exception:
                log.exception("the files of policies could not be looked at")

    def _check(self, entry: Entry) -> None:
        found = find_files(entry.policy, self._identity)
        changed = sorted(path for path, identity in found.items() if identity != entry.files.get(path))
        last = self._last(entry)
        if not changed and not entry.is_behind and not (last and last.failed):
            return
        if last and self._clock() < last.due:
            if not entry.is_behind:
                told = f"{_told(changed, found)}; too often: they follow later"
                self._store.note(entry, f"{entry.error}; {told}" if entry.error else told)
            return
        self._follow(entry, _told(changed, found), last)

    def _last(self, entry: Entry) -> _Attempt | None:
        """None for one that was added since."""
        last = self._attempts.get(entry.policy.key)
        return last if last and entry.placed and last.serial == entry.placed.serial else None

    def _follow(self, entry: Entry, told: str, last: _Attempt | None) -> None:
        key = entry.policy.key
        log.warning("the file of a policy's probes is another one", extra=fields(policy=str(key), change=told))
        failed, serial = True, entry.placed.serial if entry.placed else 0
        try:
            serial = self._store.follow_files(entry, told)
            failed = False
            log.info("probes are on the files that are there now", extra=fields(policy=str(key)))
        except PolicyRejected as error:
            log.error("probes stay on earlier files", extra=fields(policy=str(key), error=str(error)))
        finally:
            now = self._clock()
            is_calm = last is None or now - last.due > MAX_WAIT_S
            wait_s = FIRST_WAIT_S if is_calm or last is None else min(2 * last.wait_s, MAX_WAIT_S)
            self._attempts[key] = _Attempt(serial, now + wait_s, wait_s, failed)


def _told(changed: list[str], found: Files) -> str:
    """What happened, for the list of policies."""
    texts = [f"{path} {'was replaced or changed' if found[path] else 'is gone'}" for path in changed]
    return f"{', '.join(texts) or 'files were replaced'}, and probes are on what was there before"
