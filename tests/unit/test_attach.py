# SPDX-License-Identifier: Apache-2.0
"""What a hook point is attached through, and the dispatcher's instructions."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.kernel import attach, bpf
from agent.kernel.attach import PROGRAM_TYPES, SLOT_MAPS, Attacher, Attachment, Place, check_side, pin_name, through
from agent.kernel.dispatcher import dispatcher, overrider
from agent.kernel.errors import KernelError
from agent.kernel.layout import MAX_PROGRAM_SLOTS, map_specs
from agent.kernel.loader import ProgramForm
from agent.kernel.point_arrays import OWN_SLOTS
from agent.kernel.targets import ATTACH_TYPES, Targets
from agent.kernel.user_files import UserFiles
from agent.policy.access import SYSCALLS, TRAMPOLINES, TWO_SIDED, HookPoint, PointKind
from agent.policy.codegen_unit import Side
from agent.policy.plan import MAX_CHUNKS

SYSCALL = HookPoint(PointKind.SYSCALL, "newfstatat")
UPROBE = HookPoint(PointKind.UPROBE, "/usr/lib/libc.so.6", 0x1234)
KPROBE = HookPoint(PointKind.KPROBE, "ovl_open", module="overlay")
OVERRIDE = HookPoint(PointKind.OVERRIDE, "should_failslab")
FENTRY = HookPoint(PointKind.FENTRY, "ovl_open", module="overlay")
FMOD_RET = HookPoint(PointKind.FMOD_RET, "security_file_open")
LSM = HookPoint(PointKind.LSM, "file_open")
USDT = HookPoint(PointKind.USDT, "/usr/lib/libc.so.6", 0x1234, 0x500)


def test_a_dispatcher_is_a_tail_call_and_a_return() -> None:
    """Instruction by instruction: linux/bpf.h, struct bpf_insn."""
    assert dispatcher(0x11223344, 1023) == bytes.fromhex(
        "18 12 0000 44332211"  # lddw r2, map fd (BPF_PSEUDO_MAP_FD)
        "00 00 0000 00000000"
        "b7 03 0000 ff030000"  # mov r3, slot
        "85 00 0000 0c000000"  # call bpf_tail_call
        "b7 00 0000 00000000"  # mov r0, 0
        "95 00 0000 00000000"  # exit
    )


def test_an_overrider_takes_its_own_verdict_and_has_no_tail_call() -> None:
    assert overrider(0x11223344, 77) == bytes.fromhex(
        "bf 16 0000 00000000"  # mov r6, r1
        "62 0a fcff 00000000"  # *(u32 *)(r10 - 4) = 0
        "bf a2 0000 00000000"  # mov r2, r10
        "07 02 0000 fcffffff"  # r2 += -4
        "18 11 0000 44332211"  # lddw r1, map fd
        "00 00 0000 00000000"
        "85 00 0000 01000000"  # call bpf_map_lookup_elem
        "15 00 0800 00000000"  # if r0 == 0 goto the end
        "61 01 0400 00000000"  # r1 = *(u32 *)(r0 + 4)
        "55 01 0600 4d000000"  # if r1 != attachment goto the end
        "61 02 0000 00000000"  # r2 = *(u32 *)r0
        "7a 00 0000 00000000"  # *(u64 *)r0 = 0
        "67 02 0000 20000000"  # r2 <<= 32
        "c7 02 0000 20000000"  # r2 s>>= 32
        "bf 61 0000 00000000"  # mov r1, r6
        "85 00 0000 3a000000"  # call bpf_override_return
        "b7 00 0000 00000000"  # mov r0, 0
        "95 00 0000 00000000"  # exit
    )


def test_every_kind_has_an_array_of_slots() -> None:
    specs = {spec.name: (spec.kind, spec.entries) for spec in map_specs(4096, 64)}
    arrays = {SLOT_MAPS[PROGRAM_TYPES[kind]] for kind in PointKind if kind not in TRAMPOLINES}
    assert {specs[name] for name in arrays} == {(bpf.MapType.PROG_ARRAY, MAX_PROGRAM_SLOTS)}
    assert len(arrays) == len(SLOT_MAPS)
    assert OWN_SLOTS >= 1 + 3 * (MAX_CHUNKS - 1)


def test_every_side_of_a_trampoline_has_an_attach_type() -> None:
    ended = TWO_SIDED - SYSCALLS  # where a system call ends is a tracepoint
    sides = {(kind, side) for kind in TRAMPOLINES for side in Side if side is Side.ENTER or kind in ended}
    assert ATTACH_TYPES.keys() == sides


@pytest.mark.parametrize(
    ("point", "side", "words"),
    [
        (SYSCALL, Side.ENTER, "tracepoint syscalls/sys_enter_newfstatat"),
        (SYSCALL, Side.EXIT, "tracepoint syscalls/sys_exit_newfstatat"),
        (HookPoint(PointKind.TRACEPOINT, "sched/sched_switch"), Side.ENTER, "tracepoint sched/sched_switch"),
        (HookPoint(PointKind.RAW_TRACEPOINT, "sched_switch"), Side.ENTER, "raw tracepoint sched_switch"),
        (UPROBE, Side.ENTER, "uprobe /usr/lib/libc.so.6+0x1234"),
        (UPROBE, Side.EXIT, "uretprobe /usr/lib/libc.so.6+0x1234"),
        (USDT, Side.ENTER, "uprobe /usr/lib/libc.so.6+0x1234, reference counter 0x500"),
        (HookPoint(PointKind.SYSCALL_FENTRY, "openat"), Side.ENTER, "fentry __x64_sys_openat"),
        (HookPoint(PointKind.SYSCALL_FENTRY, "openat"), Side.EXIT, "tracepoint syscalls/sys_exit_openat"),
        (HookPoint(PointKind.SYSCALL_OVERRIDE, "openat"), Side.ENTER, "kprobe __x64_sys_openat (override)"),
        (HookPoint(PointKind.SYSCALL_OVERRIDE, "openat"), Side.EXIT, "tracepoint syscalls/sys_exit_openat"),
        (KPROBE, Side.ENTER, "kprobe ovl_open [overlay]"),
        (KPROBE, Side.EXIT, "kretprobe ovl_open [overlay]"),
        (OVERRIDE, Side.ENTER, "kprobe should_failslab (override)"),
        (FENTRY, Side.ENTER, "fentry ovl_open [overlay]"),
        (FENTRY, Side.EXIT, "fexit ovl_open [overlay]"),
        (FMOD_RET, Side.ENTER, "fmod_ret security_file_open"),
        (FMOD_RET, Side.EXIT, "fexit security_file_open"),
        (LSM, Side.ENTER, "lsm file_open"),
    ],
)
def test_what_it_is_attached_through_is_told_in_the_kernels_words(point: HookPoint, side: Side, words: str) -> None:
    assert through(point, side) == words


def test_names_of_pins_are_names_in_bpffs() -> None:
    assert pin_name(UPROBE, Side.EXIT, 7) == "7_uprobe_libc_so_6_exit"
    assert pin_name(SYSCALL, Side.ENTER, 8) == "8_syscall_newfstatat_enter"
    long = HookPoint(PointKind.UPROBE, "/bin/" + "ä x" * 300, 1)
    assert len(pin_name(long, Side.ENTER, 1 << 40)) < 100
    assert all(each.isascii() and (each.isalnum() or each == "_") for each in pin_name(long, Side.ENTER, 9))


class _Kernel:
    """Programs and events that are opened, and one call that fails, after as many of the same that do not."""

    def __init__(self, fails: str = "", after: int = 0) -> None:
        self.fails = fails
        self._after = after
        self.loaded: list[tuple[object, ...]] = []
        self.events: list[tuple[int, int, str, int]] = []
        self.open = 0

    def _fd(self, what: str) -> bpf.Fd:
        if what == self.fails:
            if not self._after:
                raise KernelError(what, errno.EINVAL)
            self._after -= 1
        self.open += 1
        kernel = self

        class _Fd(bpf.Fd):
            def __init__(self) -> None:
                super().__init__(-1)
                self.closed = False

            def fileno(self) -> int:
                return 3

            def close(self) -> None:
                kernel.open -= not getattr(self, "closed", True)
                self.closed = True

        return _Fd()

    def load_program(self, kind: bpf.ProgType, _code: bytes, name: str, *target: int) -> bpf.Fd:
        self.loaded.append((kind, name, *target))
        return self._fd("override" if name == "pg_override" and self.fails == "override" else "load")

    def open_kprobe_event(self, pmu: int, function: str, config: int = 0) -> bpf.Fd:
        self.events.append((pmu, config, function, 0))
        return self._fd("event")

    def open_raw_tracepoint(self, name: str, _program: int) -> bpf.Fd:
        self.events.append((0, 0, name, 0))
        return self._fd("link")

    def open_uprobe_event(self, pmu: int, config: int, path: str, offset: int) -> bpf.Fd:
        self.events.append((pmu, config, path, offset))
        return self._fd("event")

    def link_perf_event(self, _program: int, _event: bpf.Fd) -> bpf.Fd:
        return self._fd("link")

    def pin(self, _fd: int, path: str) -> None:
        Path(path).touch()
        self._fd("pin").close()

    def program_info(self, _fd: int) -> bpf.ProgramInfo:
        self._fd("info").close()
        return bpf.ProgramInfo(42, 64, 6, 9)


CALLS = (
    *("load_program", "open_uprobe_event", "open_kprobe_event", "open_raw_tracepoint"),
    *("link_perf_event", "pin", "program_info"),
)


class _Targets(Targets):
    """BTF in which every function is number 400."""

    def form(self, point: HookPoint, side: Side) -> ProgramForm:
        if point.kind not in TRAMPOLINES:
            return ProgramForm(PROGRAM_TYPES[point.kind])
        return ProgramForm(PROGRAM_TYPES[point.kind], ATTACH_TYPES[point.kind, side], 400, 33 if point.module else 0)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    folder = tmp_path / "devices/uprobe/format"
    folder.mkdir(parents=True)
    (folder / "ref_ctr_offset").write_text("config:32-63\n")
    (folder / "retprobe").write_text("config:0\n")
    (folder.parent / "type").write_text("8\n")
    kprobe = tmp_path / "devices/kprobe/format"
    kprobe.mkdir(parents=True)
    (kprobe / "retprobe").write_text("config:1\n")
    (kprobe.parent / "type").write_text("7\n")
    return folder.parents[1]


def _attach(
    monkeypatch: pytest.MonkeyPatch, devices: Path, kernel: _Kernel, point: HookPoint, side: Side
) -> Attachment:
    for name in CALLS:
        monkeypatch.setattr(bpf, name, getattr(kernel, name))
    attacher = Attacher(devices, _Targets(), 9, devices)
    return attacher.attach(point, side, Place(5, 6, devices / "pin", 77))


@pytest.mark.parametrize(
    ("point", "side", "config"),
    [
        (UPROBE, Side.ENTER, 0),
        (UPROBE, Side.EXIT, 1),
        (USDT, Side.ENTER, 0x500 << 32),
        (USDT, Side.EXIT, 0x500 << 32 | 1),
    ],
)
def test_a_probe_is_an_event_with_its_counter_and_side_in_the_config(
    monkeypatch: pytest.MonkeyPatch, devices: Path, point: HookPoint, side: Side, config: int
) -> None:
    kernel = _Kernel()
    attachment = _attach(monkeypatch, devices, kernel, point, side)
    assert kernel.events == [(8, config, "/usr/lib/libc.so.6", 0x1234)]
    assert (attachment.program, kernel.open, (devices / "pin").exists()) == (42, 1, True)
    attachment.detach()
    assert (kernel.open, (devices / "pin").exists()) == (0, False)


@pytest.mark.parametrize(("side", "config"), [(Side.ENTER, 0), (Side.EXIT, 2)])
def test_a_function_is_probed_by_its_name(
    monkeypatch: pytest.MonkeyPatch, devices: Path, side: Side, config: int
) -> None:
    kernel = _Kernel()
    _attach(monkeypatch, devices, kernel, KPROBE, side).detach()
    assert kernel.events == [(7, config, "ovl_open", 0)]
    assert kernel.loaded == [(bpf.ProgType.KPROBE, f"pg_{side.value}", 0, 0, 0)]
    assert kernel.open == 0


@pytest.mark.parametrize(
    ("point", "side", "target"),
    [
        (FENTRY, Side.ENTER, (bpf.ProgType.TRACING, "pg_enter", 24, 400, 33)),
        (FENTRY, Side.EXIT, (bpf.ProgType.TRACING, "pg_exit", 25, 400, 33)),
        (FMOD_RET, Side.ENTER, (bpf.ProgType.TRACING, "pg_enter", 26, 400, 0)),
        (FMOD_RET, Side.EXIT, (bpf.ProgType.TRACING, "pg_exit", 25, 400, 0)),
        (LSM, Side.ENTER, (bpf.ProgType.LSM, "pg_enter", 27, 400, 0)),
    ],
)
def test_a_trampoline_program_is_loaded_for_its_function(
    monkeypatch: pytest.MonkeyPatch, devices: Path, point: HookPoint, side: Side, target: tuple[object, ...]
) -> None:
    kernel = _Kernel()
    attachment = _attach(monkeypatch, devices, kernel, point, side)
    assert (kernel.loaded, kernel.events, kernel.open) == ([target], [(0, 0, "", 0)], 1)
    attachment.detach()
    assert (kernel.open, (devices / "pin").exists()) == (0, False)


def test_overrider_is_attached_before_the_dispatcher_and_goes_after_it(
    monkeypatch: pytest.MonkeyPatch, devices: Path
) -> None:
    kernel = _Kernel()
    attachment = _attach(monkeypatch, devices, kernel, OVERRIDE, Side.ENTER)
    assert [name for _, name, *_ in kernel.loaded] == ["pg_override", "pg_enter"]
    assert kernel.events == [(7, 0, "should_failslab", 0)] * 2
    assert sorted(path.name for path in devices.glob("pin*")) == ["pin", "pin_override"]
    assert kernel.open == 2
    attachment.detach()
    assert (kernel.open, list(devices.glob("pin*"))) == (0, [])


@pytest.mark.parametrize("side", Side)
def test_only_the_entry_of_an_override_has_an_overrider(
    monkeypatch: pytest.MonkeyPatch, devices: Path, side: Side
) -> None:
    kernel = _Kernel()
    _attach(monkeypatch, devices, kernel, HookPoint(PointKind.OVERRIDE, "should_failslab"), side).detach()
    assert len(kernel.loaded) == (2 if side is Side.ENTER else 1)
    assert {function for _, _, function, _ in kernel.events} == {"should_failslab"}


@pytest.mark.parametrize("fails", ["load", "override", "event", "link", "pin", "info"])
@pytest.mark.parametrize("after", [0, 1])
def test_override_that_fails_anywhere_leaves_nothing_attached(
    monkeypatch: pytest.MonkeyPatch, devices: Path, fails: str, after: int
) -> None:
    """At the overrider, or at the dispatcher after it."""
    kernel = _Kernel(fails, after)
    if after and fails == "override":
        _attach(monkeypatch, devices, kernel, OVERRIDE, Side.ENTER).detach()
    else:
        with pytest.raises(KernelError, match="EINVAL"):
            _attach(monkeypatch, devices, kernel, OVERRIDE, Side.ENTER)
    assert (kernel.open, list(devices.glob("pin*"))) == (0, [])


@pytest.mark.parametrize(
    ("point", "fails", "words"),
    [
        (OVERRIDE, "override", r"kprobe should_failslab \(override\): EINVAL .*CONFIG_BPF_KPROBE_OVERRIDE=y"),
        (OVERRIDE, "link", r"kprobe should_failslab \(override\): EINVAL .*error_injection/list"),
        (KPROBE, "event", r"kprobe ovl_open \[overlay\]: EINVAL .*kprobes/blacklist"),
        (FENTRY, "link", r"fentry ovl_open \[overlay\]: EINVAL .*does not let programs of this kind"),
        (LSM, "load", r"lsm file_open: EINVAL .*does not let programs of this kind"),
    ],
)
def test_function_that_is_refused_is_named_with_advice(
    monkeypatch: pytest.MonkeyPatch, devices: Path, point: HookPoint, fails: str, words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        _attach(monkeypatch, devices, _Kernel(fails), point, Side.ENTER)


def test_lsm_hooks_have_no_return() -> None:
    with pytest.raises(KernelError, match="lsm file_open has no return"):
        check_side(LSM, Side.EXIT)


def test_places_of_the_fields_are_those_of_the_format_files(monkeypatch: pytest.MonkeyPatch, devices: Path) -> None:
    (devices / "uprobe/format/ref_ctr_offset").write_text("config:16-47\n")
    (devices / "uprobe/format/retprobe").write_text("config:3\n")
    kernel = _Kernel()
    _attach(monkeypatch, devices, kernel, USDT, Side.EXIT)
    assert kernel.events[0][1] == 0x500 << 16 | 8


@pytest.mark.parametrize("fails", ["load", "event", "link", "pin", "info"])
def test_what_fails_leaves_nothing_attached(monkeypatch: pytest.MonkeyPatch, devices: Path, fails: str) -> None:
    kernel = _Kernel(fails)
    with pytest.raises(KernelError, match="EINVAL"):
        _attach(monkeypatch, devices, kernel, UPROBE, Side.ENTER)
    assert (kernel.open, (devices / "pin").exists()) == (0, False)


def test_refused_probe_is_named_with_advice(monkeypatch: pytest.MonkeyPatch, devices: Path) -> None:
    with pytest.raises(KernelError, match=r"uprobe /usr/lib/libc.so.6\+0x1234: EINVAL .*regular file with code"):
        _attach(monkeypatch, devices, _Kernel("event"), UPROBE, Side.ENTER)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("type", None, "no uprobe device; the kernel needs CONFIG_UPROBE_EVENTS=y"),
        ("format/ref_ctr_offset", None, "this kernel's uprobes have no ref_ctr_offset"),
        ("format/ref_ctr_offset", "config1:0", "this kernel's uprobes have no ref_ctr_offset"),
    ],
)
def test_kernel_without_a_part_of_it_is_told(
    monkeypatch: pytest.MonkeyPatch, devices: Path, file: str, text: str | None, words: str
) -> None:
    path = devices / "uprobe" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(KernelError, match=words):
        _attach(monkeypatch, devices, _Kernel(), USDT, Side.ENTER)


def test_counter_beyond_the_config_is_refused(monkeypatch: pytest.MonkeyPatch, devices: Path) -> None:
    point = HookPoint(PointKind.USDT, "/x", 1, attach.MAX_REF_COUNTER + 1)
    with pytest.raises(KernelError, match=r"its reference counter.*up to 0xffffffff"):
        _attach(monkeypatch, devices, _Kernel(), point, Side.ENTER)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"one" * 100)
    return path


def _point_in(file: Path) -> HookPoint:
    return HookPoint(PointKind.UPROBE, str(file), 0x10, 0, UserFiles().identity(str(file)))


class _Swapping(_Kernel):
    """While a probe is put into the file something happens to it."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens
        self.inodes: list[int] = []

    def open_uprobe_event(self, pmu: int, config: int, path: str, offset: int) -> bpf.Fd:
        self._happens()
        self.inodes.append(os.stat(path).st_ino)
        return super().open_uprobe_event(pmu, config, path, offset)


