# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.vm`: run tests under other kernels, one guest for each; what `make test-vm` calls.

Exit codes: 0 all passed, 1 a test failed or a kernel could not be tried, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.fetch_runtimes import DEFAULT_CACHE, FetchError, run
from tools.vm.errors import VmError
from tools.vm.kernels import SUITES, Kernel
from tools.vm.lock import GUESTS, hold
from tools.vm.machine import Job, run_guest
from tools.vm.override import NAME as OVERRIDE
from tools.vm.prepare import get_emulator, get_kernel
from tools.vm.results import Report, join_junit, read_report, render
from tools.vm.suite import (
    LIST,
    NAMED,
    PROJECT,
    Lanes,
    golden_command,
    guest_command,
    junit_of,
    parse_list,
    wants_golden,
)

# With room for a busy machine: the suite takes about 10 minutes on a quiet one.
DEADLINE_S = 2400.0
JUNIT = "junit.xml"
REQUIRE = ("kernel", "guest")


def results_of(out: Path, lanes: Lanes) -> list[Path]:
    """Where the lanes of a kernel leave theirs."""
    return [out / junit_of(lane) for lane in lanes]


def try_kernel(kernel: Kernel, lanes: Lanes, options: argparse.Namespace) -> Report:
    """Everything under one kernel."""
    out = (options.out / kernel.name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for file in results_of(out, lanes):
        file.unlink(missing_ok=True)
    print(f"vm: {kernel.name}: Linux {kernel.release}, {' and '.join(lanes)}", flush=True)
    command = guest_command(lanes, options.deadline, REQUIRE)
    job = Job(command, PROJECT, out, options.deadline, echo=lambda line: print(f"{kernel.name}: {line}", flush=True))
    begin, trouble = time.monotonic(), ""
    try:
        if wants_golden(lanes):
            run(golden_command(kernel.image, kernel.release, out), cwd=PROJECT)
        status = run_guest(get_emulator(options.cache), kernel, job)
        trouble = "" if status in (0, 1) else f"pytest ended with status {status}: see {out}/console.log"
    except (FetchError, VmError, OSError) as error:
        trouble = str(error)
    return read_report(kernel.name, kernel.release, time.monotonic() - begin, results_of(out, lanes), trouble)


def run_all(lanes: Lanes, options: argparse.Namespace) -> list[Report]:
    """One kernel after the other; one that cannot be had is told like one that fails."""
    reports = []
    for name in options.kernel or SUITES:
        try:
            kernel = get_kernel(options.cache, name)
        except (FetchError, VmError, OSError) as error:
            reports.append(Report(name, "-", 0.0, trouble=str(error)))
            continue
        with hold(options.cache, GUESTS):
            reports.append(try_kernel(kernel, lanes, options))
    return reports


def fetch_all(options: argparse.Namespace) -> int:
    """What guests take, without running any."""
    try:
        emulator = get_emulator(options.cache)
    except (FetchError, VmError, OSError) as error:
        print(f"vm: qemu: {error}", file=sys.stderr)
        return 1
    print(f"vm: qemu is in {emulator.root}", flush=True)
    for name in options.kernel or SUITES:
        try:
            kernel = get_kernel(options.cache, name)
        except (FetchError, VmError, OSError) as error:
            print(f"vm: {name}: {error}", file=sys.stderr)
            return 1
        print(f"vm: {name}: Linux {kernel.release} is in {kernel.image.parent}", flush=True)
    return 0


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.vm", description="run tests under other kernels, in qemu")
    names = (*SUITES, OVERRIDE)
    parser.add_argument("--kernel", action="append", choices=names, help="may be repeated (default: all but the last)")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="S", help="of one kernel (%(default)g)")
    parser.add_argument("--fetch", action="store_true", help="only have the kernels in the cache")
    parser.add_argument("--out", type=Path, default=PROJECT / "build/vm", help="default: build/vm")
    cache = Path(os.environ.get("PODGATE_CACHE", DEFAULT_CACHE))
    parser.add_argument("--cache", type=Path, default=cache, help="default: $PODGATE_CACHE or /var/cache/podgate")
    parser.add_argument("tests", nargs="*", help=f"for pytest, instead of {LIST.relative_to(PROJECT)}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    # So that what is under way is put away: a guest, and what is in /tmp.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    lanes = {NAMED: options.tests} if options.tests else parse_list(LIST.read_text())
    if options.fetch:
        return fetch_all(options)
    reports = run_all(lanes, options)
    options.out.mkdir(parents=True, exist_ok=True)
    brought = [(each.kernel, file) for each in reports for file in results_of(options.out / each.kernel, lanes)]
    join_junit(brought, options.out / JUNIT)
    print(f"\n{render(reports)}\nvm: results are in {options.out}", flush=True)
    return 0 if all(report.good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
