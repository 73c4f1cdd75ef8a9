# SPDX-License-Identifier: Apache-2.0
"""podgate-hook puts containers into quarantine by running pinned programs; those of these tests record their input."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.instructions import encode, load_map
from agent.kernel.mounts import BPFFS, ensure_bpffs
from tests.support.hook import HookSetup, build_program, make_state
from tests.support.names import unique_name
from tests.support.workload import Cgroup, Running

pytestmark = pytest.mark.kernel

RECORD = struct.Struct("<QQQQ")
# enum bpf_func_id.
MAP_LOOKUP_ELEM = 1
GET_CURRENT_CGROUP_ID = 80


def _recorder(map_fd: int, result: int) -> bytes:
    """Puts both arguments, the caller's cgroup and a count of calls into the map's only value; returns `result`."""
    return b"".join(
        [
            encode(0xBF, 6, 1),  # r6 = the arguments
            encode(0x62, 10, 0, -4, 0),  # a key on the stack
            encode(0xBF, 2, 10),
            encode(0x07, 2, 0, 0, -4),
            load_map(1, map_fd),
            encode(0x85, immediate=MAP_LOOKUP_ELEM),
            encode(0x55, 0, 0, 2, 0),
            encode(0xB7, 0, immediate=1),
            encode(0x95),
            encode(0xBF, 7, 0),  # r7 = the value
            encode(0x79, 1, 6, 0),
            encode(0x7B, 7, 1, 0),
            encode(0x79, 1, 6, 8),
            encode(0x7B, 7, 1, 8),
            encode(0x85, immediate=GET_CURRENT_CGROUP_ID),
            encode(0x7B, 7, 0, 16),
            encode(0x79, 1, 7, 24),
            encode(0x07, 1, immediate=1),
            encode(0x7B, 7, 1, 24),
            encode(0xB7, 0, immediate=result),
            encode(0x95),
        ]
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a program was given at its last call, and how often it was called."""

    cgroup_id: int
    pid: int
    own_cgroup: int
    calls: int


@dataclass(frozen=True, slots=True)
class Program:
    values: bpf.Fd

    def seen(self) -> Seen:
        value = bpf.lookup(self.values.fileno(), bytes(4), RECORD.size)
        assert value is not None
        return Seen(*RECORD.unpack(value))


