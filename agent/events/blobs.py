# SPDX-License-Identifier: Apache-2.0
"""Structures that bpf/lib reads for arguments, as values of JSON. Pure.

Each decoder takes the bytes of an item: a structure, or a name with facts behind it, whose size is fixed for the type.
tests/unit/test_blobs_layout.py compares the sizes with the C. Fields have the names that readers of the public
interface know (`saddr`, `insn_cnt`), numbers with a name of the kernel's become that name; one without stays a number.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent.events.blobs_cred import decode_cred, decode_user_namespace
from agent.events.blobs_net import decode_skb, decode_sock, decode_sockaddr, decode_sockaddr_un
from agent.events.blobs_objects import (
    decode_bpf_attr,
    decode_bpf_map,
    decode_bpf_prog,
    decode_module,
    decode_perf_event,
)
from agent.events.layout import UNREADABLE

Fields = dict[str, Any]
Decode = Callable[[bytes, int], Fields]  # the bytes, and the item's `mode`


def decode_blob(type_name: str, data: bytes, flags: int, mode: int) -> Fields | None:
    """The value of an argument. type_name: an ArgType's value, one of BLOB_TYPES. flags: of the item. mode: the item's;
    its meaning is the type's.

    None when the argument could not be read. Bytes that no reader of bpf/lib writes are given as they are, with
    `malformed`. Raises KeyError for a type that has no structure.
    """
    decode = _DECODERS[type_name]
    if flags & UNREADABLE:
        return None
    try:
        return decode(data, mode)
    except (struct.error, ValueError):
        return {"malformed": True, "base64": base64.b64encode(data).decode()}


def _iov_iter(data: bytes, mode: int) -> Fields:
    """mode: bytes in all segments."""
    return {"base64": base64.b64encode(data).decode(), "count": mode}


def _net_device(data: bytes, mode: int) -> Fields:
    """mode: the device's index."""
    return {"name": data.decode(errors="backslashreplace"), "ifindex": mode}


_DECODERS: Final[Mapping[str, Decode]] = MappingProxyType(
    {
        "sock": decode_sock,
        "socket": decode_sock,
        "skb": decode_skb,
        "sockaddr": decode_sockaddr,
        "sockaddr_un": decode_sockaddr_un,
        "net_device": _net_device,
        "iov_iter": _iov_iter,
        "cred": decode_cred,
        "user_namespace": decode_user_namespace,
        "bpf_attr": decode_bpf_attr,
        "bpf_map": decode_bpf_map,
        "bpf_prog": decode_bpf_prog,
        "perf_event": decode_perf_event,
        "load_info": decode_module,
        "module": decode_module,
    }
)
BLOB_TYPES: Final = frozenset(_DECODERS)
