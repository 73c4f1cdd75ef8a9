# SPDX-License-Identifier: Apache-2.0
"""Calls that wait for their return, in the maps of bpf/maps/deferred.h."""

from __future__ import annotations

import struct

from agent.kernel import bpf
from agent.kernel.layout import RETURN_KEY
from agent.kernel.maps import Maps

DEFERRED = struct.Struct("<12Q4I")  # struct pg_deferred: in[PG_INPUTS] attachment generation chunk reserved
_ATTACHMENT = 12
_PID_TGID = 8


def waiting_attachments(maps: Maps) -> frozenset[int]:
    """The attachments for whose return a call waits."""
    deferred = maps.fileno("deferred")
    values = (bpf.lookup(deferred, key, DEFERRED.size) for key in bpf.keys(deferred, _PID_TGID))
    awaited = (RETURN_KEY.unpack(key) for key in bpf.keys(maps.fileno("awaited"), RETURN_KEY.size))
    found = {DEFERRED.unpack(value)[_ATTACHMENT] for value in values if value is not None}
    return frozenset(found | {attachment for _, _, attachment, _ in awaited})
