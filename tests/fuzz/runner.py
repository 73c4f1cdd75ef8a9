# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzzer on one target at a time."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.hook import build_fuzzer
from tests.support.names import project_dir

TARGETS = ("state", "answer", "rule")
CORPUS = Path(__file__).parent / "corpus"
FOUND = project_dir() / "build/hook/found"


@dataclass(frozen=True, slots=True)
class Outcome:
    """summary: the fuzzer's last line. found: the input at which it stopped, with what it said; None for none."""

    summary: str
    found: Path | None = None
    report: str = ""


def corpus_of(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


def run_target(target: str, seconds: int, seed: int) -> Outcome:
    """With 0 seconds the corpus alone is run."""
    FOUND.mkdir(parents=True, exist_ok=True)
    found = FOUND / target
    found.unlink(missing_ok=True)
    command = [str(build_fuzzer()), target, str(seconds), str(seed), str(found), *map(str, corpus_of(target))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return Outcome(done.stdout.strip())
    report = f"ended with status {done.returncode}\n{done.stderr}"
    return Outcome(f"{target}: stopped", found, report)
