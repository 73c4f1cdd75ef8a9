# SPDX-License-Identifier: Apache-2.0
"""What a guest is put together of, and what is made of what it brings back: the parts that need no guest."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tools.fetch_runtimes import Mirror
from tools.vm import packages, suite
from tools.vm.__main__ import main, parse_options
from tools.vm.emulator import Emulator, find_emulator
from tools.vm.errors import VmError
from tools.vm.image import unpack_image
from tools.vm.initrd import Modules, build_initrd, find_modules, needed_by, read_builtin, read_module
from tools.vm.kernels import SUITES, Kernel, find_image, find_kernel, finish_kernel, kernel_folder
from tools.vm.lock import hold
from tools.vm.machine import Job, guest_script, qemu_command
from tools.vm.override import NAME, OPTIONS, missing_options
from tools.vm.packages import Package, same_source
from tools.vm.results import Report, join_junit, read_report, render
from tools.vm.suite import GOLDEN_TEST, LIST, PROJECT, guest_command, parse_list

ELF = b"\x7fELF and so on"
SIZE = struct.pack("<I", len(ELF))


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


def image(payload: bytes, sectors: int = 3, offset: int = 40) -> bytes:
    """A bzImage with that payload."""
    head = bytearray((sectors + 1) * 512 + offset)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head) + payload + b"signature"


def test_image_gives_its_elf_file() -> None:
    assert unpack_image(image(lzma.compress(ELF) + SIZE)) == ELF
    assert unpack_image(image(gzip.compress(ELF))) == ELF


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd: `tools/setup vm` installs it")
def test_image_of_zstd_gives_its_elf_file() -> None:
    assert unpack_image(image(zstd(ELF) + SIZE)) == ELF
    with pytest.raises(VmError, match="zstd refuses"):
        unpack_image(image(zstd(ELF)[:-6] + SIZE))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7fELF" + bytes(1024), "no HdrS"),
        (image(b"\x89LZO" + bytes(8)), "begins with 894c5a4f"),
        (image(lzma.compress(b"text") + SIZE), "no ELF file"),
    ],
)
def test_what_is_no_image_is_told(data: bytes, words: str) -> None:
    with pytest.raises(VmError, match=words):
        unpack_image(data)


def module(depends: str, soft: str = "") -> bytes:
    return f"\x7fELF\0license=GPL\0depends={depends}\0{f'softdep=pre: {soft}' if soft else ''}\0name=x\0".encode()


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    """a needs b-c and builtin d, and softly e; b_c needs f, which needs a again."""
    content = {"a": module("b-c,d", "e"), "b-c": module("f"), "e": module(""), "f": module("a")}
    for name, data in content.items():
        (tmp_path / f"{name}.ko").write_bytes(data)
    (tmp_path / "e.ko").unlink()
    (tmp_path / "e.ko.xz").write_bytes(lzma.compress(content["e"]))
    (tmp_path / "modules.builtin").write_text("kernel/x/d.ko\nkernel/y/g-h.ko\n")
    return Modules(find_modules(tmp_path), read_builtin(tmp_path))


def test_modules_come_after_what_they_need(modules: Modules) -> None:
    assert list(modules.ordered(["a", "g-h"])) == ["f", "b_c", "e", "a"]
    assert modules.ordered(["e"]) == {"e": module("")}


def test_a_module_that_is_not_there_is_told(modules: Modules) -> None:
    with pytest.raises(VmError, match="no module nothing"):
        modules.ordered(["nothing"])


def test_needs_are_read_from_a_module() -> None:
    assert needed_by(module("x-y,z", "crc32c lib-q")) == ["x_y", "z", "crc32c", "lib_q"]
    assert needed_by(module("")) == []


def test_module_in_an_unknown_form_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.ko.zst").write_bytes(b"x")
    with pytest.raises(VmError, match="compressed in a way not known"):
        read_module(tmp_path / "m.ko.zst")


def test_initrd_is_an_archive_with_init_and_modules_in_order(tmp_path: Path) -> None:
    archive = build_initrd({"one": b"1", "two": b"22"})
    listed = subprocess.run(["busybox", "cpio", "-idm"], input=archive, capture_output=True, cwd=tmp_path, check=False)
    assert listed.returncode == 0, listed.stderr
    assert (tmp_path / "modules/order").read_text() == "one\ntwo\n"
    assert (tmp_path / "modules/two.ko").read_bytes() == b"22"
    assert (tmp_path / "init").read_text().startswith("#!/bin/sh\n")
    assert (tmp_path / "init").stat().st_mode & 0o111
    assert (tmp_path / "bin/mount").readlink() == Path("busybox")
    assert (tmp_path / "dev/console").is_char_device()


def test_packages_of_the_same_source_are_found_through_each_other() -> None:
    depends = {
        "meta": "linux-image-7 (= 7.3-1~b), linux-modules-amd64 (= 7.3-1~b)",
        "linux-image-7": "dracut | tool (>= 1), linux-base-7 (= 7.3-1~b), linux-binary-7 (= 7.3-1~b)",
        "linux-modules-amd64": "linux-modules-7 (= 7.3-1~b), linux-base-7 (= 7.3-1~b)",
        "linux-binary-7": "kmod",
        "linux-modules-7": "",
        "linux-base-7": "",
    }
    found = same_source(Package("meta"), lambda package: depends[package.name])
    assert {each.name for each in found} == depends.keys()
    assert len(found) == len(depends)
    assert {str(each) for each in found if each.name == "linux-base-7"} == {"linux-base-7=7.3-1~b"}


TARGETS = (
    "Debian|bookworm|main|mirror:/debian/|$(SIGNED_BY)\n"
    "Debian|bookworm-security|main|mirror:/security/|/usr/share/keyrings/some.gpg\n"
)


@pytest.mark.parametrize(
    ("targets", "suite", "uri"),
    [
        (TARGETS, "trixie", "mirror:/debian"),
        (TARGETS, "bookworm-backports", "mirror:/debian"),
        (TARGETS, "trixie-security", "mirror:/security"),
        (TARGETS.splitlines()[0], "trixie-security", None),
    ],
)
def test_suites_come_from_the_machines_own_archives(
    monkeypatch: pytest.MonkeyPatch, targets: str, suite: str, uri: str | None
) -> None:
    def answer(*_: object, **__: object) -> str:
        return targets

    def bookworm() -> str:
        return "bookworm"

    monkeypatch.setattr(packages, "run", answer)
    monkeypatch.setattr(packages, "read_codename", bookworm)
    found = packages.mirror_of(suite)
    assert (found.uri if found else None) == uri


def test_no_archive_at_all_is_told(tmp_path: Path) -> None:
    def nowhere(_: str) -> Mirror | None:
        return None

    with pytest.raises(VmError, match="no archive for trixie-security"):
        packages.Suites(tmp_path, ["trixie-security"], nowhere)


def test_kernel_counts_once_it_is_complete(tmp_path: Path) -> None:
    folder = kernel_folder(tmp_path, "6.1")
    (folder / "root/lib/modules/6.1.0-9").mkdir(parents=True)
    assert find_kernel(tmp_path, "6.1") is None
    finish_kernel(folder, "6.1.0-9")
    found = Kernel("6.1", "6.1.0-9", folder / "vmlinux", folder / "root/lib/modules/6.1.0-9")
    assert find_kernel(tmp_path, "6.1") == found


def test_emulator_counts_once_it_has_told_its_version(tmp_path: Path) -> None:
    root = tmp_path / "vm/qemu"
    (root / "usr/bin").mkdir(parents=True)
    assert find_emulator(tmp_path) is None
    (root / "VERSION").touch()
    assert find_emulator(tmp_path) == Emulator(root)


@pytest.mark.parametrize("place", ["boot/vmlinuz-7", "lib/modules/7/vmlinuz"])
def test_image_is_found_where_packages_have_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "lib/modules/7").mkdir(parents=True)
    with pytest.raises(VmError, match="no kernel image"):
        find_image(tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    assert find_image(tmp_path) == ("7", tmp_path / place)


def make_job(tmp_path: Path, *command: str) -> Job:
    return Job(command, Path("/a b"), tmp_path, 60.0)


def test_guests_script_keeps_words_whole(tmp_path: Path) -> None:
    script = guest_script(Kernel("k", "1.2", Path("v"), Path("/m n")), make_job(tmp_path, "echo", "a  b", "$HOME"))
    assert "cd '/a b' && echo 'a  b' '$HOME' < /dev/null\n" in script
    assert "ln -sfn '/m n' /lib/modules/1.2\n" in script
    assert "ln -s" not in guest_script(Kernel("k", "1.2", Path("v"), None), make_job(tmp_path, "true"))


def test_guest_cannot_write_below_its_root(tmp_path: Path) -> None:
    kernel = Kernel("k", "1", Path("v"), None)
    command = qemu_command(Emulator(Path("/q")), kernel, make_job(tmp_path, "true"), Path("i"))
    shares = [word for word in command if word.startswith("local,")]
    assert [("readonly=on" in share, f"path={tmp_path}" in share) for share in shares] == [(True, False), (False, True)]
    assert command[:6] == ["setpriv", "--pdeathsig", "KILL", "/q/usr/bin/qemu-system-x86_64", "-L", "/q/usr/share/qemu"]
    assert command[command.index("-cpu") + 1] == "max,-cx16"


JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest" errors="1" failures="1">
<testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two"><failure message="no"/></testcase>
<testcase classname="tests.a" name="three"><skipped/></testcase>
<testcase classname="tests.a" name="four"/><testcase classname="tests.a" name="four"><error message="left"/></testcase>
</testsuite></testsuites>"""


