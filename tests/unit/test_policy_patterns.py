# SPDX-License-Identifier: Apache-2.0
"""Regular expressions over names: what they match, and that their time is bounded."""

import time

import pytest

from agent.policy.patterns import MAX_PATTERN, MAX_STEPS, Pattern, PatternError
from agent.policy.syscalls import NUMBERS


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", "open", None),
        ("open", "sys_openat", "close"),
        ("^open", "openat", "sys_open"),
        ("open$", "sys_open", "openat"),
        ("^open(at2?)?$", "open openat openat2", "openat3 opena"),
        ("^(read|write|p(read|write)64)$", "read write pread64 pwrite64", "pread readv"),
        ("^[a-c]+$", "abc", "abd "),
        ("^[^a-c_]+$", "xyz", "xaz x_z"),
        ("^[]a-]+$", "]a-", "b"),
        (r"^\w+\d$", "dup2", "dup"),
        (r"^\D+$", "dup", "dup2"),
        (r"^a\.b\$$", "a.b$", "axb$"),
        ("^a{2}b{1,}c{0,2}$", "aab aabbcc", "ab aac aabccc"),
        ("^a.c$", "abc a.c", "ac abbc"),
        ("^(?:ab)*?$", "ab abab", "aba"),
        ("a|^b$|c{3}", "xax b ccc", "bb cc"),
        (r"[\]\-_]", "] - _", "a"),
    ],
)
def test_what_matches(pattern: str, yes: str, no: str | None) -> None:
    compiled = Pattern(pattern)
    assert all(map(compiled.search, yes.split()))
    assert not any(map(compiled.search, (no or "").split()))


@pytest.mark.parametrize(
    ("pattern", "position"),
    [
        ("a(b", 4),
        ("a)b", 2),
        ("[a", 3),
        ("a{2", 4),
        ("a{3,2}", 7),
        ("a{x}", 3),
        ("*a", 1),
        ("a**", 3),
        ("a\\", 3),
        (r"\bopen", 2),
        ("(?i)open", 3),
        ("(?=a)", 3),
        ("é", 1),
        ("[z-a]", 5),
        ("a" * (MAX_PATTERN + 1), MAX_PATTERN + 1),
    ],
)
def test_what_is_not_supported_has_its_place(pattern: str, position: int) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern(pattern)
    assert caught.value.position == position
    assert str(caught.value).endswith(f"(character {position})")


@pytest.mark.parametrize("pattern", ["(" * 40, "(a{1000})" * 2, "a{99999}", "((a{100}){100}){100}", "a{0,600}b{0,600}"])
def test_size_is_limited(pattern: str) -> None:
    with pytest.raises(PatternError, match=f"more than {MAX_STEPS} steps|nested more than"):
        Pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a*)*!", "(a|a)*!", "(.*a|.*_|s.*){60}!", "([a-z]+)+$!", "(a|[a-z_])*" * 90 + "!"]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    compiled = Pattern(pattern)
    start = time.process_time()
    assert not any(compiled.search(name) for name in (*NUMBERS, "a" * 200))
    assert time.process_time() - start < 1
