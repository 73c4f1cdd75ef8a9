# SPDX-License-Identifier: Apache-2.0
"""Markers that need a capability, and a check that the session leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import pytest

from agent.kernel.mounts import is_bpffs_mounted, release_bpffs
from tests.support.leftovers import collect_leftovers
from tests.support.probes import PROBES, Action, judge, parse_require, run_probe
from tests.support.wait import DeadlineError, wait_until

# Processes that were told to end, and cgroups that the kernel empties, take a moment.
SETTLE_S = 10.0

find_missing = functools.cache(run_probe)


@functools.cache
def required() -> frozenset[str]:
    """The markers of which a missing capability is a failure; a usage error stops the run."""
    try:
        return parse_require(os.environ.get("REQUIRE", ""))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_configure() -> None:
    """Refuse a wrong REQUIRE before anything runs."""
    required()


def pytest_report_header() -> list[str]:
    """One line for each probe."""
    return [f"probe {name}: {find_missing(name) or 'ok'}" for name in PROBES]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose marker's probe found something missing."""
    for name in PROBES:
        if item.get_closest_marker(name) is None:
            continue
        verdict = judge(name, find_missing(name), required())
        if verdict.action is Action.FAIL:
            pytest.fail(f"{verdict.reason} (REQUIRE has {name})", pytrace=False)
        if verdict.action is Action.SKIP:
            pytest.skip(verdict.reason)


@pytest.fixture(scope="session", autouse=True)
def bpffs_as_it_was() -> Iterator[None]:
    """One agent of several that run at once mounts it, and cannot take it down while others have pins there."""
    mounted = is_bpffs_mounted()
    yield
    if not mounted and is_bpffs_mounted():
        release_bpffs()


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(bpffs_as_it_was: None) -> Iterator[None]:  # noqa: ARG001 - it ends after this
    """Fail the session when it leaves processes, mounts, cgroups, pins or directories of podgate's."""
    before = collect_leftovers()
    yield
    with contextlib.suppress(DeadlineError):
        wait_until(lambda: not collect_leftovers() - before, SETTLE_S, "the session's leftovers to go")
    if left := sorted(collect_leftovers() - before):
        pytest.fail("the test session left behind:\n" + "\n".join(left), pytrace=False)
