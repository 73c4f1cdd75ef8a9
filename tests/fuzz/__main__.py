# SPDX-License-Identifier: Apache-2.0
"""Fuzz the parsers: `python -m tests.fuzz [TARGET...] --seconds N`, or run one input again with --replay FILE.

Exit codes: 0 nothing was found, 1 an input ended in an exception, a hang or too much memory, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import runner
from tests.fuzz.engine import MAX_INPUT_CPU_S, Engine
from tests.fuzz.targets import find_targets
from tests.fuzz.worker import SLOWEST, read_current
from tests.support.names import project_dir

DEFAULT_SECONDS = 10.0
# A worker's CPU time takes that much longer on a machine with other work; then it hangs where no signal gets through.
PATIENCE = 20
PATIENCE_S = 60.0
# The OCI hook's targets have names of their own here: it reads the state and the rule as Python does.
NATIVE = {f"c-{name}": name for name in runner.TARGETS}


@dataclass(frozen=True, slots=True)
class Options:
    """How long each target is fuzzed, from which seed, and where its files go."""

    seconds: float
    executions: int
    seed: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one target, as it is printed."""

    text: str
    failed: bool


def run_target(target: str, options: Options) -> Result:
    """Fuzz one target, of Python or of C."""
    if target in NATIVE:
        return run_native(target, options)
    folder = options.folder / target
    folder.mkdir(parents=True, exist_ok=True)
    report = run_worker(target, folder, options)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [describe(report, folder)]
    if report["failure"]:
        lines.append(save_failure(report, folder))
    return Result("\n".join(lines), bool(report["failure"]))


def run_native(target: str, options: Options) -> Result:
    """The fuzzer in C counts whole seconds, and knows no number of inputs."""
    outcome = runner.run_target(NATIVE[target], math.ceil(options.seconds), options.seed)
    found = f"\n{outcome.report.rstrip()}\nthe input is in {outcome.found}" if outcome.found else ""
    return Result(f"c-{outcome.summary}{found}", outcome.found is not None)


def run_worker(target: str, folder: Path, options: Options) -> dict[str, Any]:
    """What came of one target, as in worker.render_report. A worker that dies or hangs failed with its last input."""
    command = [sys.executable, "-m", "tests.fuzz.worker", target, str(folder)]
    command += [f"--seconds={options.seconds}", f"--executions={options.executions}", f"--seed={options.seed}"]
    try:
        done = subprocess.run(
            command,
            cwd=project_dir(),
            capture_output=True,
            text=True,
            timeout=options.seconds * PATIENCE + PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _died(target, folder, "hang", f"no end within {error.timeout:g} s of real time")
    if done.returncode != 0:
        return _died(target, folder, "crash", f"the worker ended with status {done.returncode}\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _died(target: str, folder: Path, kind: str, text: str) -> dict[str, Any]:
    return {"target": target, "failure": {"kind": kind, "text": text, "data": read_current(folder).hex()}}


def describe(report: dict[str, Any], folder: Path) -> str:
    """One line of numbers; a worker that died has told none."""
    if "executions" not in report:
        return f"{report['target']}: no numbers, the worker is gone"
    rate = report["executions"] / max(report["seconds"], 1e-9)
    return (
        f"{report['target']}: {report['executions']} inputs in {report['seconds']:.1f} s ({rate:.0f}/s), "
        f"{len(report['outcomes'])} outcomes, slowest {report['slowest'] * 1000:.1f} ms ({folder / SLOWEST}), "
        f"at most {report['peak'] >> 10} KiB for one, process {report['growth'] >> 10} KiB larger"
    )


def save_failure(report: dict[str, Any], folder: Path) -> str:
    """Write the input down; what went wrong, and the command that runs the input again."""
    failure, target = report["failure"], report["target"]
    data = bytes.fromhex(failure["data"])
    path = folder / f"{failure['kind']}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    replay_it = f"replay: {sys.executable} -m tests.fuzz {target} --replay {path}"
    return f"{target}: {failure['kind']}, {len(data)} bytes of input\n{failure['text'].rstrip()}\n{replay_it}"


def fuzz(targets: Sequence[str], options: Options, jobs: int) -> int:
    """Run the targets, `jobs` at once, and print what came of each; the exit code."""
    status = 0
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda target: run_target(target, options), targets):
            print(result.text, flush=True)
            status |= result.failed
    return int(status)


def replay(target: str, path: Path) -> int:
    """Run one input under the same guards, with its allocations counted; the exit code."""
    report = Engine(find_targets()[target], 0).replay(path.read_bytes())
    if report.failure:
        print(f"{target}: {report.failure.kind}\n{report.failure.text.rstrip()}")
        return 1
    (outcome,) = report.outcomes
    print(f"{target}: {outcome}; {report.peak} bytes at the peak")
    return 0


def make_parser(known: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz podgate's parsers")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="of CPU time for each target")
    parser.add_argument("--executions", type=int, default=0, help="stop after so many inputs (not for c-)")
    parser.add_argument("--seed", type=int, default=1, help="which inputs; the same seed gives the same")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("--folder", type=Path, default=project_dir() / "build/fuzz", help="where inputs are kept")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this one input (not for c-)")
    return parser


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the program for those that make no sense."""
    known = (*find_targets(), *NATIVE)
    parser = make_parser(known)
    options = parser.parse_args(words)
    options.targets = options.targets or list(known)
    if unknown := set(options.targets) - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    if options.replay and (len(options.targets) != 1 or options.targets[0] in NATIVE):
        parser.error("--replay takes exactly one target, which is not one in C")
    if options.executions and not NATIVE.keys().isdisjoint(options.targets):
        parser.error("--executions is not for targets in C")
    if options.seconds <= 0 or options.executions < 0 or options.jobs < 1:
        parser.error("--seconds and --jobs must be above 0, --executions not below")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parse_arguments(words)
    if options.replay:
        return replay(options.targets[0], options.replay)
    print(f"seed {options.seed}; an input of Python's targets may take {MAX_INPUT_CPU_S:g} s of CPU time", flush=True)
    run = Options(options.seconds, options.executions, options.seed, options.folder.resolve())
    return fuzz(options.targets, run, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
