# SPDX-License-Identifier: Apache-2.0
"""The small kernel with functions that can be hooked, as much as a test says."""

from __future__ import annotations

from dataclasses import dataclass

from agent.kernel.btf_types import BtfTypes
from agent.policy.facts import Abilities, FactsError, KernelFunction, NoFunctionError, Types
from tests.support.kernel_facts import SmallKernel

ALL = Abilities()
NO_OVERRIDE = "no helper bpf_override_return; the kernel needs CONFIG_BPF_KPROBE_OVERRIDE=y"
NOT_LISTED = "the kernel does not let it be overridden; see error_injection/list"


@dataclass(frozen=True, slots=True)
class Given:
    """abilities: of the kernel. injectable: functions that bpf_override_return works on; None: on none, for there is no
    such helper. untraceable: functions without a place for ftrace. unknown: of which BTF says nothing. several: names
    that two functions have.
    """

    abilities: Abilities = ALL
    injectable: frozenset[str] | None = None
    untraceable: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset({"secret_function"})
    several: frozenset[str] = frozenset({"twice"})


class FunctionKernel(SmallKernel):
    """Every function of the small kernel's BTF, one of a module, and some that BTF does not have."""

    def __init__(self, given: Given = Given(), btf: bytes | None = None) -> None:
        super().__init__(btf)
        self._given = given

    def function(self, name: str) -> KernelFunction:
        if name in self._given.several:
            raise FactsError(f"there are 2 functions {name}", "hook a function that calls it")
        module = "overlay" if name == "ovl_open" else ""
        prototype = None if name in self._given.unknown else self._functions().function(name)
        if prototype is None and name not in (*self._given.unknown, "ovl_open"):
            raise NoFunctionError(f"this kernel has no function {name}", "did you mean tcp_connect?")
        return KernelFunction(name, module, prototype, name not in self._given.untraceable)

    def functions_like(self, pattern: str) -> tuple[str, ...]:
        known = ("security_file_open", "security_file_permission", "tcp_connect", "tcp_sendmsg")
        return tuple(name for name in known if name.startswith(pattern.removeprefix("^")))

    def lsm_hook(self, name: str) -> KernelFunction:
        prototype = self._functions().function(f"bpf_lsm_{name}")
        if prototype is None:
            raise NoFunctionError(f"this kernel has no LSM hook {name}", "did you mean file_open?")
        return KernelFunction(f"bpf_lsm_{name}", "", prototype)

    def abilities(self) -> Abilities:
        return self._given.abilities

    def override_refusal(self, function: str) -> str:
        if self._given.injectable is None:
            return NO_OVERRIDE
        return "" if function in self._given.injectable else NOT_LISTED

    def _functions(self) -> BtfTypes:
        types: Types = self.types()
        assert isinstance(types, BtfTypes)
        return types
