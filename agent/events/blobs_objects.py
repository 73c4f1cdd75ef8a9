# SPDX-License-Identifier: Apache-2.0
"""Objects with a name and facts behind it: of bpf(), perf events and kernel modules. Pure.

The facts are struct pg_bpf_facts, pg_perf_facts and pg_module_facts of bpf/lib; what is in front of them is the name.
"""

from __future__ import annotations

import struct
from typing import Any

from agent.events.blob_names import MAP_TYPE, PERF_TYPE, PROG_TYPE, TAINT, bit_names, name_or_number

BPF_FACTS = struct.Struct("<10I")
PERF_FACTS = struct.Struct("<IIQQ16s")
MODULE_FACTS = struct.Struct("<QII")

# pg_bpf_facts.kind
KIND_MAP = 1
KIND_PROG = 2

SIGNATURES = {1: True, 2: False}  # PG_SIGNATURE_GOOD, PG_SIGNATURE_NONE

Fields = dict[str, Any]


def _split(data: bytes, facts: struct.Struct) -> tuple[str, tuple[Any, ...]]:
    """The name and the facts. Raises ValueError for fewer bytes than the facts have."""
    at = len(data) - facts.size
    if at < 0:
        raise ValueError(f"{len(data)} bytes, at least {facts.size}")
    return data[:at].decode(errors="backslashreplace"), facts.unpack_from(data, at)


def decode_bpf_attr(data: bytes, _mode: int) -> Fields:
    """What is to be made: a program or a map; of other commands nothing."""
    kind = _split(data, BPF_FACTS)[1][0]
    if kind == KIND_PROG:
        return _without_id(decode_bpf_prog(data, 0))
    return _without_id(decode_bpf_map(data, 0)) if kind == KIND_MAP else {}


def _without_id(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if name != "id"}


def decode_bpf_prog(data: bytes, _mode: int) -> Fields:
    """id: 0 as long as the program is being loaded. attach_type: enum bpf_attach_type."""
    name, (_, kind, identifier, _, instructions, attach_type, *_) = _split(data, BPF_FACTS)
    return {
        "prog_type": name_or_number(PROG_TYPE, kind),
        "insn_cnt": instructions,
        "prog_name": name,
        "expected_attach_type": attach_type,
        "id": identifier,
    }


def decode_bpf_map(data: bytes, _mode: int) -> Fields:
    """Sizes in bytes. flags: BPF_F_* of map_flags."""
    name, (_, kind, identifier, flags, _, _, key, value, entries, _) = _split(data, BPF_FACTS)
    return {
        "map_type": name_or_number(MAP_TYPE, kind),
        "key_size": key,
        "value_size": value,
        "max_entries": entries,
        "map_name": name,
        "map_flags": flags,
        "id": identifier,
    }


def decode_perf_event(data: bytes, _mode: int) -> Fields:
    """kprobe_func: the function, or the tracepoint, empty for events of other kinds. probe_offset: bytes."""
    name, (kind, _, config, offset, pmu) = _split(data, PERF_FACTS)
    return {
        "kprobe_func": name,
        "type": name_or_number(PERF_TYPE, kind),
        "config": config,
        "probe_offset": offset,
        "pmu": pmu.partition(b"\0")[0].decode(errors="backslashreplace"),
    }


def decode_module(data: bytes, _mode: int) -> Fields:
    """signature_ok is absent where the kernel does not tell."""
    name, (taints, signature, _) = _split(data, MODULE_FACTS)
    fields: Fields = {"name": name, "tainted": bit_names(TAINT, taints)}
    return fields | ({"signature_ok": SIGNATURES[signature]} if signature in SIGNATURES else {})
