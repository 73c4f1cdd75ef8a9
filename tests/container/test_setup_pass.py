# SPDX-License-Identifier: Apache-2.0
"""Through every door rules hold from the entrypoint's execve on; what the runtime does before it in the cgroup is not
the container's, and neither is what it does to start another process there.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container.doors import DOORS, Door, open_door
from tests.container.stage import (
    FREE,
    KILL_LSEEK,
    KILLED,
    SLEEP,
    STOPPED,
    TOOLS,
    VIOLATE,
    Pods,
    Stage,
    join_policies,
    kill_at,
    policy_text,
)
from tests.support.agent import EventReader
from tests.support.cri import Container, ContainerSpec
from tests.support.oci_hooks import CREATE_CONTAINER, Hook
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

MOUNT = ("busybox", "mount", "-t", "tmpfs", "none", "/tmp")
PIVOT = ("busybox", "pivot_root", "/tmp", "/tmp")
LABELS = {"app": "guarded"}
# What runc does in the container's cgroup: in its init process, and in the helper of an exec.
SETUP_CALLS = ("mount", "pivot_root", "setns", "prctl", "close", "capset", "fchdir", "openat")
STANDING = join_policies(
    policy_text("by-namespace", Pods(namespace="guarded"), KILL_LSEEK),
    policy_text("by-label", Pods(labels=LABELS), KILL_LSEEK),
    policy_text("no-mounts", Pods(namespace="sealed"), kill_at("mount"), kill_at("pivot_root")),
    # runc's init process writes into the fifo that holds it, after the container was bound.
    policy_text("no-writes", Pods(namespace="mute"), kill_at("write")),
    policy_text("no-setup", Pods(namespace="bare"), *map(kill_at, SETUP_CALLS)),
    policy_text("no-first", Pods(namespace="chosen"), kill_at("execve", kind="string", value="/first")),
    policy_text("no-execs", Pods(namespace="still"), kill_at("execve")),
)


@pytest.fixture(params=DOORS, ids=str, scope="module")
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that another's hook writes a line to, each time that it runs."""
    return tmp_path_factory.mktemp("other") / "ran"


@pytest.fixture(scope="module")
def opened(door: Door, ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """With another's hook behind ours, which starts a program, and that another one."""
    script = f"/bin/sh -c 'exec /bin/true'; echo ran >>{ran}"
    other = Hook(CREATE_CONTAINER, Path("/bin/sh"), ("-c", script))
    extra = (other,) if door.stage else ()
    with open_door(door, STANDING, tmp_path_factory.mktemp("door"), extra) as stage:
        yield stage


@pytest.fixture
def stage(opened: Stage) -> Iterator[Stage]:
    yield opened
    opened.node.cri.remove_all_pods()


@pytest.fixture(scope="module")
def events(opened: Stage) -> Iterator[EventReader]:
    with EventReader(opened.agent.run_dir) as reader:
        yield reader


def tool(*command: str) -> ContainerSpec:
    return ContainerSpec(image=TOOLS.reference, command=command)


def exit_code(stage: Stage, spec: ContainerSpec, namespace: str) -> int:
    return stage.outcome(stage.run(spec, namespace))[0]


def test_first_instruction_is_stopped_where_a_policy_selects(stage: Stage) -> None:
    assert stage.violate("guarded") == STOPPED
    assert stage.violate("other") == FREE
    assert stage.violate("other", LABELS) == STOPPED
    assert stage.violate("other", {"app": "guarded2"}) == FREE


def test_containers_that_start_at_once_are_all_guarded(stage: Stage) -> None:
    namespaces = ["guarded", "other"] * 4
    with ThreadPoolExecutor(len(namespaces)) as pool:
        results = list(pool.map(stage.violate, namespaces))
    assert results == [STOPPED, FREE] * 4


def test_start_is_counted_for_its_door(stage: Stage, door: Door) -> None:
    name = "oci" if door.stage else "nri"
    before = stage.agent.control.status()
    stage.run(SLEEP, "other")
    after = stage.agent.control.status()
    assert after.starts[name] - before.starts[name] == 1
    assert set(after.starts) == {name}
    # Containers of others on this machine may be unidentified; ours would be identified.
    assert after.unannounced.get("identified") == before.unannounced.get("identified")


def test_container_is_forgotten_when_it_is_gone(stage: Stage) -> None:
    container = stage.run(SLEEP, "guarded")
    wait_until(lambda: stage.agent.control.status().containers == 1, 20, "one container")
    stage.node.cri.remove(container)
    wait_until(lambda: stage.agent.control.status().containers == 0, 20, "no container")


@pytest.mark.parametrize("command", [MOUNT, PIVOT], ids=["mount", "pivot_root"])
def test_entrypoint_that_mounts_is_killed_and_the_runtimes_own_mounts_are_not(
    stage: Stage, command: tuple[str, ...]
) -> None:
    assert exit_code(stage, tool("true"), "sealed") == 0
    assert exit_code(stage, tool(*command), "sealed") == KILLED
    assert exit_code(stage, tool(*command), "other") == 1


def test_exec_into_a_container_is_covered(stage: Stage, events: EventReader) -> None:
    guarded, other = stage.run(SLEEP, "guarded"), stage.run(SLEEP)
    assert stage.violate_inside(guarded) == STOPPED
    assert stage.find_event(events, guarded)["container"]["name"] == SLEEP.name
    assert stage.violate_inside(other) == FREE


def test_exec_into_a_container_whose_mounts_are_forbidden(stage: Stage) -> None:
    container = stage.run(SLEEP, "sealed")
    assert stage.node.cri.exec(container, "true").exit_code == 0
    assert stage.node.cri.exec(container, *MOUNT).exit_code == KILLED


def test_what_the_runtime_calls_for_an_exec_is_not_checked(stage: Stage, events: EventReader) -> None:
    """/first makes none of these calls; the runtime's helper makes each of them in the container's cgroup."""
    container = stage.run(SLEEP, "bare-not")
    stage.agent.add(policy_text("no-setup-later", Pods(namespace="bare-not"), *map(kill_at, SETUP_CALLS)))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: stage.violate_inside(container), range(8)))
    stage.agent.control.delete("no-setup-later", "bare-not")
    assert results == [FREE] * 8
    assert not seen(events, container)


