# SPDX-License-Identifier: Apache-2.0
"""The log format of the CRI."""

from __future__ import annotations

import pytest

from tests.support.cri import parse_cri_log

TIME = "2025-11-21T18:42:54.000000001Z"


def test_lines_of_both_streams_come_in_order() -> None:
    assert parse_cri_log(f"{TIME} stdout F one\n{TIME} stderr F two\n") == "one\ntwo\n"


def test_partial_lines_are_joined() -> None:
    assert parse_cri_log(f"{TIME} stdout P Bad file \n{TIME} stdout F descriptor\n") == "Bad file descriptor\n"


def test_output_without_a_newline_at_the_end_gets_none() -> None:
    assert parse_cri_log(f"{TIME} stdout P prompt\n") == "prompt"


def test_empty_line_and_empty_log() -> None:
    assert parse_cri_log(f"{TIME} stdout F \n") == "\n"
    assert parse_cri_log("") == ""


@pytest.mark.parametrize("line", ["plain output", f"{TIME} stdin F x", f"{TIME} stdout Q x"])
def test_other_text_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a CRI log line"):
        parse_cri_log(line)
