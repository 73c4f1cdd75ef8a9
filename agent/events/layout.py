# SPDX-License-Identifier: Apache-2.0
"""The records of bpf/maps/events.h, little endian; tests/unit/test_layout.py compares the two.

An event is a header and then `items` items: each an item header and its bytes, padded to a multiple of ALIGNMENT. What
a value has beyond its item comes before the event, in parts; a second item of the value's id says which they are.
"""

from __future__ import annotations

import struct

# size kind flags time cgroup pid tid uid workload policy rule selector error return_selector items comm start
HEADER = struct.Struct("<IHHQQIIIIIHHiHH16sQ")
# id len mode flags kind reserved
ITEM = struct.Struct("<IIIBBH")
# size kind reserved len offset serial
PART = struct.Struct("<IHHIIQ")
# serial size reserved
REST = struct.Struct("<QII")
ALIGNMENT = 8

KIND_POLICY = 1
KIND_PART = 2
KIND_AT = 4  # where the kind is, in every record

FLAG_DEFERRED = 1
FLAG_RETURN = 2
FLAG_MONITOR = 4
FLAG_CUT = 8
FLAG_PARTED = 16
FLAG_SOCKET = 32

NO_SELECTOR = 0xFFFF

ITEM_NUMBER = 0
ITEM_BLOB = 1
ITEM_REST = 2
NUMBER_BYTES = 8
MAX_BLOB = 327_360  # what maxData allows, the most that one value can have

# Flags of an item: PG_STRING_* of bpf/maps/strings.h.
CUT_TAIL = 1
CUT_HEAD = 2
UNREADABLE = 4
DELETED = 8
OUTSIDE = 16

# The ids below FIRST_VALUE are ours; the others are the agent's numbers of the values that rules name.
BINARY_ID = 1
PARENT_BINARY_ID = 2
KERNEL_STACK_ID = 3
USER_STACK_ID = 4
FIRST_VALUE = 16
