# SPDX-License-Identifier: Apache-2.0
"""The loop of one target: inputs made, run and judged until the time is used up or one fails."""

from __future__ import annotations

import gc
import hashlib
import random
import resource
import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from tests.fuzz.mutate import MAX_INPUT, Mutator, Splice

# The parsers are linear, and an input has MAX_INPUT bytes: this is some hundred times what one takes.
MAX_INPUT_CPU_S = 2.0
# Python objects for bytes: an empty list or dict in JSON is two bytes of input and 64 of memory.
MEMORY_FACTOR = 256
MEMORY_BASE = 2 << 20
# Of the whole process, from after the seeds to the end.
MAX_GROWTH = 64 << 20
# What a process may map beyond what it has: an allocation of a size that a peer announced fails here.
ADDRESS_SPACE = 512 << 20
# Tracing every allocation costs three times the run itself, so one input of so many is traced.
TRACED = 64
# Seeds that were found to lead to a new outcome; a message that varies with its input is no guidance any more.
MAX_FOUND = 512


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed. `run` gives a word for what came of an input; whatever it raises is a failure.

    `memory` says how much one input of a size may take at its peak, bytes.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], str]
    splice: Splice
    tokens: tuple[bytes, ...] = ()
    memory: Callable[[int], int] = lambda size: MEMORY_BASE + MEMORY_FACTOR * size


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after so much CPU time of this process, or so many inputs if that is not 0."""

    seconds: float
    executions: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that must not be as it is: `kind` is crash, hang or memory."""

    kind: str
    text: str
    data: bytes


@dataclass(slots=True)
class Report:
    """What a run of one target came to. Times in seconds of CPU, memory in bytes."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_input: bytes = b""
    peak: int = 0
    growth: int = 0
    digest: str = ""
    failure: Failure | None = None


class HangError(Exception):
    """An input takes longer than MAX_INPUT_CPU_S; raised within the target."""


class Watchdog:
    """Raises HangError in what runs too long between `begin` and `end`. A signal's handler: main thread only."""

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self) -> float:
        """An input begins; the process's CPU time."""
        self._began = now = time.process_time()
        return now

    def end(self) -> None:
        """It has ended."""
        self._began = None

    def _check(self, _number: int, _frame: FrameType | None) -> None:
        if self._began is not None and time.process_time() - self._began > MAX_INPUT_CPU_S:
            raise HangError(f"more than {MAX_INPUT_CPU_S:g} s of CPU time")

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = signal.signal(signal.SIGPROF, self._check)
        signal.setitimer(signal.ITIMER_PROF, MAX_INPUT_CPU_S / 4, MAX_INPUT_CPU_S / 4)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


class Engine:
    """One run of a target. `note` is told of each input before it is run."""

    def __init__(self, target: Target, seed: int, note: Callable[[bytes], object] = len) -> None:
        self._target = target
        self._note = note
        self._rng = random.Random(f"{seed}/{target.name}")
        self._mutator = Mutator(self._rng, target.tokens, target.splice)
        self._watchdog = Watchdog()
        self._digest = hashlib.sha256()
        self.report = Report(target.name)

    def run(self, budget: Budget) -> Report:
        """All seeds, then changed ones until the budget is used up or an input fails."""
        seeds = [data[:MAX_INPUT] for data in self._target.seeds()]
        report, began, first = self.report, time.process_time(), len(seeds)
        with self._watchdog.watching():
            self._run_seeds(seeds)
            before = peak_rss()
            while report.failure is None and not self._is_over(budget, began):
                data = self._mutator.mutate(seeds)
                if self.execute(data) and len(seeds) < first + MAX_FOUND:
                    seeds.append(data)
                report.growth = peak_rss() - before
                if report.growth > MAX_GROWTH and report.failure is None:
                    report.failure = Failure("memory", f"the process grew by {report.growth} bytes", data)
        report.seconds = time.process_time() - began
        report.digest = self._digest.hexdigest()
        return report

    def replay(self, data: bytes) -> Report:
        """One input, with its allocations counted."""
        with self._watchdog.watching():
            self.execute(data)
        return self.report

    def _run_seeds(self, seeds: list[bytes]) -> None:
        for data in seeds:
            if self.report.failure is None:
                self.execute(data)

    def _is_over(self, budget: Budget, began: float) -> bool:
        if budget.executions:
            return self.report.executions >= budget.executions
        return time.process_time() - began >= budget.seconds

    def execute(self, data: bytes) -> bool:
        """Run one input; whether its outcome is new. A failure is put into the report."""
        report = self.report
        self._note(data)
        self._digest.update(data)
        report.executions += 1
        traced = report.executions % TRACED == 1
        if traced:
            gc.collect()  # not on the input's time
        began = self._watchdog.begin()
        try:
            outcome = self._trace(data) if traced else self._target.run(data)
        except HangError as error:
            return self._fail("hang", error, data)
        except MemoryError as error:
            return self._fail("memory", error, data)
        except Exception as error:  # noqa: BLE001 - any exception that the target lets through is what is looked for
            return self._fail("crash", error, data)
        finally:
            self._watchdog.end()
        self._time(time.process_time() - began, data)
        report.outcomes[outcome] += 1
        return report.outcomes[outcome] == 1

    def _fail(self, kind: str, error: Exception, data: bytes) -> bool:
        text = "".join(traceback.format_exception(error))
        self.report.failure = Failure(kind, text, data)
        return False

    def _time(self, seconds: float, data: bytes) -> None:
        if seconds > self.report.slowest and self.report.executions % TRACED != 1:
            self.report.slowest, self.report.slowest_input = seconds, data

    def _trace(self, data: bytes) -> str:
        """Run one input with its allocations counted. MemoryError when they are more than the target allows."""
        tracemalloc.start()
        try:
            outcome = self._target.run(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.report.peak = max(self.report.peak, peak)
        if peak > self._target.memory(len(data)):
            raise MemoryError(f"{peak} bytes at the peak, for {len(data)} bytes of input")
        return outcome


def peak_rss() -> int:
    """The most memory that this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def limit_address_space() -> None:
    """Make an absurd allocation fail with MemoryError: nothing that is not touched shows in the resident size."""
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = mapped + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
