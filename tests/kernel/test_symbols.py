# SPDX-License-Identifier: Apache-2.0
"""The loader's short list of the kernel's symbols: it has what bcc looks for, and only the loader sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel.loader_main import SHORT_SYMBOLS
from agent.kernel.symbols import SYMBOLS

pytestmark = pytest.mark.kernel

PROGRAM = f"""
from pathlib import Path
from agent.kernel.symbols import SYMBOLS, shorten_symbols
print("said", shorten_symbols(Path({str(SHORT_SYMBOLS)!r})))
print(SYMBOLS.read_text(), end="")
"""


def run(*wrapper: str) -> tuple[str, str]:
    """What was said, and the symbols then."""
    words = [*wrapper, sys.executable, "-c", PROGRAM]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    said, _, symbols = out.partition("\n")
    return said.removeprefix("said").strip(), symbols


def test_this_process_sees_the_short_list_and_no_other_does() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    assert run() == ("", SHORT_SYMBOLS.read_text())
    assert Path("/proc/self/mountinfo").read_text() == before


def test_the_list_says_what_the_kernels_own_says() -> None:
    names = [line.split()[1:] for line in SHORT_SYMBOLS.read_text().splitlines() if not line.startswith("#")]
    with SYMBOLS.open() as symbols:
        found = {tuple(line.split()[1:3]) for line in symbols if "bpf_probe_read_kernel" in line}
    assert names == [["T", "bpf_probe_read_kernel"]]
    assert {name for _, name in found} >= {"bpf_probe_read_kernel"}


def test_without_privileges_the_list_stays_and_why_is_said() -> None:
    said, symbols = run("setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin")
    assert said == "the list of symbols stays long: Operation not permitted"
    assert symbols.count("\n") > 1000