def _replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.rename(file)


def test_probe_goes_through_a_descriptor_of_the_file_that_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, devices: Path, file: Path
) -> None:
    kernel = _Swapping(lambda: None)
    attachment = _attach(monkeypatch, devices, kernel, _point_in(file), Side.ENTER)
    assert kernel.events[0][2].startswith("/proc/self/fd/")
    assert (kernel.inodes, kernel.open) == ([file.stat().st_ino], 1)
    attachment.detach()


@pytest.mark.parametrize(
    "happens", [_replace, Path.unlink, lambda file: os.truncate(file, 10), lambda f: f.chmod(0o600)]
)
def test_file_that_is_another_one_is_refused_and_nothing_is_attached(
    monkeypatch: pytest.MonkeyPatch, devices: Path, file: Path, happens: Callable[[Path], object]
) -> None:
    point = _point_in(file)
    happens(file)
    kernel = _Kernel()
    words = "No such file" if happens is Path.unlink else "another file is there .* add the policy again"
    with pytest.raises(KernelError, match=rf"uprobe {file}\+0x10; .*{words}"):
        _attach(monkeypatch, devices, kernel, point, Side.ENTER)
    assert (kernel.events, kernel.open) == ([], 0)


@pytest.mark.parametrize("happens", [_replace, Path.unlink, lambda file: os.truncate(file, 10)])
def test_file_that_changes_while_it_is_probed_loses_the_probe(
    monkeypatch: pytest.MonkeyPatch, devices: Path, file: Path, happens: Callable[[Path], object]
) -> None:
    point = _point_in(file)
    kernel = _Swapping(lambda: happens(file))
    with pytest.raises(KernelError, match="written to since"):
        _attach(monkeypatch, devices, kernel, point, Side.ENTER)
    assert (kernel.inodes, kernel.open) == ([point.file.inode if point.file else 0], 0)


def test_path_with_a_nul_is_refused() -> None:
    with pytest.raises(KernelError, match="a path has no NUL"):
        bpf.open_uprobe_event(8, 0, "/bin/sh\0x", 0)
