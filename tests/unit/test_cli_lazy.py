# SPDX-License-Identifier: Apache-2.0
"""Commands that are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import main

HEAVY = ("agent.policy.resolve", "agent.kernel.elf", "rthook.install.planner", "tabulate")
PROGRAM = f"""
import sys
from click.testing import CliRunner
from agent.cli.main import main
assert CliRunner().invoke(main, sys.argv[1:]).exit_code == 3
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_what_an_agent_is_asked_imports_nothing_of_the_other_commands(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, "--run-dir", str(tmp_path), "policy", "add", "-"]
    done = subprocess.run(words, input="{}", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ("doctor", "events", "hooks", "policy", "status")),
        (["policy"], ("add", "check", "delete", "explain", "list", "schema", "set-mode", "show")),
    ],
)
def test_help_names_them_all(words: list[str], names: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*words, "--help"]).output.partition("Commands:\n")[2]
    assert tuple(line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " ") == names


def test_a_command_that_is_none() -> None:
    done = CliRunner().invoke(main, ["policy", "chek"])
    assert (done.exit_code, "No such command 'chek'" in done.output) == (2, True)
