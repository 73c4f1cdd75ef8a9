# SPDX-License-Identifier: Apache-2.0
"""The loader fails: told in the words of compiler and kernel; nothing stays loaded, the rules in force stay."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.bpf import ATTR_SIZE, SYS_BPF, ProgType
from agent.kernel.errors import LoaderError
from agent.kernel.headers import ensure_tree
from agent.kernel.loader import Loader, LoaderLimits, ProgramForm, ProgramSource
from nri_plugin.ttrpc import RemoteError
from tests.support import system
from tests.support.wait import wait_until
from tests.support.workload import Node, kprobe, lseek_policy, match, policy, selector

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID, OBJ_GET_INFO = 11, 13, 15  # enum bpf_cmd
INFO_NAME = 64  # offset of struct bpf_prog_info.name
# A name of this process's own: other agents load programs on this machine too.
NAME = f"t{os.getpid()}"
HEAD = '#include "lib/kernel.h"\n'
GOOD = f"int {NAME}_good(void *ctx) {{ return 0; }}\n"
NOT_C = f"{HEAD}int {NAME}_bad(void *ctx) {{ return no_such_name; }}\n"
NOT_SAFE = f"{HEAD}{GOOD}int {NAME}_wild(void *ctx) {{ return *(volatile int *)bpf_get_current_pid_tgid(); }}\n"
TOO_LONG = f'int {NAME}_long(void *ctx) {{ asm volatile(".rept 33000\\n r0 = 0\\n .endr"); return 0; }}\n'
# Long for the compiler, so that there is time to end it.
LONG = HEAD + "".join(f"int {NAME}_{n}(void *ctx) {{ return bpf_get_prandom_u32() > {n}; }}\n" for n in range(2000))


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(attributes, ATTR_SIZE)
    return int(libc.syscall(SYS_BPF, command, attr, ATTR_SIZE)), attr.raw


def loaded_programs() -> list[str]:
    """Names of this kernel's programs that begin with NAME."""
    names: list[str] = []
    identifier = 0
    while True:
        result, attr = _bpf(PROG_GET_NEXT_ID, struct.pack("<I", identifier))
        if result < 0:
            return [name for name in names if name.startswith(NAME)]
        identifier = struct.unpack_from("<I", attr, 4)[0]
        fd, _ = _bpf(PROG_GET_FD_BY_ID, struct.pack("<I", identifier))
        if fd >= 0:
            names.append(_name(fd))


def _name(fd: int) -> str:
    info = ctypes.create_string_buffer(256)
    _bpf(OBJ_GET_INFO, struct.pack("<IIQ", fd, 256, ctypes.addressof(info)))
    os.close(fd)
    return info.raw[INFO_NAME : INFO_NAME + 16].partition(b"\0")[0].decode()


def source(text: str, *names: str) -> ProgramSource:
    return ProgramSource(text, {f"{NAME}_{name}": ProgramForm(ProgType.RAW_TRACEPOINT) for name in names})


def make_loader(limits: LoaderLimits | None = None) -> Loader:
    return Loader(ensure_tree(), {}, limits or LoaderLimits(deadline_s=90))


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Neither programs nor descriptors, of the tests that have a loader in this process."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert loaded_programs() == []
    assert "node" in request.fixturenames or sorted(os.listdir("/proc/self/fd")) == before


def test_program_is_loaded_and_goes_with_its_descriptor() -> None:
    with make_loader().load(source(HEAD + GOOD, "good"))[f"{NAME}_good"]:
        assert loaded_programs() == [f"{NAME}_good"]


def test_map_of_a_request_is_known_by_its_name() -> None:
    text = "__u32 zero = 0; __u64 *value = pg_lookup(extra, &zero); return value ? *value : 0;"
    with bpf.create_map(bpf.MapType.ARRAY, 4, 8, 1, "t_extra") as extra:
        bpf.update(extra.fileno(), bytes(4), struct.pack("<Q", 77))
        form = ProgramForm(ProgType.RAW_TRACEPOINT)
        request = ProgramSource(
            f"{HEAD}int {NAME}_good(void *ctx) {{ {text} }}\n", {f"{NAME}_good": form}, {"extra": extra.fileno()}
        )
        with make_loader().load(request)[f"{NAME}_good"] as program:
            assert bpf.run_raw_tracepoint(program.fileno()) == 77


def test_program_for_a_function_that_is_refused_has_the_kernels_words() -> None:
    """A kernel that has no such programs says no more than that."""
    form = ProgramForm(ProgType.TRACING, 24)
    words = rf"{NAME}_good: bpf\(PROG_LOAD {NAME}_good\): (EPERM|EINVAL .*; .*btf_id)"
    with pytest.raises(LoaderError, match=words) as caught:
        make_loader().load(ProgramSource(HEAD + GOOD, {f"{NAME}_good": form}))
    assert (caught.value.stage, caught.value.too_large) == ("load", False)


