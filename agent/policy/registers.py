# SPDX-License-Identifier: Apache-2.0
"""The registers of x86-64 as assemblers name them, and where a process's `struct pt_regs` keeps each.

Source: arch/x86/include/uapi/asm/ptrace.h, the layout for 64-bit processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.policy.access import Input, InputKind


@dataclass(frozen=True, slots=True)
class Register:
    """Bytes in struct pt_regs: `size` at `offset`."""

    offset: int
    size: int

    def input(self, size: int, signed: bool) -> Input:
        """The register as an input, of which the low `size` bytes count."""
        return Input(InputKind.REGISTER, self.offset, size, signed)


# In the order of the structure, eight bytes each.
_FIELDS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss"),
)


def _registers() -> dict[str, Register]:
    found = {name: Register(8 * place, 8) for place, name in enumerate(_FIELDS)}
    found["rflags"] = found["eflags"]
    for name in ("rax", "rbx", "rcx", "rdx"):
        at, letter = found[name].offset, name[1]
        found |= {f"e{letter}x": Register(at, 4), f"{letter}x": Register(at, 2)}
        found |= {f"{letter}l": Register(at, 1), f"{letter}h": Register(at + 1, 1)}
    for name in ("rsi", "rdi", "rbp", "rsp"):
        at, rest = found[name].offset, name[1:]
        found |= {f"e{rest}": Register(at, 4), rest: Register(at, 2), f"{rest}l": Register(at, 1)}
    for number in range(8, 16):
        at = found[f"r{number}"].offset
        found |= {f"r{number}d": Register(at, 4), f"r{number}w": Register(at, 2), f"r{number}b": Register(at, 1)}
    return found | {"eip": Register(found["rip"].offset, 4)}


REGISTERS: dict[str, Register] = _registers()
