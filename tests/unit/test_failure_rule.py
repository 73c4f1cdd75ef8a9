# SPDX-License-Identifier: Apache-2.0
"""The failure rule as both of its readers read it: rthook/failure.py, and the hook's own in C, asked by --explain."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rthook.failure import (
    BUILT_IN_EXEMPT,
    MAX_BYTES,
    MAX_LINES,
    MAX_NAME,
    FailureRule,
    Fault,
    RuleError,
    Treatment,
    is_name,
    is_pattern,
    parse_rule,
    read_rule,
    render_rule,
)
from tests.support.hook import build_program
from tests.support.names import project_dir

_CASES: list[dict[str, Any]] = yaml.safe_load((project_dir() / "tests/data/failure_rule_cases.yaml").read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader makes of a file, for one namespace."""

    treatment: str
    not_known: str
    faults: tuple[str, ...]


Reader = Callable[[Path, str], Answer]


def ask_python(path: Path, namespace: str) -> Answer:
    rule = read_rule(path)
    faults = tuple(map(str, rule.faults))
    return Answer(rule.treatment(namespace).value, rule.treatment(None).value, faults)


def explain(path: Path, namespace: str, *, sanitize: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(build_program(sanitize=sanitize)), f"--explain={namespace}", f"--failure-rule={path}"]
    return subprocess.run(command, capture_output=True, text=True, env={}, timeout=20, check=False)


def ask_hook(path: Path, namespace: str, *, sanitize: bool = True) -> Answer:
    done = explain(path, namespace, sanitize=sanitize)
    first, second = done.stdout.splitlines()
    prefix = f"podgate-hook: {path}: "
    assert all(line.startswith(prefix) for line in done.stderr.splitlines()), done.stderr
    faults = tuple(line.removeprefix(prefix) for line in done.stderr.splitlines())
    assert done.returncode == bool(faults)
    return Answer(first.split(" ")[0], second.removeprefix("not known: "), faults)


READERS = pytest.mark.parametrize("ask", [ask_python, ask_hook])


@READERS
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    path.write_bytes(case["file"].encode("latin-1"))
    for namespace, treatment in case["treatments"].items():
        assert ask(path, namespace) == Answer(treatment, case["not_known"], tuple(case.get("faults", ()))), namespace


@READERS
def test_without_a_file_everything_is_open_and_that_is_said(ask: Reader, tmp_path: Path) -> None:
    assert ask(tmp_path / "none", "shop") == Answer("open", "open", ("there is no such file",))


