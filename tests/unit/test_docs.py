# SPDX-License-Identifier: Apache-2.0
"""What README.md and docs/ say of the program is what the program is."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.api import control_pb2
from agent.cli.main import main as podgate
from agent.events.subscribers import MAX_SUBSCRIBERS
from agent.hooks.errors import Reason
from agent.hooks.server import MAX_CONNECTIONS
from agent.kernel.hookpoints import MAX_HOOK_POINTS
from agent.kernel.layout import COUNTERS, MapSpec, map_specs
from agent.main import main as podgate_agent
from agent.policy import context
from agent.policy.lineage import MAX_PREDICATES
from agent.policy.model import ActionKind, ArgType, Operator
from agent.policy.plan import MAX_CHUNKS, MAX_INPUTS, MAX_RULES, MAX_VALUES
from agent.policy.reader import parse_policies
from agent.policy.resolve_btf import MAX_POINTERS
from agent.policy.user_places import MAX_PLACES
from agent.policy.values import MAX_VALUE_BYTES
from agent.workload.identity import MAX_POLICIES
from nri_plugin.main import main as podgate_nri
from nri_plugin.synchronize import MAX_CONTAINERS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
POLICY = ROOT / "docs/policy.md"
EVENTS = ROOT / "docs/events.md"
OPERATIONS = ROOT / "docs/operations.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
EXAMPLES = ROOT / "examples/README.md"
HOOKS = ROOT / "docs/hooks.md"
ADR = ROOT / "docs/adr"
PAGES = (README, EXAMPLES, *sorted((ROOT / "docs").rglob("*.md")))
COMMANDS: dict[str, click.Command] = {"podgate": podgate, "podgate-agent": podgate_agent, "podgate-nri": podgate_nri}

MAP_ENTRIES = {spec.name: spec.entries for spec in map_specs(4096, 64)}
FLAGS = {"-", "--help", "--version"}  # every other option has a value

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_FIGURES = re.compile(r"<!-- (figures:[a-z]+|/figures) -->")

page_by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass(frozen=True, slots=True)
class Command:
    """What `--help` of a command or group says: its long options, and its subcommands."""

    options: frozenset[str]
    subcommands: frozenset[str]


@functools.cache
def read_help(*path: str) -> Command:
    """`path` is the command and its subcommands; AssertionError when one does not exist."""
    done = CliRunner().invoke(COMMANDS[path[0]], [*path[1:], "--help"])
    assert done.exit_code == 0, f"{' '.join(path)}: {done.output}"
    options, _, subcommands = done.output.partition("\nCommands:\n")
    declared = re.findall(r"(?:^ +(?:-\w, )?|(?<= / ))(--[a-z-]+)", options, re.MULTILINE)
    return Command(frozenset(declared), frozenset(re.findall(r"^  ([a-z-]+) ", subcommands, re.MULTILINE)))


def walk_help(*path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name in read_help(*path).subcommands:
        yield from walk_help(*path, name)


def known_options() -> frozenset[str]:
    paths = itertools.chain.from_iterable(walk_help(name) for name in COMMANDS)
    return frozenset().union(*(read_help(*path).options for path in paths)) | hook_options()


@functools.cache
def hook_options() -> frozenset[str]:
    """Of podgate-hook, which is a C program: those in its help text."""
    return frozenset(_OPTION.findall((ROOT / "rthook/hook/options.c").read_text()))


def fences(page: Path, *languages: str) -> list[str]:
    """The fenced blocks in one of the languages, without their indentation."""
    found = _FENCE.finditer(page.read_text())
    return [textwrap.dedent(fence["text"]) for fence in found if fence["language"] in languages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def invocations(page: Path) -> Iterator[list[str]]:
    """The words of every call of a command of ours, in shell blocks and between backticks."""
    lines = itertools.chain.from_iterable(block.splitlines() for block in fences(page, "sh"))
    for line in (*lines, *_INLINE.findall(prose(page))):
        words = split_shell(line.removeprefix("$ ").removeprefix(".venv/bin/"))
        if words and words[0] in COMMANDS:
            yield words


def split_shell(line: str) -> list[str]:
    """Empty for what is no shell line, such as a message with an apostrophe."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def check_invocation(words: list[str]) -> None:
    """AssertionError when a subcommand or option does not exist where it is written."""
    path: tuple[str, ...] = (words[0],)
    rest = iter(words[1:])
    for word in rest:
        known = read_help(*path)
        if word.startswith("--"):
            assert word in known.options, f"{' '.join(words)}: {word}"
        elif known.subcommands and not word.startswith("-"):
            assert word in known.subcommands, f"{' '.join(words)}: {word}"
            path = (*path, word)
        if word.startswith("-") and word not in FLAGS:
            next(rest, None)


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next heading of any level."""
    text = _FENCE.sub("", page.read_text())
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, headings and rules left out."""
    tables = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]
    rules = {number for number, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def first_names(text: str) -> list[str]:
    """What stands between backticks in the first cells of a table, in order."""
    return [name for row in rows(text) for name in _INLINE.findall(row[0])]


def slug(heading: str) -> str:
    """The anchor that a heading gets: lower case, hyphens for spaces, letters, digits and hyphens alone."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@page_by_name
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in invocations(page):
        check_invocation(words)


@page_by_name
def test_options_named_in_the_text_exist(page: Path) -> None:
    named = {option for code in _INLINE.findall(prose(page)) for option in _OPTION.findall(code)}
    assert named <= known_options()


def test_wrong_commands_and_options_would_be_found() -> None:
    for line in ("podgate policy ad x", "podgate --run status", "podgate-nri --on-agent-up open", "podgate evnts"):
        with pytest.raises(AssertionError):
            check_invocation(line.split())
    check_invocation(["podgate", "--run-dir", "/run/podgate", "policy", "delete", "-n", "web", "x"])


@pytest.mark.parametrize("command", ["podgate-agent", "podgate-nri"])
def test_option_tables_name_every_option(command: str) -> None:
    assert sorted(first_names(section(OPERATIONS, command))) == sorted(read_help(command).options - {"--help"})


def test_every_subcommand_is_shown() -> None:
    shown = {" ".join(words) for page in (OPERATIONS, HOOKS) for words in invocations(page)}
    for path in walk_help("podgate"):
        if not read_help(*path).subcommands:
            wanted = " ".join(path[1:])
            assert any(wanted in line for line in shown), wanted


@page_by_name
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_INLINE.sub("", prose(page))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@page_by_name
def test_make_targets_exist(page: Path) -> None:
    code = [*_INLINE.findall(prose(page)), *fences(page, "sh")]
    named = {name for text in code for name in re.findall(r"^make +([a-z-]+)", text, re.MULTILINE)}
    assert named <= make_targets()


def test_makefile_targets_are_read() -> None:
    assert {"demo", "test", "lint", "bench", "setup"} <= make_targets()


@page_by_name
def test_policies_shown_are_read(page: Path) -> None:
    for block in fences(page, "yaml"):
        assert parse_policies(block.encode(), page.name)


def test_readme_and_language_show_policies() -> None:
    assert fences(README, "yaml")
    assert fences(POLICY, "yaml")


@page_by_name
def test_configuration_shown_is_toml(page: Path) -> None:
    for block in fences(page, "toml"):
        assert tomllib.loads(block)


@pytest.mark.parametrize(
    ("heading", "kind"), [("Argument types", ArgType), ("Operators", Operator), ("Actions", ActionKind)]
)
def test_policy_tables_name_what_the_model_has(
    heading: str, kind: type[ArgType] | type[Operator] | type[ActionKind]
) -> None:
    assert first_names(section(POLICY, heading)) == [member.value for member in kind]


def test_counters_are_those_of_the_kernel_side() -> None:
    assert tuple(first_names(section(OPERATIONS, "Counters"))) == COUNTERS


def test_status_fields_are_those_of_the_answer() -> None:
    fields = control_pb2.GetStatusResponse.DESCRIPTOR.fields_by_name
    assert sorted(first_names(section(OPERATIONS, "Status"))) == sorted(fields)


def test_outcomes_of_hook_requests_are_explained() -> None:
    text = section(OPERATIONS, "Status")
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in text] == []


_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
# Events that are not written where they are logged: by the text of the expression.
_NAMED_ELSEWHERE = {
    "event": {"armed_late", "cgroup_removed"},
    "self.outcome": {"bound", "unbound"},
    "text": {"a running container is not known"},
    "_LINES[stage]": {"start_container", "run_pod_sandbox"},
}


def logged_events(*folders: str) -> Iterator[tuple[str, str]]:
    """(where, event) of every call of a `log`. KeyError for an event that is neither a text nor known above."""
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("log"), level), args) if level in _LEVELS:
                    for event in _events(args[level == "log"]):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", event


def _events(expression: ast.expr) -> set[str]:
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    return _NAMED_ELSEWHERE[ast.unparse(expression)]


def test_every_event_of_the_logs_is_explained() -> None:
    explained = set(first_names(section(OPERATIONS, "Logs")))
    logged = {event: where for where, event in logged_events("agent", "nri_plugin")}
    assert {event: where for event, where in logged.items() if event not in explained} == {}
    assert explained - logged.keys() == set(), "nobody logs these"
    assert len(logged) > 80, "the calls are found"


def test_example_event_has_only_fields_that_are_explained() -> None:
    block, *_ = fences(EVENTS, "json")
    example = json.loads(block)
    explained = {*first_names(section(EVENTS, "An event")), *_INLINE.findall(section(EVENTS, "What was hooked"))}
    named = {name.partition(".")[0] for name in explained}
    assert set(example) <= named
    assert {f"process.{name}" for name in example["process"]} <= explained


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("policies in force", MAX_POLICIES),
        ("hook points of all kinds", MAX_HOOK_POINTS),
        ("programs after each other", MAX_CHUNKS),
        ("programs of one kind", MAP_ENTRIES["slots"]),
        ("selectors of all policies", MAP_ENTRIES["stats"]),
        ("`SubString` filters", MAP_ENTRIES["automata"]),
        ("filters whose `Prefix`", MAP_ENTRIES["lengths"]),
        ("equal events", MAP_ENTRIES["rates"]),
        ("conditions with `followChildren`", MAX_PREDICATES),
        ("threads between a NotifyEnforcer", MAP_ENTRIES["enforcer"]),
        ("calls whose return", MAP_ENTRIES["awaited"]),
        ("one value in a policy", MAX_VALUE_BYTES),
        ("containers that the plugin keeps", MAX_CONTAINERS),
        ("connections to", MAX_CONNECTIONS),
        ("readers of events", MAX_SUBSCRIBERS),
        ("containers between hook", MAP_ENTRIES["arming"]),
        ("calls that wait", MAP_ENTRIES["deferred"]),
        ("bound cgroups", next(o.default for o in podgate_agent.params if o.name == "max_bindings")),
    ],
)
def test_limits_are_those_of_the_code(row: str, value: int) -> None:
    (limit,) = [cells[1] for cells in rows(section(OPERATIONS, "Limits")) if cells[0].startswith(row)]
    assert re.match(rf"{value:,}\b", limit)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("programs of one hook point", MAX_CHUNKS),
        ("rules of one program", MAX_RULES),
        ("values of one hook", MAX_VALUES),
        ("arguments and registers", MAX_INPUTS),
        ("filters, values, calls", context.MAX_VALUES),
        ("different conditions", MAX_PREDICATES),
        ("processes with a record", MAP_ENTRIES["lineage"]),
        ("pointers of one `resolve`", MAX_POINTERS),
        ("places of one uprobe", MAX_PLACES),
        ("one value", MAX_VALUE_BYTES),
    ],
)
def test_limits_of_the_language_are_those_of_the_code(row: str, value: int) -> None:
    (limit,) = [cells[1] for cells in rows(section(POLICY, "Limits")) if cells[0].startswith(row)]
    assert re.match(rf"{value:,}\b", limit)


@pytest.mark.parametrize("spec", map_specs(4096, 64), ids=lambda spec: spec.name)
def test_architecture_names_every_map(spec: MapSpec) -> None:
    assert spec.name in first_names(section(ARCHITECTURE, "Maps"))


def test_decisions_are_all_in_the_index() -> None:
    pages = sorted(page.name for page in ADR.glob("[0-9]*.md"))
    assert _LINK.findall((ADR / "README.md").read_text()) == pages
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))


@pytest.mark.parametrize("page", sorted(ADR.glob("[0-9]*.md")), ids=lambda page: page.stem)
def test_decisions_have_title_and_sections(page: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    assert headings[1:] == ["Context", "Decision", "Reason", "Price"]
    number, _, title = headings[0].partition(": ")
    assert number == page.name[:4]
    assert f"({page.name}) | {title} | accepted |" in (ADR / "README.md").read_text()


def test_folders_of_the_tree_exist() -> None:
    named = first_names(section(README, "The tree"))
    assert named
    assert [name for name in named if not (ROOT / name).is_dir()] == []


@page_by_name
def test_figures_stand_in_blocks_that_end(page: Path) -> None:
    marks = _FIGURES.findall(page.read_text())
    assert [mark for mark in marks[1::2] if mark != "/figures"] == []
    assert len(marks) % 2 == 0
    assert "/figures" not in marks[::2]
