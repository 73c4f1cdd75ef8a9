# SPDX-License-Identifier: Apache-2.0
"""Our OCI hook below podman, with both versions of runc: what it binds, what it must not be fooled into, what it leaves
alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.container.doors import hook_setup, oci_hook, start_agent
from tests.container.stage import (
    FREE,
    KILL_LSEEK,
    KILLED,
    SETTLE_S,
    STOPPED,
    TOOLS,
    Pods,
    join_policies,
    kill_at,
    policy_text,
)
from tests.support.agent import AgentProcess
from tests.support.containerd_config import Runc
from tests.support.cri import PodSpec
from tests.support.hook import build_program, make_state
from tests.support.image import BUSYBOX, FIRST
from tests.support.names import unique_name
from tests.support.node import Node, Runtime
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME, POSTSTOP, Hook
from tests.support.podman import PODMAN_FAILED, PodmanNode, RunSpec
from tests.support.wait import wait_until
from tests.support.workload import HELD, Identity, build_calls
from tests.support.workload import Node as Bare

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

LABELS = {"app": "guarded"}
ARMING_DEADLINE_S = 2.5
MOUNT = ("busybox", "mount", "-t", "tmpfs", "none", "/tmp")
STANDING = join_policies(
    policy_text("by-namespace", Pods(namespace="guarded"), KILL_LSEEK),
    policy_text("by-label", Pods(labels=LABELS), KILL_LSEEK),
    policy_text("no-mounts", Pods(namespace="sealed"), *map(kill_at, ("mount", "pivot_root", "write", "openat"))),
    policy_text("no-first", Pods(namespace="chosen"), kill_at("execve", kind="string", value="/first")),
)
stages = pytest.mark.parametrize("stage", [CREATE_CONTAINER, CREATE_RUNTIME])
one_runc = pytest.mark.parametrize("podman", [Runc.SYSTEM], indirect=True, ids=["system"])

SLEEPS = ("35", "230")  # nanosleep, clock_nanosleep
# runc's own init needs 4 to 6 MiB; what the hook does within 4 MiB shows tests/kernel/test_hook_limits.py.
LITTLE = 10 << 20


@dataclass(frozen=True, slots=True)
class Stage:
    """A podman whose hooks call an agent."""

    podman: PodmanNode
    agent: AgentProcess

    def install(self, *names: str, runtime: str = "podman") -> None:
        for name in names:
            self.podman.add_hook(oci_hook(self.agent, name, f"--runtime={runtime}"), "podgate")

    def sleeps(self, container: str) -> bool:
        """Whether it has nothing more to do for its own start."""
        return Path(f"/proc/{self.podman.pid(container)}/syscall").read_text().split()[0] in SLEEPS

    def violate(self, spec: RunSpec) -> tuple[int, str]:
        outcome = self.podman.run(replace(spec, image=FIRST.reference))
        return outcome.status, outcome.stdout

    def status(self, spec: RunSpec, *command: str) -> int:
        return self.podman.run(replace(spec, image=TOOLS.reference, command=command)).status


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with start_agent("none", "--arming-deadline", str(ARMING_DEADLINE_S)) as running:
        running.add(STANDING)
        yield running


@pytest.fixture(params=list(Runc), ids=lambda runc: runc.name.lower(), scope="module")
def podman(request: pytest.FixtureRequest) -> Iterator[PodmanNode]:
    with PodmanNode(request.param, (BUSYBOX, FIRST, TOOLS)) as node:
        yield node


@pytest.fixture
def at(podman: PodmanNode, agent: AgentProcess) -> Iterator[Stage]:
    yield Stage(podman, agent)
    podman.clear_hooks()
    for container in podman.list_containers():
        podman.remove(container)
    hook_setup(agent).rule.unlink(missing_ok=True)


def pod(namespace: str, labels: Mapping[str, str] | None = None, **fields: Any) -> RunSpec:
    """A container with the annotations that say its pod."""
    annotations = {
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.name": "pod",
        "io.kubernetes.pod.uid": unique_name("uid"),
        "io.kubernetes.container.name": "main",
    }
    if labels:
        annotations["io.kubernetes.cri-o.Labels"] = json.dumps(labels)
    return RunSpec(annotations=annotations, **fields)


@stages
def test_first_instruction_is_stopped_where_a_policy_selects(at: Stage, stage: str) -> None:
    at.install(stage)
    assert at.violate(pod("guarded")) == STOPPED
    assert at.violate(pod("other")) == FREE
    assert at.violate(pod("other", LABELS)) == STOPPED
    assert at.violate(pod("other", {"app": "guarded2"})) == FREE


@stages
def test_container_without_a_pod_is_no_pods(at: Stage, stage: str) -> None:
    at.install(stage)
    assert at.violate(RunSpec(labels=LABELS)) == FREE


@stages
def test_container_with_a_cgroup_namespace(at: Stage, stage: str) -> None:
    at.install(stage)
    assert at.violate(pod("guarded", cgroup_namespace=True)) == STOPPED
    assert at.violate(pod("other", cgroup_namespace=True)) == FREE


def test_container_with_a_user_namespace(at: Stage) -> None:
    at.install(CREATE_RUNTIME)
    assert at.violate(pod("guarded", user_namespace=True, cgroup_namespace=True)) == STOPPED
    assert at.violate(pod("other", user_namespace=True, cgroup_namespace=True)) == FREE


@one_runc
def test_hook_in_a_user_namespace_reaches_no_agent_and_the_failure_rule_counts(at: Stage) -> None:
    at.install(CREATE_CONTAINER)
    hook_setup(at.agent).write_rule("default closed")
    outcome = at.podman.run(pod("guarded", user_namespace=True, image=FIRST.reference))
    assert outcome.status in PODMAN_FAILED
    assert "Permission denied" in outcome.stderr or "EACCES" in outcome.stderr


@stages
def test_setup_is_not_checked_and_the_entrypoint_is(at: Stage, stage: str) -> None:
    at.install(stage)
    assert at.status(pod("sealed"), "true") == 0
    assert at.status(pod("sealed"), *MOUNT) == KILLED
    assert at.status(pod("other"), *MOUNT) == 1
    assert at.violate(pod("chosen")) == STOPPED
    assert at.status(pod("chosen"), "true") == 0


@stages
def test_other_hook_of_the_container_does_not_arm_it(at: Stage, stage: str) -> None:
    """podman runs hooks in the order of their names: this one before ours and one behind it."""
    made = at.podman.new_folder() / "made"
    script = f"/bin/sh -c 'exec /bin/true'; echo made >>{made}"
    for name in ("a-first", "z-last"):
        at.podman.add_hook(Hook(CREATE_CONTAINER, Path("/bin/sh"), ("-c", script)), name)
    at.install(stage)
    armed = at.agent.control.status().counters["armed"]
    assert at.status(pod("sealed"), "true") == 0
    assert at.status(pod("sealed"), *MOUNT) == KILLED
    assert at.violate(pod("guarded")) == STOPPED
    assert made.read_text() == "made\n" * 6
    assert at.agent.control.status().counters["armed"] - armed == 3


@stages
def test_exec_is_covered_and_its_helper_is_not(at: Stage, stage: str) -> None:
    at.install(stage)
    sleeping = {name: replace(pod(name), image=TOOLS.reference, command=("sleep", "1000")) for name in ("guarded", "x")}
    guarded, other = (at.podman.create(spec) for spec in sleeping.values())
    for container in (guarded, other):
        assert at.podman.start(container).status == 0
    wait_until(lambda: all(map(at.sleeps, (guarded, other))), 20.0, "their own start to be over")
    at.agent.add(policy_text("no-setup", Pods(namespace="x"), *map(kill_at, ("setns", "prctl", "close", "capset"))))
    try:
        assert at.podman.exec(guarded, "/first").status == KILLED
        done = at.podman.exec(other, "/first")
        assert (done.status, done.stdout) == FREE, done.stderr
    finally:
        at.agent.control.delete("no-setup", "x")


@one_runc
@stages
def test_container_that_is_started_long_after_its_creation(at: Stage, stage: str, tmp_path: Path) -> None:
    """podman init creates it in the OCI runtime. The deadline of another one, bound later, has passed meanwhile."""
    at.install(stage)
    violating = at.podman.create(replace(pod("guarded"), image=FIRST.reference))
    harmless = at.podman.create(replace(pod("sealed"), image=TOOLS.reference, command=("true",)))
    for container in (violating, harmless):
        at.podman.init(container)
    await_arming_deadline(at.agent, tmp_path)
    assert [at.podman.start(container).status for container in (violating, harmless)] == [0, 0]
    assert at.podman.wait_exit(violating) == KILLED
    assert at.podman.log_text(violating) == ""
    assert at.podman.wait_exit(harmless) == 0


def await_arming_deadline(agent: AgentProcess, folder: Path) -> None:
    """Until a container has passed it that the NRI plugin could have announced now."""
    before = agent.control.status().outcomes["armed_late"]
    bare = Bare(agent, build_calls(folder))
    with bare.cgroup() as group:
        waiting = group.start(["wait"])
        waiting.await_waiting()
        bare.announce(waiting.pid, Identity(), HELD)
        wait_until(lambda: agent.control.status().outcomes["armed_late"] > before, SETTLE_S, "the arming deadline")
        waiting.end()
    bare.close()


def test_poststop_forgets_the_container(at: Stage) -> None:
    at.install(CREATE_RUNTIME, POSTSTOP)
    container = at.podman.create(replace(pod("guarded"), image=TOOLS.reference, command=("sleep", "1000")))
    assert at.podman.start(container).status == 0
    assert told(at.agent, "bound", container) == ["hook:createRuntime"]
    at.podman.remove(container)
    wait_until(lambda: told(at.agent, "unbound", container), SETTLE_S, "the poststop hook")
    assert told(at.agent, "unbound", container) == ["hook:poststop"]
    assert told(at.agent, "cgroup_removed", container) in ([], [None])


def told(agent: AgentProcess, event: str, container: str) -> list[str | None]:
    """The stages of the agent's log lines about a container."""
    return [
        line.get("stage")
        for line in agent.background.lines()
        if (line["event"], line.get("container_id")) == (event, container)
    ]


