# SPDX-License-Identifier: Apache-2.0
"""The plugin's look at held processes: while nothing else is to be done, and told once."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nri_plugin import chores
from nri_plugin.config import PluginConfig
from nri_plugin.ttrpc import Code
from rthook.held import Hold, Outcome, Release, Sweep
from tests.protocol.fakes import GENERATIONS, FakeAgent, FakeRuntime, LogTap, fields_of, make_container, running

PINS = Path("/pins")
HOLD = Hold(tgid=77, cgroup_id=4711, since=0, start=0)


@dataclass
class Sweeps:
    """In place of the kernel: one after the other, the last again and again."""

    results: list[Sweep] = field(default_factory=lambda: [Sweep((), ())])
    calls: list[Path] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, pin_dir: Path) -> Sweep:
        with self.changed:
            self.calls.append(pin_dir)
            self.changed.notify_all()
            return self.results[0] if len(self.results) == 1 else self.results.pop(0)

    def await_more(self, count: int) -> None:
        with self.changed:
            wanted = len(self.calls) + count
            assert self.changed.wait_for(lambda: len(self.calls) >= wanted, 5.0)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    fake = Sweeps()
    monkeypatch.setattr(chores, "release_stale", fake.run)
    return fake


def release(outcome: Outcome) -> Release:
    return Release(PINS, HOLD, 6_000_000_000, outcome)


def test_a_release_is_logged(runtime: FakeRuntime, watchful: PluginConfig, tap: LogTap, sweeps: Sweeps) -> None:
    sweeps.results = [Sweep((release(Outcome.CONTINUED_GUARDED),), ()), Sweep((), ())]
    with running(watchful):
        runtime.accept().bring_up()
        fields = fields_of(tap.await_event("held_released"))
        sweeps.await_more(3)
    assert fields == {
        "pid": 77,
        "cgroup_id": 4711,
        "outcome": "continued_guarded",
        "held_ms": 6000,
        "generation": "/pins",
    }
    assert set(sweeps.calls) == {watchful.pin_dir}
    assert len(tap.named("held_released")) == 1


@pytest.mark.parametrize(
    ("sweep", "reason"),
    [
        (Sweep((release(Outcome.MOVED),), ()), "/pins: process 77 in cgroup 4711: moved"),
        (Sweep((release(Outcome.NOT_STOPPED),), ()), "/pins: process 77 in cgroup 4711: not_stopped"),
        (Sweep((), ("/pins/maps/doors: 7 is not a valid Fallback",)), "/pins/maps/doors: 7 is not a valid Fallback"),
    ],
)
def test_what_cannot_be_released_is_told_once_for_as_long_as_it_lasts(
    runtime: FakeRuntime, watchful: PluginConfig, tap: LogTap, sweeps: Sweeps, sweep: Sweep, reason: str
) -> None:
    sweeps.results = [sweep, sweep, sweep, Sweep((), ()), sweep]
    with running(watchful):
        runtime.accept().bring_up()
        tap.await_event("held_not_released", 2)
        sweeps.await_more(3)
    assert [fields_of(record)["reason"] for record in tap.named("held_not_released")] == [reason] * 2
    assert tap.named("held_released") == []


def test_it_looks_around_without_a_runtime_too(watchful: PluginConfig, sweeps: Sweeps) -> None:
    with running(watchful):
        sweeps.await_more(3)


def test_it_looks_around_between_the_runtimes_calls(
    runtime: FakeRuntime, agent: FakeAgent, watchful: PluginConfig, sweeps: Sweeps
) -> None:
    with running(watchful):
        side = runtime.accept()
        side.bring_up()
        for count in range(1, 4):
            sweeps.await_more(1)
            assert side.call(*GENERATIONS[0].start(make_container(f"c{count}"))).code is Code.OK
            agent.await_requests("Bind", count)
