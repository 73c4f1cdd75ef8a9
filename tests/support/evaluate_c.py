# SPDX-License-Identifier: Apache-2.0
"""C expressions as gcc understands them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_HEAD = """
#include <stdint.h>
#include <stdio.h>
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;
typedef int8_t __s8; typedef int16_t __s16; typedef int32_t __s32; typedef int64_t __s64;
struct pg_call { __u64 in[12]; __u64 number[40]; __u64 unreadable; __s64 ret; };
#define pg_is_known(call, index) (!((call)->unreadable >> (index) & 1))
"""


def evaluate(folder: Path, expressions: Sequence[tuple[str, str]]) -> list[int]:
    """(statements, expression) each -> its value; `call` is a struct pg_call of zeros, `x` a variable of 64 bits."""
    functions = "".join(
        f"static long long f{n}(struct pg_call *call) {{ __u64 x = 0; {statements} return (long long)({text}); }}\n"
        for n, (statements, text) in enumerate(expressions)
    )
    calls = "".join(
        f'{{ struct pg_call call = {{0}}; printf("%lld\\n", f{n}(&call)); }}\n' for n in range(len(expressions))
    )
    source, program = folder / "expressions.c", folder / "expressions"
    source.write_text(f"{_HEAD}{functions}int main(void) {{ {calls} return 0; }}\n")
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-fwrapv", "-w", "-o", program, source], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(line) for line in lines]