@stages
def test_container_with_little_memory(at: Stage, stage: str) -> None:
    at.install(stage)
    assert at.violate(pod("guarded", memory_bytes=LITTLE)) == STOPPED
    assert at.violate(pod("other", memory_bytes=LITTLE)) == FREE


@one_runc
def test_labels_of_a_cri_o_sandbox_stand_in_its_annotations(at: Stage) -> None:
    at.install(CREATE_CONTAINER, runtime="crio")
    assert at.violate(crio(pod("other", LABELS), "sandbox")) == STOPPED
    assert at.violate(crio(pod("other", {"app": "x"}), "sandbox")) == FREE
    assert at.violate(crio(pod("guarded"), "sandbox")) == STOPPED


@pytest.fixture(scope="module")
def runtime() -> Iterator[Node]:
    with Node(Runtime.CONTAINERD_2) as running:
        yield running


def test_labels_of_a_cri_o_container_come_from_the_runtime(runtime: Node) -> None:
    """Of cri-o's annotations a container's Labels are its own, without those of the pod."""
    guarded = runtime.cri.run_pod(PodSpec("web", "other", LABELS))
    plain = runtime.cri.run_pod(PodSpec("plain", "other"))
    with start_agent(runtime.socket) as agent, PodmanNode(images=(FIRST,)) as podman:
        agent.add(STANDING)
        at = Stage(podman, agent)
        at.install(CREATE_CONTAINER, runtime="crio")
        hook_setup(agent).write_rule("default closed")
        assert at.violate(crio(pod("other"), "container", guarded.id, "web")) == STOPPED
        assert at.violate(crio(pod("other", LABELS), "container", plain.id, "plain")) == FREE
        unknown = at.violate(crio(pod("other"), "container", plain.id, "web"))
        assert unknown[0] in PODMAN_FAILED


