# SPDX-License-Identifier: Apache-2.0
"""Which symbol caches are kept and which are believed, with a library that stands for bcc's."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.events.caches import IDLE_S, KERNEL_S, MAX_CACHES, MAX_OFFSET, Caches, ProcessGoneError
from agent.events.stacks import Frame, Trace
from agent.events.symbols_main import NO_SYMBOLS, symbolise


class _Symbol(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("demangle_name", ctypes.c_char_p),
        ("module", ctypes.POINTER(ctypes.c_char)),
        ("offset", ctypes.c_ulonglong),
    )


class _Library:
    """known: address -> (status, name, offset, module)."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.freed: list[tuple[int, int]] = []
        self.known: dict[int, tuple[int, bytes | None, int, bytes | None]] = {}
        self.seen: list[int] = []

    def bcc_symcache_new(self, pid: int, _option: Any) -> int:
        self.opened.append(pid)
        return len(self.opened)

    def bcc_free_symcache(self, handle: int, pid: int) -> None:
        self.freed.append((handle, pid))

    def bcc_symcache_resolve_no_demangle(self, handle: int, address: int, found: Any) -> int:
        self.seen.append(handle)
        status, name, offset, module = self.known.get(address, (-1, None, 0, None))
        symbol = found._obj
        symbol.name, symbol.offset = name, offset
        if module is not None:
            symbol.module = ctypes.cast(ctypes.create_string_buffer(module), ctypes.POINTER(ctypes.c_char))
        return status


class _Stage:
    """Processes are folders with a stat and an exe."""

    def __init__(self, folder: Path, library: _Library) -> None:
        self.now = 1000.0
        self.folder, self.library = folder, library
        self.caches = Caches(lambda: self.now, folder)

    def process(self, pid: int, start: int = 5, state: str = "S", exe: str = "/bin/x", name: str = "a) b (c") -> None:
        folder = self.folder / str(pid)
        folder.mkdir(exist_ok=True)
        fields = [state, *(["0"] * 18), str(start), "0"]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "exe").unlink(missing_ok=True)
        (folder / "exe").symlink_to(exe)

    def user(self, pid: int, *addresses: int, start: int = 5, binary: bytes | None = b"/bin/x") -> Any:
        return self.caches.user(Trace((), addresses or (1,), pid, start * 10_000_000 + 9_999_999, binary))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Stage:
    library = _Library()
    bcc = SimpleNamespace(lib=library, bcc_symbol=_Symbol, bcc_symbol_option=lambda *_: ctypes.c_int())
    monkeypatch.setitem(sys.modules, "bcc", SimpleNamespace(libbcc=bcc))
    return _Stage(tmp_path, library)


def test_frames_are_what_the_library_knows(stage: _Stage) -> None:
    stage.process(7)
    stage.library.known = {
        1: (0, b"main", 3, b"/bin/x"),
        2: (-1, None, 77, b"/lib/y"),
        3: (0, b"far", MAX_OFFSET, b"/bin/x"),
        4: (0, b"\xff", MAX_OFFSET - 1, b"/\xfe"),
    }
    expected = (
        Frame("main", 3, "/bin/x"),
        Frame(None, 77, "/lib/y"),
        None,
        Frame("\udcff", MAX_OFFSET - 1, "/\udcfe"),
        None,
    )
    assert stage.user(7, 1, 2, 3, 4, 5) == expected


def test_a_process_is_opened_once(stage: _Stage) -> None:
    stage.process(7)
    stage.process(8)
    for pid in (7, 7, 8, 7):
        stage.user(pid)
    assert stage.library.opened == [7, 8]
    assert stage.library.seen == [1, 1, 2, 1]


def test_the_least_used_are_given_up(stage: _Stage) -> None:
    for pid in range(1, MAX_CACHES + 1):
        stage.process(pid)
        stage.user(pid)
    stage.user(1)
    stage.process(99)
    stage.user(99)
    assert len(stage.caches) == MAX_CACHES
    assert stage.library.freed == [(2, 2)]


def test_those_that_nobody_asks_for_are_given_up(stage: _Stage) -> None:
    for pid in (7, 8):
        stage.process(pid)
        stage.user(pid)
    stage.now += IDLE_S - 1
    stage.user(7)
    stage.now += 1
    stage.caches.expire()
    assert stage.library.freed == [(2, 8)]
    assert len(stage.caches) == 1


def test_a_pid_that_is_used_again_is_another_process(stage: _Stage) -> None:
    stage.process(7, start=5)
    stage.user(7, start=5)
    stage.process(7, start=6)
    with pytest.raises(ProcessGoneError, match="ended"):
        stage.user(7, start=5)
    stage.user(7, start=6)
    assert stage.library.opened == [7, 7]


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_dead_process_has_no_symbols(stage: _Stage, state: str) -> None:
    stage.process(7, state=state)
    with pytest.raises(ProcessGoneError, match="ended"):
        stage.user(7)
    with pytest.raises(ProcessGoneError, match="ended"):
        stage.user(8)


def test_a_process_that_becomes_another_while_it_is_looked_at_is_not_believed(
    stage: _Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.process(7)

    def replace(*_: Any) -> int:
        stage.process(7, exe="/bin/other")
        return -1

    monkeypatch.setattr(stage.library, "bcc_symcache_resolve_no_demangle", replace)
    with pytest.raises(ProcessGoneError, match="another program"):
        stage.user(7)


@pytest.mark.parametrize(
    ("seen", "exe", "same"),
    [
        (b"/bin/x", "/bin/x", True),
        (b"/bin/x", "/chroot/bin/x", True),
        (b"/bin/x", "/bin/x (deleted)", True),
        (b"in/x", "/bin/x", True),
        (None, "/bin/y", True),
        (b"/bin/x", "/bin/y", False),
        (b"/chroot/bin/x", "/bin/x", False),
    ],
)
def test_the_program_is_told_by_its_path(stage: _Stage, seen: bytes | None, exe: str, same: bool) -> None:
    stage.process(7, exe=exe)
    if same:
        stage.user(7, binary=seen)
        return
    with pytest.raises(ProcessGoneError, match="another program"):
        stage.user(7, binary=seen)


def test_the_kernels_symbols_are_read_anew_from_time_to_time(stage: _Stage) -> None:
    stage.library.known = {1: (0, b"vfs_read", 3, b"kernel"), 2: (-1, None, 3, b"kernel")}
    assert stage.caches.kernel((1, 2)) == (Frame("vfs_read", 3, "kernel"), None)
    assert stage.caches.kernel(()) is None
    stage.now += KERNEL_S - 1
    stage.caches.kernel((1,))
    assert stage.library.opened == [-1]
    stage.now += 1
    stage.caches.kernel((1,))
    assert stage.library.opened == [-1, -1]
    assert stage.library.freed == [(1, -1)]


def test_what_is_missing_is_said_for_each_stack(stage: _Stage) -> None:
    stage.process(7)
    stage.library.known = {2: (0, b"main", 3, b"/bin/x")}
    symbols = symbolise(stage.caches, Trace((1,), (2,), 7, 50_000_000, None))
    assert (symbols.kernel, symbols.user, symbols.reason) == (None, (Frame("main", 3, "/bin/x"),), NO_SYMBOLS)
    symbols = symbolise(stage.caches, Trace((1,), (2,), 8, 50_000_000, None))
    assert symbols.reason == f"{NO_SYMBOLS}; the process has ended"
    symbols = symbolise(stage.caches, Trace((), (), 8, 50_000_000, None))
    assert symbols.reason == ""
