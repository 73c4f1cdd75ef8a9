# SPDX-License-Identifier: Apache-2.0
"""Calls that the kernel passes a kprobe by are counted, and there are none where the kernel cannot be preempted.

Who changes a map by bpf(2) keeps kprobes' and tracepoints' programs off its processor meanwhile
(bpf_disable_instrumentation of include/linux/bpf.h). Preempted there, it keeps them off other processes, too.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event

import pytest

from agent.kernel import bpf
from agent.kernel.abilities import read_preemptible
from tests.support.function_hooks import policies, select
from tests.support.language import Document, act, arg, condition, counts, document
from tests.support.workload import Node

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

DESCRIPTOR = 777
CALLS = 50_000
PROCESSOR = 0
WRITERS, KEYS = 3, 500
FORK = get_context("fork")


def seeks() -> Document:
    hook = {
        "call": "lseek",
        "args": [arg(0, "int")],
        "selectors": [select(condition(0, "Equal", DESCRIPTOR), then=[act("NoPost")])],
    }
    return document("seeks", kprobes=[hook])


def write(ready: Event) -> None:
    os.sched_setaffinity(0, {PROCESSOR})
    with bpf.create_map(bpf.MapType.HASH, 8, 8, KEYS, "t_passed_by") as written:
        ready.set()
        while True:
            for key in range(KEYS):
                bpf.update(written.fileno(), struct.pack("<Q", key), bytes(8))


def seek() -> None:
    os.sched_setaffinity(0, {PROCESSOR})
    os.dup2(os.open("/etc/hostname", os.O_RDONLY), DESCRIPTOR)
    for _ in range(CALLS):
        os.lseek(DESCRIPTOR, 0, os.SEEK_SET)


@contextmanager
def maps_that_change() -> Iterator[None]:
    ready = [FORK.Event() for _ in range(WRITERS)]
    writers = [FORK.Process(target=write, args=(each,), daemon=True) for each in ready]
    for writer in writers:
        writer.start()
    try:
        assert all(each.wait(60.0) for each in ready)
        yield
    finally:
        for writer in writers:
            writer.kill()
            writer.join()


def test_calls_that_pass_a_hook_by_are_counted(node: Node) -> None:
    with policies(node, json.dumps(seeks())):
        before = node.agent.control.status().missed_calls
        with maps_that_change():
            caller = FORK.Process(target=seek)
            caller.start()
            caller.join()
        assert caller.exitcode == 0
        seen = counts(node, "seeks")["nopost"]
        passed_by = node.agent.control.status().missed_calls - before
    if read_preemptible():
        assert seen < CALLS <= seen + passed_by
    else:
        assert seen == CALLS