def test_compiler_error_is_told_in_its_words() -> None:
    with pytest.raises(LoaderError, match="use of undeclared identifier 'no_such_name'") as caught:
        make_loader().load(source(NOT_C, "bad"))
    assert caught.value.stage == "compile"


def test_verifier_error_has_its_last_lines_and_unloads_what_was_good() -> None:
    with pytest.raises(LoaderError, match="invalid mem access 'scalar'") as caught:
        make_loader().load(source(NOT_SAFE, "good", "wild"))
    assert caught.value.stage == "load"
    assert "processed" in caught.value.log


def test_program_that_is_not_in_the_text_is_an_error() -> None:
    with pytest.raises(LoaderError, match="absent"):
        make_loader().load(source(HEAD + GOOD, "good", "absent"))


def test_deadline_ends_the_loader() -> None:
    with pytest.raises(LoaderError, match=r"no answer in 0\.05 s") as caught:
        make_loader(LoaderLimits(deadline_s=0.05)).load(source(HEAD + GOOD, "good"))
    assert caught.value.stage == "deadline"


def test_memory_limit_is_named() -> None:
    with pytest.raises(LoaderError, match="64 MiB"):
        make_loader(LoaderLimits(90, 64 << 20)).load(source(HEAD + GOOD, "good"))


def test_program_that_is_too_long_for_its_jumps_is_refused() -> None:
    with pytest.raises(LoaderError, match=f"{NAME}_long has 3300[0-9] instructions, at most 32767") as caught:
        make_loader().load(source(HEAD + GOOD + TOO_LONG, "good", "long"))
    assert (caught.value.too_large, caught.value.programs) == (True, (f"{NAME}_long",))


def busy(name: str, rounds: int, body: str) -> str:
    """A program with a loop that the verifier follows round by round."""
    return f"int {NAME}_{name}(void *ctx) {{ __u64 x = 0, i; for (i = 0; i < {rounds}; i++) {{ {body} }} return x; }}\n"


BRANCHES = "x += bpf_get_prandom_u32(); if (x == 77) break;"
STRAIGHT = 'x = x * 3 + i; asm volatile("" : "+r"(x));' * 20


@pytest.mark.parametrize(("rounds", "body"), [(20_000, BRANCHES), (40_000, STRAIGHT)], ids=["branches", "instructions"])
def test_all_programs_that_the_verifier_gives_up_on_are_named(rounds: int, body: str) -> None:
    text = HEAD + busy("one", rounds, body) + GOOD + busy("two", rounds, body) + busy("three", 10, body)
    with pytest.raises(LoaderError, match=f"gave up on {NAME}_one: it is too large") as caught:
        make_loader().load(source(text, "one", "good", "two", "three"))
    assert (caught.value.stage, caught.value.too_large) == ("load", True)
    assert caught.value.programs == (f"{NAME}_one", f"{NAME}_two")


def test_program_whose_variables_do_not_fit_is_named() -> None:
    stack = "volatile char room[600]; int i; for (i = 0; i < 600; i += 8) room[i] = i; return room[8];"
    text = f"{HEAD}{GOOD}int {NAME}_stack(void *ctx) {{ {stack} }}\n"
    with pytest.raises(LoaderError, match="BPF stack limit of 512 bytes") as caught:
        make_loader().load(source(text, "good", "stack"))
    assert (caught.value.stage, caught.value.programs, caught.value.too_large) == ("compile", (f"{NAME}_stack",), True)


def test_error_that_smaller_programs_would_have_too_is_not_one_of_size() -> None:
    with pytest.raises(LoaderError, match="invalid mem access") as caught:
        make_loader().load(source(NOT_SAFE, "wild"))
    assert (caught.value.too_large, caught.value.programs) == (False, ())


def test_loader_that_is_killed_is_an_error() -> None:
    done = threading.Event()
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(make_loader().load, source(LONG, "0"))
        loading.add_done_callback(lambda _: done.set())
        child = wait_until(_loader_child, 20, "the loader process")
        system.kill_processes([child])
        with pytest.raises(LoaderError, match="it ended with status -9"):
            loading.result(30)
    assert done.is_set()


def _loader_child() -> int:
    """The loader that this process started; 0 while there is none."""
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            if "agent.kernel.loader_main" in system.read_cmdline(int(pid)):
                return int(pid)
    return 0


def test_process_that_is_started_early_has_its_compiler_before_it_is_asked() -> None:
    loader = make_loader()
    with loader.starting():
        child = wait_until(_loader_child, 20, "the loader process")
        wait_until(lambda: "libbcc" in Path(f"/proc/{child}/maps").read_text(), 60, "the compiler")
        with loader.load(source(HEAD + GOOD, "good"))[f"{NAME}_good"]:
            assert not Path(f"/proc/{child}").exists()
        with loader.load(source(HEAD + GOOD, "good"))[f"{NAME}_good"]:
            assert loaded_programs() == [f"{NAME}_good"]
    assert _loader_child() == 0