def crio(spec: RunSpec, kind: str, sandbox: str = "", name: str = "pod") -> RunSpec:
    """With the annotations that cri-o adds to those of podman."""
    prefix = "io.kubernetes.cri-o."
    added = {prefix + "ContainerID": "told-by-cri-o", prefix + "ContainerType": kind, prefix + "SandboxID": sandbox}
    return replace(spec, annotations={**spec.annotations, **added, "io.kubernetes.pod.name": name})


HOSTILE = {
    "torn": b'{"id":"c1","pid":',
    "not an object": b"[]",
    "no id": make_state(id=""),
    "an id with a line break": make_state(id="a\nb"),
    "no bundle": make_state(bundle=""),
    "a bundle that is not there": make_state(bundle="/no/such"),
    "a relative bundle": make_state(bundle="../../etc"),
    "pid of init": make_state(pid=1),
    "a negative pid": make_state(pid=-1),
    "a key twice": b'{"id":"a","id":"b","bundle":"/x","pid":5}',
    "nested deeply": b'{"annotations":' * 5000,
}


@one_runc
@stages
@pytest.mark.parametrize("state", HOSTILE.values(), ids=HOSTILE)
def test_state_that_says_nonsense_is_refused_although_root_says_it(at: Stage, stage: str, state: bytes) -> None:
    setup = hook_setup(at.agent)
    setup.write_rule("default closed")
    wait_until(lambda: at.agent.control.status().containers == 0, 60.0, "earlier containers to be forgotten")
    before = at.agent.control.status()
    done = setup.run(stage, state=state)
    assert done.status == 1
    assert "refused: " in done.errors
    after = at.agent.control.status()
    assert (after.pid, after.containers, after.bindings) == (before.pid, before.containers, before.bindings)