def test_probes_at_once_are_each_covered(stage: Stage) -> None:
    guarded, sealed = stage.run(SLEEP, "guarded"), stage.run(SLEEP, "sealed")
    with ThreadPoolExecutor(6) as pool:
        violations = [pool.submit(stage.violate_inside, guarded) for _ in range(6)]
        harmless = [pool.submit(stage.node.cri.exec, sealed, "true") for _ in range(6)]
    assert [each.result() for each in violations] == [STOPPED] * 6
    assert [each.result().exit_code for each in harmless] == [0] * 6


def test_setup_of_a_container_whose_every_setup_call_is_forbidden(stage: Stage, events: EventReader) -> None:
    assert stage.outcome(stage.run(VIOLATE, "bare")) == FREE
    offender = stage.run(tool(*MOUNT), "bare")
    assert stage.outcome(offender)[0] == KILLED
    assert stage.find_event(events, offender)["process"]["binary"] == "/bin/busybox"


def test_calls_of_the_held_init_process_are_not_checked(stage: Stage, events: EventReader) -> None:
    silent, loud = stage.run(tool("true"), "mute"), stage.run(tool("sh", "-c", "echo one; echo two"), "mute")
    assert stage.outcome(silent) == (0, "")
    # The call that is killed at its entry may still do its work.
    assert stage.outcome(loud) in ((KILLED, "one\n"), (KILLED, ""))
    assert stage.find_event(events, loud)["process"]["binary"] == "/bin/busybox"
    assert not seen(events, silent)


def test_other_hook_of_the_container_runs_unchecked_and_does_not_arm_it(stage: Stage, door: Door, ran: Path) -> None:
    """Its programs write and call execve behind our hook; after them the runtime goes on to mount."""
    if not door.stage:
        assert not ran.exists()
        return
    before = len(ran.read_text().splitlines()) if ran.exists() else 0
    armed = stage.agent.control.status().counters["armed"]
    assert exit_code(stage, tool("true"), "mute") == 0
    assert exit_code(stage, tool("true"), "sealed") == 0
    assert exit_code(stage, tool(*MOUNT), "sealed") == KILLED
    assert len(ran.read_text().splitlines()) - before == 3
    assert stage.agent.control.status().counters["armed"] - armed == 3


def test_container_counts_as_armed_after_its_entrypoint(stage: Stage) -> None:
    before = stage.agent.control.status()
    stage.run(SLEEP, "sealed")
    after = stage.agent.control.status()
    assert after.counters["armed"] - before.counters["armed"] == 1
    assert "armed_late" not in after.outcomes


def test_entrypoint_is_checked_by_its_path_at_its_own_execve(stage: Stage, events: EventReader) -> None:
    chosen, other = stage.run(VIOLATE, "chosen"), stage.run(tool("true"), "chosen")
    assert stage.outcome(chosen) == (KILLED, "")
    event = stage.find_event(events, chosen)
    assert (event["function"], event["args"][0]["value"]) == ("__x64_sys_execve", "/first")
    assert event["pod"]["namespace"] == "chosen"
    assert exit_code(stage, VIOLATE, "other") == 0
    assert stage.outcome(other)[0] == 0


def test_exec_is_checked_by_its_path_too(stage: Stage) -> None:
    container = stage.run(SLEEP, "chosen")
    assert stage.node.cri.exec(container, "true").exit_code == 0
    assert stage.violate_inside(container) == STOPPED


def test_path_is_checked_in_processes_that_the_entrypoint_starts(stage: Stage) -> None:
    code, output = stage.outcome(stage.run(tool("sh", "-c", "true; echo true $?; /first; echo first $?"), "chosen"))
    assert code == 0
    assert [line for line in output.splitlines() if line != "Killed"] == ["true 0", f"first {KILLED}"]


def test_forbidden_execve_leaves_no_container_running(stage: Stage, events: EventReader) -> None:
    container = stage.run(tool("true"), "still")
    assert stage.outcome(container) == (KILLED, "")
    assert stage.find_event(events, container)["policy"]["name"] == "no-execs"


def seen(events: EventReader, container: Container) -> bool:
    return any((event.get("container") or {}).get("id") == container.id for event in events.all())