@READERS
def test_a_file_that_is_none_closes_the_default_and_keeps_the_exempt(ask: Reader, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        answer = ask(path, "shop")
        assert (answer.treatment, answer.not_known) == ("closed", "closed")
        assert len(answer.faults) == 1
        assert answer.faults[0].startswith("cannot be read: ")
        assert ask(path, "kube-system").treatment == "open"


@READERS
def test_a_path_through_a_file_is_unreadable_not_absent(ask: Reader, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ask(tmp_path / "file/rule", "shop").treatment == "closed"


@READERS
def test_a_file_as_long_as_allowed_is_read_whole(ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    head = b"default open\n#"
    last = b"\nnamespace shop closed"
    path.write_bytes(head + b"x" * (MAX_BYTES - len(head) - len(last)) + last)
    assert ask(path, "shop") == Answer("closed", "closed", ())
    assert ask(path, "other").treatment == "open"


@READERS
def test_of_a_longer_file_the_whole_lines_at_its_beginning_count(ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    head = b"default open\nnamespace shop quarantine\n#"
    cut = b"\nnamespace other open"
    path.write_bytes(head + b"x" * (MAX_BYTES - len(head) - len(cut)) + cut + b"\n")
    faults = ("longer than 65,536 bytes: the rest is not read",)
    assert ask(path, "shop") == Answer("quarantine", "closed", faults)
    assert ask(path, "other") == Answer("closed", "closed", faults)


@READERS
def test_a_long_file_without_a_line_break_says_nothing(ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    path.write_bytes(b"x" * (3 * MAX_BYTES))
    answer = ask(path, "shop")
    assert answer == Answer("closed", "closed", ("longer than 65,536 bytes: the rest is not read",))


@READERS
def test_lines_are_counted(ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    path.write_text("default open\n" + "".join(f"namespace n{i} closed\n" for i in range(1, MAX_LINES)))
    assert ask(path, f"n{MAX_LINES - 1}") == Answer("closed", "closed", ())
    assert ask(path, "other").treatment == "open"
    with path.open("a") as file:
        file.write("exempt a\n\nnonsense\n")
    faults = (f"line {MAX_LINES + 1}: more than 1,024 lines: the rest is not read",)
    assert ask(path, "a") == Answer("closed", "closed", faults)
    assert ask(path, "kube-system").treatment == "open"


@READERS
def test_names_and_patterns_are_as_long_as_allowed(ask: Reader, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    longest = "a" * MAX_NAME
    path.write_text(f"namespace {longest} closed\npattern b{longest[1:-1]}* quarantine\n")
    assert ask(path, longest) == Answer("closed", "closed", ())
    assert ask(path, f"b{longest[1:]}").treatment == "quarantine"
    assert ask(path, longest + "a").treatment == "closed", "it is not known"
    path.write_text(f"namespace {longest}a open\npattern {longest}a open\nexempt {longest}a\n")
    name, pattern = "no namespace's name (DNS-1123, at most 253 characters)", "no pattern (a-z 0-9 - . * ?, at most 253"
    answer = ask(path, "a")
    assert answer.faults == (f"line 1: {name}", f"line 2: {pattern} characters)", f"line 3: {name}")


@pytest.mark.parametrize(
    ("text", "namespace", "first"),
    [
        ("default open\n", "shop", "open (the default)"),
        ("namespace shop closed\n", "shop", "closed (line 1)"),
        ("\npattern s* quarantine\n", "shop", "quarantine (line 2)"),
        ("default closed\nexempt shop\n", "shop", "open (line 2)"),
        ("default closed\n", "kube-system", "open (exempt, built in)"),
        ("what\n", "shop", "closed (the default, because the file has faults)"),
        ("namespace a closed\n", "A", "closed (the namespace is not known: the strictest of the file)"),
    ],
)
def test_the_hook_explains_why(text: str, namespace: str, first: str, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    path.write_text(text)
    assert explain(path, namespace).stdout.splitlines()[0] == first


def test_a_rule_that_is_refused_to_the_reader_closes_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    rule = read_rule(tmp_path / "rule")
    assert rule == FailureRule(Treatment.CLOSED, faults=(Fault(0, "cannot be read: Permission denied"),))


# A file's text: mostly lines that nearly read, of few words, so that names meet.
_WORDS = st.sampled_from(
    [
        *("default", "namespace", "pattern", "exempt", "open", "closed", "quarantine"),
        *("shop", "team-a", "team-*", "t?am-*", "*", "kube-system", "a.b", "-", "Shop", "#", "\r", "é"),
    ]
)
_NAMES = st.sampled_from(["shop", "team-a", "team-b", "kube-system", "a.b", "", "Shop", "x"])
_TREATMENTS = st.sampled_from([treatment.value for treatment in Treatment])
_GOOD = st.one_of(
    st.builds("default {}".format, _TREATMENTS),
    st.builds("namespace {} {}".format, st.sampled_from(["shop", "team-a", "x"]), _TREATMENTS),
    st.builds("pattern {} {}".format, st.text("atem-*?.", min_size=1, max_size=8), _TREATMENTS),
    st.builds("exempt {}".format, st.sampled_from(["shop", "team-b", "a.b"])),
)
_LINES = st.one_of(_GOOD, st.lists(_WORDS, max_size=4).map(" ".join), st.text(max_size=12))
_FILES = st.one_of(
    st.lists(_LINES, max_size=8).map("\n".join).map(str.encode),
    st.lists(_GOOD, max_size=8).map("\n".join).map(str.encode),
    st.binary(max_size=64),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=_FILES, namespace=_NAMES)
def test_both_readers_agree_about_any_file(text: bytes, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "rule"
    path.write_bytes(text)
    assert ask_python(path, namespace) == ask_hook(path, namespace, sanitize=False)


@given(text=_FILES, namespace=_NAMES)
def test_what_is_not_known_never_fares_better(text: bytes, namespace: str) -> None:
    rule = parse_rule(text)
    assert rule.treatment(namespace).strictness <= rule.treatment(None).strictness
    assert rule.default is Treatment.CLOSED or not rule.faults


_NAME_TEXTS = st.from_regex(r"[a-z0-9]{1,4}(-[a-z0-9]{1,3})?(\.[a-z]{1,3})?", fullmatch=True)
_PAIRS = st.tuples(st.one_of(_NAME_TEXTS, st.text("ab*?-.", min_size=1, max_size=6)), st.sampled_from(Treatment))
_RULES = st.builds(
    FailureRule,
    default=st.sampled_from(Treatment),
    namespaces=st.lists(st.tuples(_NAME_TEXTS, st.sampled_from(Treatment)), unique_by=lambda pair: pair[0]).map(tuple),
    patterns=st.lists(_PAIRS, max_size=5).map(tuple),
    exempt=st.lists(_NAME_TEXTS, min_size=1, max_size=5, unique=True).map(tuple),
)


@given(_RULES, st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=9), max_size=3))
def test_what_is_written_reads_as_the_same(rule: FailureRule, comments: list[str]) -> None:
    assert parse_rule(render_rule(rule, comments).encode()) == rule


def test_the_text_that_is_written() -> None:
    rule = FailureRule(Treatment.CLOSED, (("shop", Treatment.OPEN),), (("t-*", Treatment.QUARANTINE),), ("a", "b"))
    assert render_rule(rule, ["made by a test", ""]) == (
        "# made by a test\n#\ndefault closed\nnamespace shop open\npattern t-* quarantine\nexempt a\nexempt b\n"
    )


@pytest.mark.parametrize(
    "rule",
    [
        FailureRule(exempt=()),
        FailureRule(exempt=("a b",)),
        FailureRule(namespaces=(("Shop", Treatment.OPEN),)),
        FailureRule(namespaces=(("a", Treatment.OPEN), ("a", Treatment.CLOSED))),
        FailureRule(patterns=(("[a]", Treatment.OPEN),)),
        FailureRule(patterns=(("a\nexempt b", Treatment.OPEN),)),
        FailureRule(faults=(Fault(1, "x"),)),
        FailureRule(patterns=(("*", Treatment.OPEN),) * (MAX_LINES + 1)),
    ],
)
def test_what_no_file_says_is_not_written(rule: FailureRule) -> None:
    with pytest.raises(RuleError, match="no file says this"):
        render_rule(rule)


def test_a_comment_cannot_become_a_line() -> None:
    with pytest.raises(RuleError):
        render_rule(FailureRule(), ["harmless\ndefault closed"])


@given(st.text(st.sampled_from("ab0-._*?AÄ "), max_size=6))
def test_a_name_is_dns_1123(text: str) -> None:
    labels = text.split(".")
    expected = all(re.fullmatch("[ab0-]+", label) and label[0] != "-" and label[-1] != "-" for label in labels)
    assert is_name(text) == expected
    assert is_pattern(text) == (re.fullmatch("[ab0.*?-]+", text) is not None)


def test_the_built_in_exemption_is_the_systems() -> None:
    assert BUILT_IN_EXEMPT == ("kube-system",)
