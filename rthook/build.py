# SPDX-License-Identifier: Apache-2.0
"""How the OCI hook's program is compiled: `python -m rthook.build OUT [--sanitize]`.

A static program: it runs in whatever mount namespace and environment a runtime gives it, and under a container's
memory limit. With `--sanitize` it is built for tests instead: AddressSanitizer and UndefinedBehaviorSanitizer end it
with status 1 at the first mistake; such a program is neither static nor small.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rthook.errors import HookError

SOURCE = Path(__file__).resolve().parent
COMPILER = "gcc"
# A compiler that takes longer hangs.
COMPILE_S = 120

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Wcast-qual",
    "-Wwrite-strings",
    "-Wformat=2",
    "-Wvla",
    "-Wundef",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wnull-dereference",
    "-Wimplicit-fallthrough",
)
COMMON = ("-std=gnu17", f"-I{SOURCE}", f"-ffile-prefix-map={SOURCE}=.", *WARNINGS)
RELEASE = (
    "-Os",
    "-static-pie",
    "-fPIE",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections,-z,relro,-z,now,-z,noexecstack",
    "-s",
)
SANITIZERS = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)


class BuildError(HookError):
    """The compiler is missing, hangs or refuses; `output` is what it said."""

    def __init__(self, what: str, output: str = "") -> None:
        super().__init__(what, output)
        self.what = what
        self.output = output

    def __str__(self) -> str:
        return f"{self.what}:\n{self.output}" if self.output else self.what


def part_sources() -> list[Path]:
    """Every C file but hook.c, which has main: what tests compile into programs of their own."""
    return sorted((SOURCE / "hook").glob("*.c"))


def compile_c(target: Path, sources: Sequence[Path], flags: Sequence[str]) -> None:
    """Compiles and links `sources`; `target` appears whole, mode 0755, or not at all. BuildError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        made = Path(folder) / target.name
        _run([COMPILER, *COMMON, *flags, "-o", str(made), *map(str, sources)])
        made.chmod(0o755)
        os.replace(made, target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_S)
    except FileNotFoundError as error:
        raise BuildError(f"{COMPILER} is not installed: packages gcc and libc6-dev are needed") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{COMPILER} did not end within {COMPILE_S} s") from error
    if done.returncode != 0:
        raise BuildError(f"{COMPILER} ended with status {done.returncode}", done.stderr.strip())


def build_hook(target: Path, *, sanitize: bool = False) -> None:
    """Compiles podgate-hook to `target`, which appears whole or not at all. BuildError; OSError for the directory."""
    name = f'-DPODGATE_VERSION="{version("podgate")}"'
    compile_c(target, [SOURCE / "hook.c", *part_sources()], [name, *(SANITIZERS if sanitize else RELEASE)])


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done; 1 it could not be built; 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m rthook.build", description="compile the OCI hook's program")
    parser.add_argument("out", type=Path, metavar="OUT", help="the program to write")
    parser.add_argument("--sanitize", action="store_true", help="for tests: with AddressSanitizer and UBSan")
    options = parser.parse_args(arguments)
    try:
        build_hook(options.out, sanitize=options.sanitize)
    except (BuildError, OSError) as error:
        print(f"rthook.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