@dataclass
class Pins:
    """A directory of pins of this test's own, and the one of earlier generations beside it."""

    directory: Path
    maps: list[bpf.Fd] = field(default_factory=list)

    @property
    def previous(self) -> Path:
        return self.directory.with_name(self.directory.name + "-previous")

    def add(self, directory: Path, result: int = 0) -> Program:
        """A generation with a program that returns this."""
        directory.mkdir(parents=True, exist_ok=True)
        values = bpf.create_map(bpf.MapType.ARRAY, 4, RECORD.size, 1, "seen")
        self.maps.append(values)
        with bpf.load_program(bpf.ProgType.RAW_TRACEPOINT, _recorder(values.fileno(), result), "quarantine") as program:
            bpf.pin(program.fileno(), str(directory / "quarantine"))
        return Program(values)

    def pin_map(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bpf.create_map(bpf.MapType.ARRAY, 4, 4, 1, "other") as other:
            bpf.pin(other.fileno(), str(path))

    def close(self) -> None:
        for values in self.maps:
            values.close()
        for directory in (self.directory, self.previous):
            if directory.exists():
                shutil.rmtree(directory)


@pytest.fixture
def pins() -> Iterator[Pins]:
    ensure_bpffs()
    pins = Pins(BPFFS / unique_name("pins"))
    try:
        yield pins
    finally:
        pins.close()


@pytest.fixture(params=[False, True], ids=["plain", "sanitized"])
def hook(request: pytest.FixtureRequest, tmp_path: Path, pins: Pins) -> HookSetup:
    """Without an agent, and with a rule of quarantine."""
    setup = HookSetup(build_program(sanitize=request.param), tmp_path, pin_dir=pins.directory)
    setup.write_rule("default quarantine")
    return setup


@pytest.fixture
def group(calls_program: Path) -> Iterator[Cgroup]:
    group = Cgroup(calls_program)
    try:
        yield group
    finally:
        group.remove()


@pytest.fixture
def held(group: Cgroup) -> Running:
    """The container's process."""
    running = group.start(["wait"])
    running.await_waiting()
    return running


def run_inside(hook: HookSetup, group: Cgroup, *arguments: str, state: bytes | None = None) -> int:
    """The hook as a runtime runs it at createContainer: in the container's cgroup."""
    script = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    command = ["/bin/sh", "-c", script, str(group.path), *hook.command(*arguments, "createContainer")]
    text = make_state() if state is None else state
    return subprocess.run(command, input=text, capture_output=True, env={}, timeout=20, check=False).returncode


def check(hook: HookSetup, outcome: str, words: str) -> None:
    (decision,) = hook.decisions()
    assert (decision["treatment"], decision["outcome"]) == ("quarantine", outcome)
    assert words in decision["reason"]


def test_inside_the_container_the_program_finds_everything_itself(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    program = pins.add(pins.directory)
    assert run_inside(hook, group) == 0
    seen = program.seen()
    assert (seen.cgroup_id, seen.pid, seen.own_cgroup) == (0, 0, group.id)
    assert seen.calls > 0
    check(hook, "quarantined", "quarantine: bound to every filtered policy")


def test_on_the_host_it_is_told_cgroup_and_process(hook: HookSetup, pins: Pins, group: Cgroup, held: Running) -> None:
    program = pins.add(pins.directory)
    done = hook.run("createRuntime", state=make_state(pid=held.pid))
    assert done.status == 0
    assert (program.seen().cgroup_id, program.seen().pid) == (group.id, held.pid)
    assert "podgate-hook: createRuntime: container c1 of namespace shop starts in quarantine: agent " in done.errors
    check(hook, "quarantined", "quarantine: bound to every filtered policy")


def test_a_nested_cgroup_is_told_as_it_is(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    program = pins.add(pins.directory)
    child = group.child("with space", "container")
    running = group.start(["wait"], at=child)
    running.await_waiting()
    assert hook.run("createRuntime", state=make_state(pid=running.pid)).status == 0
    assert program.seen().cgroup_id == child.stat().st_ino


def test_every_generation_is_told(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    programs = [pins.add(pins.previous / "1"), pins.add(pins.directory), pins.add(pins.previous / "12")]
    pins.pin_map(pins.previous / "stray")
    assert run_inside(hook, group) == 0
    assert all(program.seen().own_cgroup == group.id for program in programs)


def test_an_earlier_generation_alone_is_enough(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    program = pins.add(pins.previous / "7")
    assert run_inside(hook, group) == 0
    assert program.seen().calls == 1


def test_many_generations_are_all_told(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    programs = [pins.add(pins.previous / f"{'9' * 60}{i:03}") for i in range(200)]
    assert run_inside(hook, group) == 0
    assert all(program.seen().calls == 1 for program in programs)


@pytest.mark.parametrize("refusing", ["", "-previous/1", "-previous/2"])
def test_one_generation_that_refuses_is_enough_to_refuse(
    hook: HookSetup, pins: Pins, group: Cgroup, refusing: str
) -> None:
    for where in ("", "-previous/1", "-previous/2"):
        pins.add(Path(f"{pins.directory}{where}"), -errno.EPERM if where == refusing else 0)
    assert run_inside(hook, group) == 1
    check(hook, "closed", f"quarantine: {pins.directory}{refusing}/quarantine: EPERM (Operation not permitted)")


def test_a_result_without_a_meaning_is_none(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    pins.add(pins.directory, 5)
    assert run_inside(hook, group) == 1
    check(hook, "closed", "/quarantine: EBADMSG")


def test_what_is_no_program_is_refused(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    pins.pin_map(pins.directory / "quarantine")
    assert run_inside(hook, group) == 1
    check(hook, "closed", f"{pins.directory}/quarantine: EINVAL")


@pytest.mark.parametrize("where", ["", "-previous", "-previous/1", "-previous/1/links"])
def test_directories_on_their_way_in_or_out_are_no_generation(
    hook: HookSetup, pins: Pins, group: Cgroup, where: str
) -> None:
    Path(f"{pins.directory}{where}").mkdir(parents=True)
    assert run_inside(hook, group) == 1
    check(hook, "closed", f"quarantine: {pins.directory}: no agent's programs are pinned there")


@pytest.mark.parametrize("where", ["", "-previous/1"])
def test_a_generation_that_enforces_and_has_no_program_needs_another(
    hook: HookSetup, pins: Pins, group: Cgroup, where: str
) -> None:
    """An agent that starts, whose policies are not in force: it takes over from the other one."""
    pins.pin_map(Path(f"{pins.directory}{where}") / "links/sys_enter_lseek")
    assert run_inside(hook, group) == 1
    check(hook, "closed", f"{pins.directory}: an agent starts or stops there")
    other = pins.add(pins.previous / "2")
    assert run_inside(hook, group) == 0
    assert other.seen().calls == 1


def test_slashes_behind_the_directory_do_not_matter(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    programs = pins.add(pins.directory), pins.add(pins.previous / "1")
    assert run_inside(hook, group, f"--pin-dir={pins.directory}//") == 0
    assert all(program.seen().calls > 0 for program in programs)


def test_a_cgroup_that_is_removed_is_not_told(hook: HookSetup, pins: Pins, group: Cgroup, held: Running) -> None:
    program = pins.add(pins.directory)
    held.kill()
    group.path.rmdir()
    try:
        assert hook.run("createRuntime", state=make_state(pid=held.pid)).status == 1
    finally:
        group.path.mkdir()
    assert program.seen().calls == 0
    check(hook, "closed", "quarantine: the process's cgroup is removed")


def test_a_process_of_the_host_is_not_told(hook: HookSetup, pins: Pins) -> None:
    program = pins.add(pins.directory)
    if "\n0::/\n" not in "\n" + Path("/proc/self/cgroup").read_text():
        pytest.skip("the tests run in a cgroup of their own")
    assert hook.run("createRuntime", state=make_state(pid=os.getpid())).status == 1
    assert program.seen().calls == 0
    check(hook, "closed", "quarantine: the process is in the root cgroup")


def test_process_ids_of_another_namespace_are_not_believed(
    hook: HookSetup, pins: Pins, group: Cgroup, held: Running
) -> None:
    program = pins.add(pins.directory)
    command = ["/usr/bin/unshare", "--pid", "--fork", *hook.command("createRuntime")]
    state = make_state(pid=held.pid)
    done = subprocess.run(command, input=state, capture_output=True, env={}, timeout=20, check=False)
    assert (done.returncode, group.id > 0, program.seen().calls) == (1, True, 0)
    check(hook, "closed", "the hook is not in the initial pid namespace")


def test_a_cgroup_beyond_the_hooks_own_namespace_is_not_told(
    hook: HookSetup, pins: Pins, group: Cgroup, held: Running, calls_program: Path
) -> None:
    program = pins.add(pins.directory)
    other = Cgroup(calls_program)
    try:
        script = 'echo $$ >"$0/cgroup.procs" && exec /usr/bin/unshare --cgroup "$@"'
        command = ["/bin/sh", "-c", script, str(other.path), *hook.command("createRuntime")]
        state = make_state(pid=held.pid)
        done = subprocess.run(command, input=state, capture_output=True, env={}, timeout=20, check=False)
    finally:
        other.remove()
    assert (done.returncode, group.id > 0, program.seen().calls) == (1, True, 0)
    check(hook, "closed", "the process's cgroup is not within the hook's cgroup namespace")


def test_a_broken_state_names_no_process_to_put_anywhere(hook: HookSetup, pins: Pins, held: Running) -> None:
    program = pins.add(pins.directory)
    state = make_state(pid=held.pid)[:-1] + b',"pid":1}'
    assert hook.run("createRuntime", state=state).status == 1
    assert program.seen().calls == 0
    check(hook, "closed", "quarantine: the state tells no pid")


def test_a_broken_state_is_no_obstacle_inside_the_container(hook: HookSetup, pins: Pins, group: Cgroup) -> None:
    program = pins.add(pins.directory)
    assert run_inside(hook, group, state=b"{") == 0
    assert program.seen().own_cgroup == group.id
