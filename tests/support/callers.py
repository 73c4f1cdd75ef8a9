# SPDX-License-Identifier: Apache-2.0
"""For tests of a server that are not about who may call."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from agent.hooks.peer import Peer, read_peer


@dataclass
class Anyone:
    """A caller that may call everything."""

    peer: Peer

    def is_unwelcome(self) -> bool:
        return False

    def check(self, service: str, method: str) -> None:
        pass


def admit_anyone(channel: socket.socket) -> Anyone:
    return Anyone(read_peer(channel))
