# SPDX-License-Identifier: Apache-2.0
"""The format files of tracepoints: what the record of each event is made of.

A line is `<tab>field:char comm[16];<tab>offset:8;<tab>size:16;<tab>signed:0;` (f_show of kernel/trace/trace_events.c).
Lines that do not look like a field (the name, the id, the print format) are none.
"""

from __future__ import annotations

import re
from typing import Final

from agent.policy.facts import RecordField

# The longest of a distribution's kernel, with its print format, has some 20 KB.
MAX_FORMAT_BYTES: Final = 1 << 20
_LINE = re.compile(
    r"\tfield:(?P<declaration>[^;]+);\toffset:(?P<offset>\d{1,9});\tsize:(?P<size>\d{1,9});(?:\tsigned:(?P<signed>[01]);)?"
)
_DECLARATION = re.compile(r"(?P<type>.*?)\s*(?P<name>\w+)(?P<array>\[[^\]]*\])?", re.ASCII | re.DOTALL)


def parse_fields(text: str) -> tuple[RecordField, ...]:
    """All fields of a format file in order, the common ones first."""
    lines = (_LINE.fullmatch(line.rstrip()) for line in text.splitlines())
    return tuple(field for line in lines if line and (field := _parse_field(line)))


def _parse_field(line: re.Match[str]) -> RecordField | None:
    declared = _DECLARATION.fullmatch(line["declaration"])
    if declared is None:
        return None
    text = " ".join(declared["type"].split()) + (declared["array"] or "")
    return RecordField(declared["name"], text, int(line["offset"]), int(line["size"]), line["signed"] == "1")
