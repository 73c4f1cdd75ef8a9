# SPDX-License-Identifier: Apache-2.0
"""struct pg_event of bpf/maps/events.h; tests/unit/test_layout.py compares the two."""

from __future__ import annotations

import struct

SLOTS = 8
ABSENT = 0xFFFF
KIND_POLICY = 1
FLAG_DEFERRED = 1
CUT_TAIL = 1
CUT_HEAD = 2
UNREADABLE = 4

# size kind flags time cgroup args[6] pid tid uid workload policy rule selector error reserved comm len[8]
# slot_flags[8] slot_id[8]
HEADER = struct.Struct("<IHHQQ6QIIIIIHHiI16s8H8B8B")

# PG_TEXT_*: the upper half of a slot's id; the lower half is the argument's index
TEXT_KINDS = {1: "string", 2: "char_buf", 3: "fd"}
BINARY_ID = 0x40
