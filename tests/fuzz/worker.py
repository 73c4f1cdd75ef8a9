# SPDX-License-Identifier: Apache-2.0
"""One target in a process of its own, started by __main__: what it comes to is the last line, JSON, of its output."""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import sys
import warnings
from pathlib import Path

from nri_plugin.logfmt import JsonFormatter
from tests.fuzz.engine import Budget, Engine, Report, limit_address_space
from tests.fuzz.mutate import MAX_INPUT
from tests.fuzz.targets import find_targets

# Where the input at hand lies while it is run: its length in four bytes, then itself.
CURRENT = "current"
SLOWEST = "slowest"
_LENGTH = 4


class CurrentInput:
    """A file of the target's folder that holds the input at hand, whatever becomes of this process."""

    def __init__(self, folder: Path) -> None:
        path = folder / CURRENT
        path.write_bytes(bytes(_LENGTH + MAX_INPUT))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def note(self, data: bytes) -> None:
        self._map[: _LENGTH + len(data)] = len(data).to_bytes(_LENGTH, "big") + data


class FormattingHandler(logging.Handler):
    """Makes each log line and drops it. One that cannot be made is an exception where it was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record).encode()


def read_current(folder: Path) -> bytes:
    """The input that a worker had at hand last; empty when it had none."""
    path = folder / CURRENT
    if not path.exists():
        return b""
    data = path.read_bytes()
    return data[_LENGTH : _LENGTH + int.from_bytes(data[:_LENGTH], "big")]


def render_report(report: Report) -> str:
    """The report in one line. A failing input is in hexadecimal, which has no surrogates and no line ends."""
    failure = report.failure
    document = {
        "target": report.target,
        "executions": report.executions,
        "seconds": report.seconds,
        "outcomes": dict(report.outcomes),
        "slowest": report.slowest,
        "peak": report.peak,
        "growth": report.growth,
        "digest": report.digest,
        "failure": failure and {"kind": failure.kind, "text": failure.text, "data": failure.data.hex()},
    }
    return json.dumps(document)


def main() -> int:
    """Status 0 whatever was found: a worker that ends otherwise has died."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--executions", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG, handlers=[FormattingHandler()])
    warnings.simplefilter("error")
    limit_address_space()
    current = CurrentInput(options.folder)
    engine = Engine(find_targets()[options.target], options.seed, current.note)
    report = engine.run(Budget(options.seconds, options.executions))
    (options.folder / SLOWEST).write_bytes(report.slowest_input)
    print(render_report(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
