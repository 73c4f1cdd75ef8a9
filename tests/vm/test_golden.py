# SPDX-License-Identifier: Apache-2.0
"""The compiler and the kernel's verifier take every program of tests/data/codegen: all that is generated, once.

In a guest they come compiled for its kernel, in the file that GOLDEN names (tests/support/golden_code.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.abilities import KPROBE_TYPE
from agent.kernel.errors import KernelError
from agent.kernel.layout import map_specs
from agent.kernel.loader_main import load_code
from agent.kernel.maps import Maps
from agent.kernel.targets import Targets
from agent.policy.access import TRAMPOLINES
from agent.policy.codegen import programs
from tests.support.golden_code import EVENTS, Compiled, own_arrays, read_compiled, text_of, write_compiled
from tests.support.lockdown import may_write_user
from tests.support.points import prepare_pins
from tests.unit.test_codegen import CASES, placement

# The first of them may wait for the compiler.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

GOLDEN = "PODGATE_GOLDEN"


def is_here(name: str) -> bool:
    """Whether this kernel has what the programs are for."""
    return CASES[name].point.kind not in TRAMPOLINES or KPROBE_TYPE.exists()


TEXTS = {name: text_of(name) for name in sorted(CASES) if is_here(name)}
WRITING = {name for name, text in TEXTS.items() if "pg_set(" in text}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Compiled]:
    given = os.environ.get(GOLDEN)
    file = Path(given) if given else tmp_path_factory.mktemp("golden") / "golden.json"
    if not given:
        write_compiled(file)
    return read_compiled(file)


@pytest.fixture(scope="module")
def maps() -> Iterator[Maps]:
    with prepare_pins() as pins:
        made = Maps.create(map_specs(EVENTS, 64), pins.maps)
        yield made
        made.close()


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    with Targets() as made:
        yield made


class Verifier:
    """Loads the programs of a case as the loader does."""

    def __init__(self, compiled: Mapping[str, Compiled], maps: Maps, targets: Targets) -> None:
        self._compiled = compiled
        self._maps = maps
        self._targets = targets

    def take(self, name: str) -> int:
        """How many it has. Raises KernelError."""
        case = self._compiled[name]
        assert case.error == ""
        with ExitStack() as stack:
            arrays = {array: stack.enter_context(_slot_array()).fileno() for array in own_arrays(name)}
            linked = case.linked(self._maps.descriptors() | arrays)
            for program in programs(CASES[name], placement(CASES[name])):
                form = self._targets.form(CASES[name].point, program.side)
                stack.enter_context(
                    load_code(form.type, linked[program.name], program.name, form.attach_type, form.btf_id, form.btf_fd)
                )
            return len(linked)


def _slot_array() -> bpf.Fd:
    return bpf.create_map(bpf.MapType.PROG_ARRAY, 4, 4, 64, "pg_test")


@pytest.fixture(scope="module")
def verifier(compiled: Mapping[str, Compiled], maps: Maps, targets: Targets) -> Verifier:
    return Verifier(compiled, maps, targets)


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - WRITING))
def test_verifier_takes_what_is_generated(verifier: Verifier, name: str) -> None:
    assert verifier.take(name) > 0


@pytest.mark.parametrize("name", sorted(WRITING))
def test_only_a_kernel_that_is_locked_down_refuses_writing_to_processes(verifier: Verifier, name: str) -> None:
    if may_write_user():
        assert verifier.take(name) > 0
    else:
        with pytest.raises(KernelError, match="cannot use helper bpf_probe_write_user"):
            verifier.take(name)
