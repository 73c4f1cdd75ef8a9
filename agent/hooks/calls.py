# SPDX-License-Identifier: Apache-2.0
"""What the agent's socket and its services agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.hooks.peer import Peer
from nri_plugin.ttrpc import Code

After = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """after: what is to be done once the answer has been sent, so that a held container does not wait for it."""

    payload: bytes
    after: After | None = None


class CallError(Exception):
    """A call is answered with this code and text. after: as in Answer."""

    def __init__(self, code: Code, message: str, after: After | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.after = after


class Service(Protocol):
    def call(self, method: str, payload: bytes, peer: Peer) -> Answer:
        """Raises CallError."""
        ...
