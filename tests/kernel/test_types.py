# SPDX-License-Identifier: Apache-2.0
"""Readers of paths and buffers, against what /proc and this process know of the same objects."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.events.blobs import decode_blob
from agent.events.layout import CUT_HEAD, CUT_TAIL, DELETED, OUTSIDE, UNREADABLE
from agent.kernel.layout import COUNTERS
from agent.kernel.maps import possible_cpus
from tests.support import system
from tests.support.readers import Readers, Result, load_readers

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

DEPTH = 256  # PG_PATH_DEPTH of bpf/lib/walk.h
PIECES = 256 + 4096 // 255 + 1  # PG_PIECES of bpf/lib/buffers.h
TEXT_MAX = 4096


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with load_readers() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """base/fs is a tmpfs."""
    base = tmp_path_factory.mktemp("types")
    (base / "fs").mkdir()
    system.mount("tmpfs", base / "fs", "tmpfs")
    yield base
    system.unmount_below(base)


@pytest.fixture
def opened() -> Iterator[list[int]]:
    """Descriptors to be closed."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def as_link(result: Result) -> str:
    """A path as the link in /proc/PID/fd has it."""
    return result.text + (" (deleted)" if result.flags & DELETED else "")


def check_fd(readers: Readers, fd: int) -> None:
    result = readers.run("fd", fd)
    assert result.error == 0
    assert as_link(result) == os.readlink(f"/proc/self/fd/{fd}")
    seen = os.fstat(fd).st_mode  # of anonymous inodes without the type
    assert result.mode == seen if stat.S_IFMT(seen) else result.mode & 0o7777 == seen
    assert not result.flags & (OUTSIDE | CUT_HEAD | UNREADABLE)


def test_files_that_are_in_no_directory_have_the_kernels_names(readers: Readers, opened: list[int]) -> None:
    opened += [*os.pipe(), socket.socket().detach(), socket.socket(socket.AF_UNIX).detach(), os.eventfd(0)]
    opened += [os.memfd_create("a memory file"), os.pidfd_open(os.getpid())]
    opened += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("mnt", "net", "pid_for_children", "user")]
    for fd in opened:
        check_fd(readers, fd)
    check_fd(readers, readers.fileno("t_fd"))
    check_fd(readers, readers.map_fileno("strings"))


def test_files_have_path_and_mode(readers: Readers, folder: Path, opened: list[int]) -> None:
    os.mkfifo(folder / "fs/fifo")
    (folder / "fs/file").touch(0o4751)
    paths = ("/", "/tmp", "/dev/null", "/proc/self/status", folder, folder / "fs", folder / "fs/file")
    opened += [os.open(path, os.O_RDONLY) for path in paths]
    opened.append(os.open(folder / "fs/fifo", os.O_RDWR))
    for fd in opened:
        check_fd(readers, fd)
    assert stat.S_ISFIFO(readers.run("fd", opened[-1]).mode)


def test_deleted_file_keeps_its_path_and_is_flagged(readers: Readers, folder: Path, opened: list[int]) -> None:
    path = folder / "fs/gone"
    opened.append(os.open(path, os.O_RDWR | os.O_CREAT))
    assert not readers.run("fd", opened[0]).flags
    path.unlink()
    result = readers.run("fd", opened[0])
    assert (result.text, result.flags) == (str(path), DELETED)


def test_descriptor_that_is_not_open_is_unreadable(readers: Readers) -> None:
    for fd in (-1, 1 << 20, 1 << 30, -(1 << 31)):
        result = readers.run("fd", fd)
        assert (result.error, result.flags, result.data) == (-9, UNREADABLE, b"")


def test_file_of_a_mount_that_is_gone_is_outside(readers: Readers, folder: Path, opened: list[int]) -> None:
    (folder / "other").mkdir()
    system.mount("tmpfs", folder / "other", "tmpfs")
    (folder / "other/inner").mkdir()
    opened.append(os.open(folder / "other/inner", os.O_RDONLY))
    assert not readers.run("fd", opened[0]).flags
    system.unmount(folder / "other")
    result = readers.run("fd", opened[0])
    assert (result.text, result.flags) == ("/inner", OUTSIDE)


