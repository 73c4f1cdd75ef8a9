# SPDX-License-Identifier: Apache-2.0
"""Credentials and user namespaces: struct pg_cred and pg_user_namespace of bpf/lib/cred.h. Pure."""

from __future__ import annotations

import struct
from typing import Any

from agent.events.blob_names import SECURE_BITS, bit_names
from agent.events.names import capability_names

IDS = ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid")
SETS = ("inheritable", "permitted", "effective", "bounding", "ambient")

CRED = struct.Struct("<8I2I5Q16s")
USER_NAMESPACE = struct.Struct("<iIII")


def decode_cred(data: bytes, _mode: int) -> dict[str, Any]:
    """Ids are the host's."""
    values = CRED.unpack(data)
    ids, secure, sets, namespace = values[:8], values[8], values[10:15], values[15]
    return {
        **dict(zip(IDS, ids, strict=True)),
        "securebits": bit_names(SECURE_BITS, secure),
        "caps": {name: capability_names(mask) for name, mask in zip(SETS, sets, strict=True)},
        "user_ns": decode_user_namespace(namespace, 0),
    }


def decode_user_namespace(data: bytes, _mode: int) -> dict[str, Any]:
    """level 0 is the host's namespace. uid, gid: of its owner, as the host sees them."""
    level, owner, group, inode = USER_NAMESPACE.unpack(data)
    return {"level": level, "uid": owner, "gid": group, "ns": {"inum": inode, "is_host": level == 0}}
