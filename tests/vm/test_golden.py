# SPDX-License-Identifier: Apache-2.0
"""The compiler and the kernel's verifier take every program of tests/data/codegen: all that is generated, once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from agent.kernel.attach import PROGRAM_TYPES
from agent.kernel.errors import LoaderError
from agent.kernel.headers import ensure_tree
from agent.kernel.layout import map_specs
from agent.kernel.loader import Loader, LoaderLimits, ProgramSource
from agent.kernel.maps import Maps
from agent.policy.codegen import compile_module, programs
from tests.support.lockdown import may_write_user
from tests.support.points import prepare_pins
from tests.unit.test_codegen import CASES, placement

# The first of them may wait for the others: they are loaded side by side, as a loader is a process.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

EVENTS = 1 << 16  # bytes
LIMITS = LoaderLimits(deadline_s=240.0)


def source_of(name: str) -> ProgramSource:
    plan, place = CASES[name], placement(CASES[name])
    types = {each.name: PROGRAM_TYPES[plan.point.kind] for each in programs(plan, place)}
    return ProgramSource(compile_module([(plan, place)]), types)


WRITING = {name for name in CASES if "pg_set(" in source_of(name).text}


def load(loader: Loader, name: str) -> set[str]:
    """The names of the programs that the kernel took."""
    loaded = loader.load(source_of(name))
    for program in loaded.values():
        program.close()
    return set(loaded)


@pytest.fixture(scope="module")
def loads() -> Iterator[Mapping[str, Future[set[str]]]]:
    """One for each file, under way."""
    with ExitStack() as stack:
        pins = stack.enter_context(prepare_pins())
        maps = Maps.create(map_specs(EVENTS, 64), pins.maps)
        stack.callback(maps.close)
        headers = ensure_tree()
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        stack.callback(pool.shutdown, cancel_futures=True)
        yield {name: pool.submit(load, Loader(headers, maps.descriptors(), LIMITS), name) for name in CASES}


@pytest.mark.parametrize("name", sorted(CASES.keys() - WRITING))
def test_verifier_takes_what_is_generated(loads: Mapping[str, Future[set[str]]], name: str) -> None:
    assert loads[name].result() == source_of(name).programs.keys() != set()


@pytest.mark.parametrize("name", sorted(WRITING))
def test_only_a_kernel_that_is_locked_down_refuses_writing_to_processes(
    loads: Mapping[str, Future[set[str]]], name: str
) -> None:
    if may_write_user():
        assert loads[name].result() == source_of(name).programs.keys()
    else:
        with pytest.raises(LoaderError, match="cannot use helper bpf_probe_write_user"):
            loads[name].result()