def test_report_counts_each_test_once(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(JUNIT)
    report = read_report("6.1", "6.1.0", 5.4, [tmp_path / "j"])
    assert (report.passed, report.failed, report.skipped) == (1, ("tests.a::two", "tests.a::four"), 1)
    assert not report.good
    assert Report("k", "r", 1.0, passed=1).good
    assert not Report("k", "r", 1.0, passed=0).good
    assert not Report("k", "r", 1.0, passed=1, trouble="cut short").good


@pytest.mark.parametrize("write", [lambda _: None, lambda file: file.write_text("<testsuites>")], ids=["none", "cut"])
def test_no_results_are_trouble(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "j")
    (tmp_path / "good").write_text(JUNIT)
    files = [tmp_path / "good", tmp_path / "j"]
    report = read_report("6.1", "-", 0.0, files)
    assert report.trouble.startswith("no results: ")
    assert (report.passed, report.good) == (1, False)
    assert read_report("6.1", "-", 0.0, files, "it hung").trouble == "it hung"


def test_table_has_a_line_for_each_kernel_and_what_failed() -> None:
    text = render([Report("6.1", "6.1.0", 61.7, 8), Report("7.x", "-", 0.0, failed=("a::b",), trouble="no network")])
    lines = text.splitlines()
    assert lines[0].split() == ["kernel", "release", "passed", "failed", "skipped", "seconds", "result"]
    assert lines[2].split() == ["6.1", "6.1.0", "8", "0", "0", "62", "ok"]
    assert lines[3].split() == ["7.x", "-", "0", "1", "0", "0", "FAILED"]
    assert lines[4:] == ["7.x: a::b", "7.x: no network"]


def test_results_are_joined_by_kernel(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(JUNIT)
    join_junit([("6.1", tmp_path / "a"), ("6.12", tmp_path / "none"), ("7.x", tmp_path / "a")], tmp_path / "all")
    text = (tmp_path / "all").read_text()
    assert (text.count('name="linux 6.1"'), text.count("6.12"), text.count('name="linux 7.x"')) == (1, 0, 1)
    assert text.count("<testcase ") == 2 * JUNIT.count("<testcase ")


def test_suite_names_what_there_is() -> None:
    lanes = parse_list(LIST.read_text())
    assert list(lanes) == ["programs", "policies", "functions"]
    assert all(lanes.values())
    for line in itertools.chain.from_iterable(lanes.values()):
        path, _, name = line.partition("::")
        assert (PROJECT / path).is_file(), line
        assert f"def {name.partition('[')[0]}(" in (PROJECT / path).read_text() or not name, line


def test_suite_may_have_comments() -> None:
    text = "# a\n[one]\n\n  tests/x.py::y  # z\n[two]\ntests/z.py\n"
    assert parse_list(text) == {"one": ["tests/x.py::y"], "two": ["tests/z.py"]}
    with pytest.raises(VmError, match=r"tests/x\.py is in no lane"):
        parse_list("tests/x.py\n[one]\n")


def run_lanes(monkeypatch: pytest.MonkeyPatch, lanes: dict[str, list[str]]) -> subprocess.CompletedProcess[str]:
    """With a shell in the place of pytest."""

    def shell(_lane: str, tests: Sequence[str], _deadline: float, _require: Sequence[str]) -> list[str]:
        return ["bash", "-c", *tests]

    monkeypatch.setattr(suite, "_pytest", shell)
    return subprocess.run(guest_command(lanes, 9.0, ()), capture_output=True, text=True, check=False)


def test_lanes_run_side_by_side_and_the_worst_one_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each waits for the other."""
    wait = f"echo $0; mkfifo {tmp_path}/f 2>&-; "
    lanes = {"a": [f"{wait} echo x >{tmp_path}/f; exit 1"], "b": [f"{wait} cat {tmp_path}/f; exit 4"], "c": ["exit 0"]}
    done = run_lanes(monkeypatch, lanes)
    assert done.returncode == 4
    assert sorted(done.stdout.splitlines()) == ["a: bash", "b: bash", "b: x"]
    assert run_lanes(monkeypatch, {"c": ["exit 0"]}).returncode == 0


def test_lane_that_fails_first_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ended long before its status is asked for."""
    assert run_lanes(monkeypatch, {"a": ["sleep 0.7; exit 1"], "b": ["exit 4"], "c": ["exit 0"]}).returncode == 4


def test_pytest_ends_before_the_guest_does() -> None:
    (_, _, script) = guest_command({"all": ["tests/a.py", "b c"]}, 600.0, ("kernel", "guest"))
    assert "env REQUIRE=kernel,guest PODGATE_PATIENCE=8 timeout --signal=INT 540 " in script
    assert " --junit-xml=/out/junit-all.xml tests/a.py 'b c' 2>&1" in script


def test_golden_code_is_given_to_the_lane_that_loads_it() -> None:
    (_, _, script) = guest_command({"a": ["tests/a.py"], "b": [f"{GOLDEN_TEST}::test_x"]}, 600.0, ())
    (first, second) = (line for line in script.splitlines() if "pytest" in line)
    assert "PODGATE_GOLDEN" not in first
    assert " PODGATE_GOLDEN=/out/golden.json timeout " in second
    assert (PROJECT / GOLDEN_TEST).is_file()


def test_runs_wait_for_each_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; from pathlib import Path; from tools.vm.lock import hold\nwith hold(Path(sys.argv[1]), 'a'): pass"
    )
    with hold(tmp_path, "a"):
        other = subprocess.Popen(
            [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        assert other.stdout
        said = other.stdout.readline()
        assert said.startswith(f"vm: waiting for process {os.getpid()}: ")
        assert "pytest" in said
        assert other.poll() is None
    assert other.communicate()[0] == ""
    assert other.returncode == 0
    with hold(tmp_path, "a"), hold(tmp_path, "b"):
        assert capfd.readouterr().out == ""


def test_options_that_did_not_survive_are_told() -> None:
    wanted = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=n\nCONFIG_D="x,y"\n# a comment\nCONFIG_E=8\n'
    assert missing_options(wanted, 'CONFIG_A=y\nCONFIG_D="x,y"\nCONFIG_E=8\n# CONFIG_C is not set\n') == []
    assert missing_options(wanted, 'CONFIG_D="x"\nCONFIG_C=y\nCONFIG_E=8\n') == [
        "CONFIG_A=y",
        "CONFIG_C=n",
        'CONFIG_D="x,y"',
    ]
    assert "CONFIG_BPF_KPROBE_OVERRIDE=y" in missing_options(OPTIONS.read_text(), "")


def test_command_line_takes_kernels_and_tests(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse_options(["--kernel", "6.1", "--kernel", NAME, "tests/x.py"])
    assert (options.kernel, options.tests) == (["6.1", NAME], ["tests/x.py"])
    assert parse_options([]).kernel is None
    assert list(SUITES) == ["6.1", "6.12", "7.x"]
    with pytest.raises(SystemExit) as ended:
        main(["--kernel", "5.4"])
    assert ended.value.code == 2
    assert "5.4" in capsys.readouterr().err