CHILD = """
import os, sys
print(os.open(sys.argv[1], os.O_RDONLY), flush=True)
os.chroot(sys.argv[2])
sys.stdin.readline()
os.getppid()
print(flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("file", "seen", "flags"), [("fs/root/inner", "/inner", 0), ("fs/root", "/", 0), ("fs/out", "{}/fs/out", OUTSIDE)]
)
def test_path_begins_at_the_root_of_the_process(
    readers: Readers, folder: Path, file: str, seen: str, flags: int
) -> None:
    for name in ("fs/root/inner", "fs/out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", CHILD, str(folder / file), str(folder / "fs/root")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        fd = int(child.stdout.readline())
        with readers.attached("on_enter", w0=child.pid, w1=0, w2=fd):
            child.stdin.write("\n")
            child.stdin.flush()
            result = readers.told()
        child.communicate("\n", timeout=10)
    assert (result.text, result.flags) == (seen.format(folder), flags)


def deep(folder: Path, components: int) -> Path:
    """A directory below folder whose path has so many components."""
    path = folder.joinpath(*["d"] * (components - len(folder.parts) + 1))
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_path_is_whole_up_to_the_depth_and_cut_beyond(readers: Readers, folder: Path, opened: list[int]) -> None:
    # Each is a step too: folder/fs, and whatever is mounted above it.
    mounts = sum(map(os.path.ismount, (folder / "fs", *folder.parents[:-1])))
    whole, cut = deep(folder / "fs", DEPTH - mounts), deep(folder / "fs", DEPTH - mounts + 1)
    opened += [os.open(path, os.O_RDONLY) for path in (whole, cut)]
    index, cpus = COUNTERS.index("path_too_deep"), possible_cpus()
    before = readers.counter(index, cpus)
    assert readers.run("fd", opened[0]).text == str(whole)
    assert readers.counter(index, cpus) == before
    result = readers.run("fd", opened[1])
    assert result.flags == CUT_HEAD
    assert str(cut) == "/" + folder.parts[1] + result.text
    assert readers.counter(index, cpus) == before + 1


def test_path_longer_than_the_slot_loses_its_begin(readers: Readers, folder: Path, opened: list[int]) -> None:
    fd = os.open(folder / "fs", os.O_RDONLY)
    opened.append(fd)
    for _ in range(TEXT_MAX // 200 + 1):
        os.mkdir("n" * 200, dir_fd=fd)
        fd = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        opened.append(fd)
    result = readers.run("fd", fd)
    assert result.flags == CUT_HEAD
    assert result.text == ("/" + "n" * 200) * (TEXT_MAX // 201)


def test_binaries_are_those_of_the_process_and_its_parent(readers: Readers) -> None:
    own, parent = readers.run("binary"), readers.run("parent_binary")
    assert own.text == os.readlink("/proc/self/exe")
    assert own.mode == os.stat("/proc/self/exe").st_mode
    assert as_link(parent) == os.readlink(f"/proc/{os.getppid()}/exe")


def test_other_structures_lead_to_the_same_files(readers: Readers, folder: Path, opened: list[int]) -> None:
    path = folder / "fs/some/where"
    path.mkdir(parents=True)
    opened.append(os.open(path, os.O_RDONLY))
    assert readers.run("kiocb", opened[0]).text == str(path)
    assert readers.run("dentry", opened[0]).text == "/some/where"
    assert readers.run("working_directory").text == os.getcwd()
    text = ctypes.create_string_buffer(b"as/it was/../given")
    assert readers.run("filename", ctypes.addressof(text)).text == "as/it was/../given"


def test_dentry_of_a_file_systems_root_is_a_slash(readers: Readers, folder: Path, opened: list[int]) -> None:
    opened.append(os.open(folder / "fs", os.O_RDONLY))
    result = readers.run("dentry", opened[0])
    assert (result.text, result.flags, result.mode) == ("/", 0, os.fstat(opened[0]).st_mode)


def test_executed_file_is_known_before_it_runs(readers: Readers, folder: Path) -> None:
    program = folder / "fs/program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    with readers.attached("on_exec", w0=os.getpid()):
        subprocess.run([program], check=True)
        result = readers.told()
    assert (result.text, result.flags, result.mode) == (str(program), 0, program.stat().st_mode)


def test_null_and_junk_addresses_are_unreadable(readers: Readers) -> None:
    for program in ("file_at", "dentry_at", "sock_at", "skb_at", "kernel_string"):
        for address in (0, 8, 4096, 1 << 47, 0xDEAD_BEEF_DEAD_BEEF, (1 << 64) - 1):
            result = readers.run(program, address)
            assert result.error < 0, program
            assert result.flags == UNREADABLE, program


Buffers = Sequence["ctypes.Array[ctypes.c_char]"]


def buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def vector(segments: Buffers) -> ctypes.Array[ctypes.c_char]:
    return buffer(b"".join(struct.pack("<QQ", ctypes.addressof(each), len(each)) for each in segments))


@pytest.mark.parametrize(
    "sizes", [(3,), (3, 0, 5), (255,), (256,), (254, 1, 1), (2000, 2000, 96), (0, 0, 1), (4096,), (1,) * 256]
)
def test_segments_are_joined(readers: Readers, sizes: tuple[int, ...]) -> None:
    segments = [buffer(os.urandom(size)) for size in sizes]
    array = vector(segments)
    result = readers.run("user_iovec", ctypes.addressof(array), len(segments))
    assert (result.error, result.flags) == (0, 0)
    assert result.data == b"".join(each.raw for each in segments)


@pytest.mark.parametrize(("sizes", "kept"), [((4096, 1), 4096), ((4000, 4000), 4096), ((1,) * 400, PIECES)])
def test_segments_beyond_the_slot_are_cut(readers: Readers, sizes: tuple[int, ...], kept: int) -> None:
    segments = [buffer(os.urandom(size)) for size in sizes]
    array = vector(segments)
    result = readers.run("user_iovec", ctypes.addressof(array), len(segments))
    assert result.flags == CUT_TAIL
    assert result.data == b"".join(each.raw for each in segments)[:kept]


def test_segments_before_bad_memory_are_kept(readers: Readers) -> None:
    good = buffer(b"good")
    array = buffer(struct.pack("<QQQQ", ctypes.addressof(good), 4, 16, 4))
    result = readers.run("user_iovec", ctypes.addressof(array), 2)
    assert (result.error, result.flags, result.data) == (-14, CUT_TAIL, b"good")
    result = readers.run("user_iovec", 16, 2)
    assert (result.error, result.flags, result.data) == (-14, UNREADABLE, b"")


def test_array_of_segments_can_be_the_kernels(readers: Readers) -> None:
    segments = [buffer(b"one"), buffer(b"two")]
    array = vector(segments)
    assert readers.run("kernel_iovec", ctypes.addressof(array)).data == b"onetwo"


@pytest.mark.parametrize(
    ("kind", "size", "offset", "count", "data", "flags"),
    [
        (0, 10, 0, 10, b"0123456789", 0),
        (0, 10, 4, 6, b"456789", 0),
        (1, 10, 2, 8, b"23456789", 0),
        (1, 10, 2, 20, b"23456789", CUT_TAIL),
        (1, 10, 0, 4, b"0123", 0),
        (2, 10, 0, 10, b"", UNREADABLE),
    ],
)
def test_iterator_gives_its_first_segment(
    readers: Readers, kind: int, size: int, offset: int, count: int, data: bytes, flags: int
) -> None:
    memory = buffer(b"0123456789")
    result = readers.run("iov_iter", kind, ctypes.addressof(memory), size, offset, count)
    assert (result.data, result.flags, result.mode) == (data, flags, count)
    if not flags & UNREADABLE:
        value = decode_blob("iov_iter", result.data, result.flags, result.mode)
        assert value is not None
        assert value["count"] == count


@pytest.mark.parametrize(("size", "seen"), [(16, b"name"), (4, b"name"), (3, b"nam"), (0, b"")])
def test_array_of_characters_ends_at_its_nul_or_its_end(readers: Readers, size: int, seen: bytes) -> None:
    memory = buffer(b"name\0behind\0\0\0\0\0")
    result = readers.run("user_array", ctypes.addressof(memory), size)
    assert (result.error, result.flags, result.data) == (0, 0, seen)