def test_process_that_is_started_for_nothing_is_ended() -> None:
    loader = make_loader()
    with loader.starting():
        assert wait_until(_loader_child, 20, "the loader process")
    assert _loader_child() == 0
    with pytest.raises(KeyError):
        _fail_while_starting(loader)
    assert _loader_child() == 0


def _fail_while_starting(loader: Loader) -> None:
    with loader.starting():
        assert wait_until(_loader_child, 20, "the loader process")
        raise KeyError


def test_process_that_ends_before_it_is_asked_is_replaced() -> None:
    loader = make_loader()
    with loader.starting():
        child = wait_until(_loader_child, 20, "the loader process")
        system.kill_processes([child])
        wait_until(lambda: not system.read_cmdline(child), 20, "its end")
        with loader.load(source(HEAD + GOOD, "good"))[f"{NAME}_good"]:
            assert loaded_programs() == [f"{NAME}_good"]


def test_there_may_be_no_process_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(LoaderError, match="no process for the compiler: No such file") as caught:
        make_loader().load(source(HEAD + GOOD, "good"))
    assert caught.value.stage == "start"
    with pytest.raises(LoaderError, match="no process"), make_loader().starting():
        pytest.fail("there is none")


def test_request_has_more_descriptors_than_one_message_takes() -> None:
    text = "__u32 zero = 0; __u64 *value = pg_lookup(extra_299, &zero); return value ? *value : 0;"
    with (
        bpf.create_map(bpf.MapType.ARRAY, 4, 8, 1, "t_extra") as extra,
        bpf.create_map(bpf.MapType.ARRAY, 4, 8, 1, "t_other") as other,
    ):
        bpf.update(extra.fileno(), bytes(4), struct.pack("<Q", 78))
        maps = {f"extra_{n}": other.fileno() for n in range(299)} | {"extra_299": extra.fileno()}
        request = replace(source(f"{HEAD}int {NAME}_good(void *ctx) {{ {text} }}\n", "good"), maps=maps)
        with make_loader().load(request)[f"{NAME}_good"] as program:
            assert bpf.run_raw_tracepoint(program.fileno()) == 78


# Each selector walks over the whole text, and the verifier with it: after a million steps it gives up.
TOO_LARGE = policy(
    "too-large",
    kprobe("openat", {1: "string"}, *(selector(match(1, "SubString", f"needle-{n}")) for n in range(40))),
    namespace="n",
)


def test_policy_that_does_not_load_is_listed_and_leaves_the_others(node: Node, tmp_path: Path) -> None:
    node.add(lseek_policy("kept", namespace="default"))
    file = tmp_path / "more.json"
    file.write_text(json.dumps(TOO_LARGE))
    refused = node.agent.cli("policy", "add", str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "openat: one hook is too large for a program" in refused.stderr
    listed = node.agent.cli("policy", "list")
    assert listed.returncode == 1
    assert ["load_error" in line for line in listed.stdout.splitlines() if "too-large" in line] == [True]
    assert node.agent.control.status().policies == 1
    with node.container() as group:
        assert group.call("lseek", -1, 0, 0).killed
    node.agent.control.delete("too-large", "n")
    assert node.agent.cli("policy", "list").returncode == 0


def test_replacement_that_does_not_load_leaves_the_old_rules(node: Node) -> None:
    node.add(lseek_policy("too-large", namespace="n"))
    with pytest.raises(RemoteError, match="one hook is too large for a program"):
        node.add(TOO_LARGE)
    status = next(status for status in node.agent.control.list().policies if status.name == "too-large")
    assert (status.state, status.error != "", list(status.hooks)) == ("enabled", True, ["lseek"])
    with node.container("n") as group:
        assert group.call("lseek", -1, 0, 0).killed


def test_replacing_a_policy_leaves_no_gap(node: Node) -> None:
    node.add(lseek_policy("p", namespace="default"))
    with node.container() as group, ThreadPoolExecutor() as pool:
        replacing = pool.submit(replace_often, node)
        statuses: list[int] = []
        while not replacing.done() or len(statuses) < 50:
            statuses.append(group.call("lseek", -1, 0, 0).status)
        replacing.result()
    assert set(statuses) == {-9}


def replace_often(node: Node) -> None:
    """Other content each time, with the same effect on lseek(-1)."""
    for number in range(4):
        node.add(lseek_policy("p", match(0, "Equal", -1, -1000 - number), namespace="default"))
    for number in range(3):
        node.add(lseek_policy(f"p-{number}", namespace="default"))
        node.agent.control.delete("p" if number == 0 else f"p-{number - 1}", "default")
