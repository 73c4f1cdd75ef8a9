# SPDX-License-Identifier: Apache-2.0
"""Numbers as Go reads them, names as Kubernetes does, and the table of system calls."""

import pytest

from agent.policy.syscalls import NUMBERS, parse_call
from agent.policy.values import (
    is_dns_label,
    is_dns_subdomain,
    is_event_name,
    is_identifier,
    is_label_key,
    is_label_value,
    is_repository,
    is_symbol,
    parse_number,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("+7", 7),
        ("0x1F", 31),
        ("0X_1f", 31),
        ("-0b101", -5),
        ("0o17", 15),
        ("017", 15),
        ("0_17", 15),
        ("00", 0),
        ("1_000_000", 1_000_000),
        ("0x" + "f" * 16, 2**64 - 1),
        ("0b" + "_".join("1" * 64), 2**64 - 1),
    ],
)
def test_numbers_that_go_reads(text: str, value: int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+", "0x", "0b", "0o", "08", "09", "0b2", "0o8", "0xg", "_1", "1_", "1__0", "0x_", "--1", "+-1"),
        *(" 1", "1 ", "1\n", "1.0", "1e3", "0x1p4", "a", "\u0661", "\uff11", "1,000", "1:30", "0" * 257),
    ],
)
def test_numbers_that_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        parse_number(text)


def test_names_and_labels() -> None:
    assert is_dns_label("a" * 63)
    assert not any(map(is_dns_label, ["", "a" * 64, "a.b", "-a", "a-", "A", "a\n"]))
    assert is_dns_subdomain("a.b")
    assert not any(map(is_dns_subdomain, ["", "a" * 254, "a.", "a..b", "a_b"]))
    assert all(map(is_label_value, ["", "A_b.c-d", "x" * 63]))
    assert not any(map(is_label_value, ["x" * 64, "-a", "a-", "a/b", "é", "a\n"]))
    assert all(map(is_label_key, ["A_b.c-d", "x.io/name", "a" * 253 + "/" + "b" * 63]))
    assert not any(map(is_label_key, ["", "/a", "a/", "a/b/c", "X.io/name", "a" * 254 + "/b", "a b"]))


def test_names_of_the_kernel_and_of_images() -> None:
    assert all(map(is_identifier, ["_a1", "a" * 511]))
    assert not any(map(is_identifier, ["", "1a", "a.b", "a" * 512, "é"]))
    assert all(map(is_symbol, ["foo.constprop.0", "$x", "f@plt"]))
    assert not any(map(is_symbol, ["", "1a", "a b", "a/b", "a\n"]))
    assert all(map(is_event_name, ["sched_process_exec", "a-b", "x:y", "a" * 255]))
    assert not any(map(is_event_name, ["", ".", "..", ".a", "a/b", "a" * 256, "a\n"]))
    assert all(map(is_repository, ["app", "registry:5000/team/app", "a" * 512]))
    assert not any(map(is_repository, ["", "/a", "a/", "a b", "a@sha256:0", "a" * 513]))


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0", 0), ("5", 5000), ("5s", 5000), ("07m", 420_000), ("1193h", 4_294_800_000)],
)
def test_rate_limits(text: str, milliseconds: int) -> None:
    assert parse_rate(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "-1", "5d", "5 s", "1.5s", "1194h", "9" * 11, "\u0665"])
def test_what_is_no_rate_limit(text: str) -> None:
    with pytest.raises(ValueError, match="not a rate limit"):
        parse_rate(text)


def test_system_calls_have_the_kernels_numbers() -> None:
    known = {"read": 0, "openat": 257, "rseq": 334, "pidfd_send_signal": 424, "mseal": 462, "file_setattr": 469}
    assert {name: NUMBERS[name] for name in known} == known
    assert len(set(NUMBERS.values())) == len(NUMBERS)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("__x64_sys_newuname", "uname"),
        ("sys_umount", "umount2"),
        ("_sysctl", "_sysctl"),
        ("sysfs", "sysfs"),
        ("__x64_sys__sysctl", "_sysctl"),
        ("__x64_sys_", None),
        ("sys_sys_read", None),
        ("__ia32_sys_read", None),
        ("Read", None),
        ("", None),
    ],
)
def test_calls_are_looked_up_by_symbol_or_name(call: str, name: str | None) -> None:
    assert parse_call(call) == name
