# SPDX-License-Identifier: Apache-2.0
"""Containers that start one after the other, several at a time, for as long as they are asked to, whatever happens."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import grpc

from bench.faults.site import EXEMPT, GUARDED, Site
from bench.faults.starts import HUNG_S, Start
from tests.support.cri import Container, Pod, State
from tests.support.wait import POLL_S

EXEMPT_EVERY = 5
NEW_POD_EVERY = 4
# Between two starts of a thread: the stream must not take the processors from what recovers.
PACE_S = 0.05
# While the runtime is away every call fails at once.
AWAY_S = 0.25


class Stream:
    """As a context manager: containers start from entering to leaving. `starts` is complete after that."""

    def __init__(self, site: Site, parallel: int) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._begun = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(parallel)]
        self.starts: list[Start] = []
        self.errors: list[BaseException] = []

    @property
    def begun(self) -> int:
        """How many starts were begun. Raises what has ended a thread."""
        if self.errors:
            raise self.errors[0]
        return self._begun

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None and self.errors:
            raise self.errors[0]

    def _run(self) -> None:
        try:
            while not self._over.wait(PACE_S):
                with self._lock:
                    number = self._begun
                    self._begun += 1
                start = start_one(self._site, number)
                self.starts.append(start)
                if not start.container_id:
                    self._over.wait(AWAY_S)
        except BaseException as error:  # noqa: BLE001 - raised where the stream is waited for
            self.errors.append(error)


def start_one(site: Site, number: int) -> Start:
    """Every few of another namespace, every few in a pod of its own. Gone at the end, as far as the runtime answers."""
    exempt = number % EXEMPT_EVERY == EXEMPT_EVERY - 1
    namespace = EXEMPT if exempt else GUARDED
    pod = None if number % NEW_POD_EVERY == NEW_POD_EVERY - 1 else site.standing[namespace]
    asked = time.time()
    try:
        own = pod or site.new_pod(namespace)
    except grpc.RpcError as error:
        return Start(number, exempt, asked, time.time(), error=_words(error))
    try:
        return _start_in(site, own, number, exempt=exempt)
    finally:
        if pod is None:
            site.remove(own)


def _start_in(site: Site, pod: Pod, number: int, *, exempt: bool) -> Start:
    asked = time.time()
    try:
        container = site.create(pod)
    except grpc.RpcError as error:
        return Start(number, exempt, asked, time.time(), error=_words(error))
    asked, refusal = time.time(), ""
    try:
        site.node.cri.start(container)
    except grpc.RpcError as error:
        refusal = _words(error)
    answered = time.time()
    code = _await_end(site, container)
    output = site.node.cri.log_text(container)
    _remove(site, container)
    return Start(number, exempt, asked, answered, container.id, refusal, code, output)


def _words(error: grpc.RpcError) -> str:
    """Never empty."""
    return f"{error.code().name}: {error.details()}"


def _await_end(site: Site, container: Container) -> int | None:
    """Its exit code; None for one that was never started, or does not end. The runtime may be away meanwhile."""
    deadline = time.monotonic() + HUNG_S
    while time.monotonic() < deadline:
        try:
            status = site.node.cri.status(container)
        except grpc.RpcError:
            time.sleep(PACE_S)
            continue
        if status.state is State.EXITED:
            return status.exit_code
        if status.state is State.CREATED:
            return None
        time.sleep(POLL_S)
    return None


def _remove(site: Site, container: Container) -> None:
    try:
        site.node.cri.remove(container)
    except grpc.RpcError:
        return  # the runtime is away, and keeps it: it goes with the node
