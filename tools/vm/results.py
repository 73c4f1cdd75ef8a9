# SPDX-License-Identifier: Apache-2.0
"""What guests brought back: JUnit files, joined into one and told as one table."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

COLUMNS = ("kernel", "release", "passed", "failed", "skipped", "seconds", "result")
_BAD = ("failure", "error")


@dataclass(frozen=True, slots=True)
class Report:
    """Of one kernel. trouble: why there are no results or not all of them; failed: the names of tests."""

    kernel: str
    release: str
    seconds: float
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    trouble: str = ""

    @property
    def good(self) -> bool:
        """Something ran, and all of it passed."""
        return not self.failed and not self.trouble and self.passed > 0

    def row(self) -> tuple[object, ...]:
        counts = (self.passed, len(self.failed), self.skipped, round(self.seconds))
        return (self.kernel, self.release, *counts, "ok" if self.good else "FAILED")


def read_report(kernel: str, release: str, seconds: float, files: Iterable[Path], trouble: str = "") -> Report:
    """The report of a guest; a file that cannot be read is trouble at least."""
    cases: list[ElementTree.Element] = []
    for file in files:
        try:
            cases += ElementTree.parse(file).iter("testcase")
        except (OSError, ElementTree.ParseError) as error:
            trouble = trouble or f"no results: {error}"
    failed = tuple(_name(case) for case in cases if _has(case, *_BAD))
    skipped = sum(_has(case, "skipped") and not _has(case, *_BAD) for case in cases)
    passed = len({_name(case) for case in cases}) - len(set(failed)) - skipped
    return Report(kernel, release, seconds, passed, tuple(dict.fromkeys(failed)), skipped, trouble)


def _has(case: ElementTree.Element, *tags: str) -> bool:
    return any(case.find(tag) is not None for tag in tags)


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}::{case.get('name', '')}"


def join_junit(files: Iterable[tuple[str, Path]], target: Path) -> None:
    """One file with a test suite for each kernel; a kernel without a readable file is left out."""
    root = ElementTree.Element("testsuites")
    for kernel, file in files:
        try:
            suites = list(ElementTree.parse(file).iter("testsuite"))
        except (OSError, ElementTree.ParseError):
            continue  # its report tells of it
        for suite in suites:
            suite.set("name", f"linux {kernel}")
            root.append(suite)
    ElementTree.ElementTree(root).write(target, encoding="unicode", xml_declaration=True)


def render(reports: Sequence[Report]) -> str:
    """The table, and below it what failed and why."""
    lines = [tabulate([report.row() for report in reports], COLUMNS)]
    for report in reports:
        lines += [f"{report.kernel}: {name}" for name in report.failed]
        lines += [f"{report.kernel}: {report.trouble}"] if report.trouble else []
    return "\n".join(lines)