@one_runc
@stages
def test_whole_state_of_no_container_is_refused(at: Stage, stage: str, tmp_path: Path) -> None:
    """By root, with a bundle that can be read: what calls is not in a container's cgroup."""
    (tmp_path / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": "/"}}))
    setup = hook_setup(at.agent)
    setup.write_rule("default closed")
    wait_until(lambda: at.agent.control.status().containers == 0, 60.0, "earlier containers to be forgotten")
    done = setup.run(stage, state=make_state(None, bundle=str(tmp_path), pid=os.getpid()))
    assert (done.status, "FAILED_PRECONDITION" in done.errors) == (1, True)
    assert at.agent.control.status().containers == 0


@one_runc
def test_caller_that_is_not_root_is_refused(at: Stage) -> None:
    """Although somebody gave it the socket."""
    folder = at.podman.new_folder()
    program = Path(shutil.copy(build_program(sanitize=False), folder / "hook"))
    at.agent.run_dir.chmod(0o711)
    at.agent.socket.chmod(0o666)
    try:
        done = subprocess.run(
            [program, f"--agent-socket={at.agent.socket}", f"--failure-rule={folder}/rule", "poststop"],
            input=make_state(),
            capture_output=True,
            user=65534,
            group=65534,
            env={},
            timeout=20,
            check=False,
        )
    finally:
        at.agent.socket.chmod(0o660)
        at.agent.run_dir.chmod(0o700)
    assert "PERMISSION_DENIED" in done.stderr.decode()
    assert "it is not root but uid 65534" in done.stderr.decode()


@one_runc
@pytest.mark.parametrize("call", ["createContainer", "createRuntime", "poststop"])
def test_hook_call_from_a_container_that_has_the_socket_is_refused(at: Stage, call: str) -> None:
    at.install(CREATE_CONTAINER)
    script = f"echo '{make_state().decode()}' | /hook/podgate-hook --agent-socket=/agent/agent.sock {call} 2>&1"
    mounts = {"/agent": at.agent.run_dir, "/hook": build_program(sanitize=False).parent}
    spec = replace(pod("other"), image=TOOLS.reference, command=("sh", "-c", script), mounts=mounts)
    outcome = at.podman.run(spec)
    assert "PERMISSION_DENIED" in outcome.stdout
    assert "its root directory is not the host's: it is in a container" in outcome.stdout


@one_runc
@pytest.mark.parametrize("call", ["bind", "unbind", "synchronize", "status", "delete"])
def test_other_calls_from_a_container_that_has_the_socket_are_refused(at: Stage, call: str) -> None:
    at.install(CREATE_CONTAINER)
    mounts = {"/agent": at.agent.run_dir}
    spec = replace(pod("other"), image=TOOLS.reference, command=("sleep", "1000"), mounts=mounts)
    container = at.podman.create(spec)
    assert at.podman.start(container).status == 0
    before = at.agent.control.status()
    command = [sys.executable, "-m", "tests.container.intruder", str(at.podman.pid(container)), "/agent", call]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "PERMISSION_DENIED" in done.stdout, done.stdout + done.stderr
    assert "it is in a container of namespace other" in done.stdout
    after = at.agent.control.status()
    assert (after.outcomes["denied"] - before.outcomes["denied"], after.policies) == (1, before.policies)
    at.podman.remove(container)
