# SPDX-License-Identifier: Apache-2.0
"""Values of structures that a kernel was built without."""

from __future__ import annotations

import pytest

from agent.policy.model import Arg, ArgType, HookKind
from tests.support.btf_blob import BtfBlob
from tests.support.kernel_facts import SmallKernel
from tests.support.resolving import faults, make_hook, resolve

POINTER = 6  # const void * skaddr, of mixed/everything: behind it may be anything


class _Kernel(SmallKernel):
    """With these structures and no others."""

    def __init__(self, *names: str) -> None:
        blob = BtfBlob()
        number = blob.integer("int", 4)
        blob.forward("module")
        for name in names:
            blob.composite(name, 4, [("x", number, 0)])
        super().__init__(blob.build())


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        (ArgType.MODULE, (), "module"),
        (ArgType.LOAD_INFO, (), "module"),
        (ArgType.LOAD_INFO, ("module",), "load_info"),
    ],
)
def test_type_without_its_structure_is_refused_with_the_reason(
    kind: ArgType, there: tuple[str, ...], absent: str
) -> None:
    hook = make_hook(HookKind.TRACEPOINT, "mixed/everything", Arg(POINTER, kind))
    assert resolve(hook, facts=_Kernel("module", "load_info"))
    assert faults(hook, facts=_Kernel(*there)) == (
        f"policy.yaml:10:5: type {kind.value} is read from struct {absent}, which this kernel does not have: "
        "it needs CONFIG_MODULES, leave the argument out"
    )


def test_other_types_and_kernels_without_btf_are_left_alone() -> None:
    other = make_hook(HookKind.TRACEPOINT, "mixed/everything", Arg(POINTER, ArgType.SOCK))
    assert resolve(other, facts=_Kernel())
    module = make_hook(HookKind.TRACEPOINT, "mixed/everything", Arg(POINTER, ArgType.MODULE))
    assert resolve(module, facts=SmallKernel(b""))
