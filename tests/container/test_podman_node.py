# SPDX-License-Identifier: Apache-2.0
"""Real podman nodes: a container's life, what a hook sees at each stage, what its failure does, and a clean end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.stage import cgroup_directory
from tests.support import system
from tests.support.containerd_config import Runc
from tests.support.image import FIRST
from tests.support.leftovers import collect_leftovers
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME, POSTSTOP, Hook, Record, Recorder
from tests.support.podman import PODMAN_FAILED, PodmanError, PodmanNode, RunSpec
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

SLEEP = RunSpec(command=("sleep", "1000"))
TRUE = RunSpec(command=("true",))


@pytest.fixture(params=list(Runc), ids=lambda runc: runc.name.lower(), scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[PodmanNode]:
    with PodmanNode(request.param) as node:
        yield node


@pytest.fixture
def node(running: PodmanNode) -> Iterator[PodmanNode]:
    yield running
    running.clear_hooks()


@pytest.fixture
def recorder(node: PodmanNode) -> Recorder:
    return Recorder(node.new_folder())


def record_of(recorder: Recorder, stage: str, container: str = "") -> Record:
    """The only run at a stage."""
    (found,) = (record for record in recorder.records(container) if record.stage == stage)
    return found


def test_runc_is_the_one_that_was_asked_for(node: PodmanNode) -> None:
    text = subprocess.run([node.runc.path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"runc version (\d+)\.(\d+)\.", text)
    assert found is not None
    version = tuple(map(int, found.groups()))
    assert version == (1, 1) if node.runc is Runc.SYSTEM else version >= (1, 3)


def test_container_runs_and_its_output_and_status_come_back(node: PodmanNode) -> None:
    outcome = node.run(RunSpec(command=("sh", "-c", "echo out; echo err >&2; exit 3")))
    assert (outcome.status, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n")
    assert node.list_containers() == []


def test_image_without_a_command_runs_its_entrypoint(node: PodmanNode) -> None:
    assert node.run(RunSpec(image=FIRST.reference)).stdout == "Bad file descriptor\n"


def test_container_in_the_background_has_its_cgroup_limit_mounts_and_marks(node: PodmanNode, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("content")
    spec = RunSpec(
        command=("sleep", "1000"),
        annotations={"team": "a"},
        labels={"app": "web"},
        mounts={"/mnt": tmp_path},
        memory_bytes=64 << 20,
    )
    container = node.create(spec)
    assert node.pid(container) == 0
    assert node.start(container).status == 0
    assert cgroup_directory(node.pid(container)).parts[-2:] == (node.name, f"libpod-{container}")
    assert node.exec(container, "cat", "/mnt/given").stdout == "content"
    described = node.inspect(container)
    assert described["HostConfig"]["Memory"] == 64 << 20
    assert described["Config"]["Annotations"]["team"] == "a"
    assert described["Config"]["Labels"] == {"app": "web"}
    assert node.list_containers() == [container]
    node.kill(container)
    assert node.wait_exit(container) == 137
    node.remove(container)
    assert node.list_containers() == []


def test_log_of_a_container_in_the_background(node: PodmanNode) -> None:
    container = node.launch(RunSpec(command=("echo", "hello")))
    assert node.wait_exit(container) == 0
    assert node.log_text(container) == "hello\n"
    node.remove(container)


def test_create_container_hook_runs_in_the_container_cgroup_below_its_init(
    node: PodmanNode, recorder: Recorder
) -> None:
    node.add_hook(recorder.hook(CREATE_CONTAINER))
    container = node.create(SLEEP)
    assert recorder.records() == []
    assert node.start(container).stderr == ""
    record = record_of(recorder, CREATE_CONTAINER, container)
    assert record.cgroup == f"/{node.name}/libpod-{container}"
    assert record.ppid == node.pid(container)
    assert record.parent.startswith("runc:[2:INIT]")
    assert record.state["pid"] == 1
    node.remove(container)


def test_create_runtime_hook_runs_beside_the_runtime_and_knows_the_init(node: PodmanNode, recorder: Recorder) -> None:
    node.add_hook(recorder.hook(CREATE_RUNTIME))
    container = node.launch(SLEEP)
    record = record_of(recorder, CREATE_RUNTIME, container)
    assert record.state["pid"] == node.pid(container)
    assert record.state["bundle"] == record.cwd == str(node.bundle(container))
    assert node.name not in record.cgroup
    assert record.parent == "runc"
    assert (node.bundle(container) / "config.json").is_file()
    node.remove(container)


def test_state_carries_the_annotations_and_not_the_labels(node: PodmanNode, recorder: Recorder) -> None:
    node.add_hook(recorder.hook(CREATE_CONTAINER))
    outcome = node.run(RunSpec(command=("true",), annotations={"team": "a"}, labels={"app": "web"}))
    assert outcome.stderr == ""
    annotations = record_of(recorder, CREATE_CONTAINER).state["annotations"]
    assert annotations["team"] == "a"
    assert annotations["io.container.manager"] == "libpod"
    assert "app" not in annotations


def test_poststop_hook_runs_once_the_container_has_gone(node: PodmanNode, recorder: Recorder) -> None:
    node.add_hook(recorder.hook(POSTSTOP))
    assert node.run(TRUE).status == 0
    record = record_of(recorder, POSTSTOP)
    assert record.state["status"] == "stopped"
    assert "pid" not in record.state


def test_hook_in_a_user_and_a_cgroup_namespace(node: PodmanNode, recorder: Recorder) -> None:
    node.add_hook(recorder.hook(CREATE_CONTAINER))
    spec = RunSpec(command=("cat", "/proc/self/uid_map"), user_namespace=True, cgroup_namespace=True)
    assert node.run(spec).stdout.split() == ["0", "100000", "65536"]
    assert record_of(recorder, CREATE_CONTAINER).cgroup == "/"


def test_another_podman_does_not_lock_a_container_in_a_user_namespace_out(node: PodmanNode) -> None:
    """It hands the folders above all container roots to the root of its own container, and 0700 would close them."""
    outcome = node.run(RunSpec(command=("echo", "started"), user_namespace=True))
    assert outcome.stdout == "started\n", outcome.stderr
    above = [node.folder / path for path in ("root", "root/vfs", "root/vfs/dir")]
    assert [folder.stat().st_mode & 0o777 for folder in above] == [0o711] * 3


@pytest.mark.parametrize("stage", [CREATE_RUNTIME, CREATE_CONTAINER])
def test_status_1_of_a_hook_refuses_the_start(node: PodmanNode, recorder: Recorder, stage: str) -> None:
    node.add_hook(recorder.hook(stage, status=1))
    outcome = node.run(RunSpec(command=("echo", "ran")))
    assert outcome.status in PODMAN_FAILED
    assert outcome.stdout == ""
    assert "exit status 1" in outcome.stderr
    assert [record.stage for record in recorder.records()] == [stage]
    assert node.list_containers() == []
    with pytest.raises(PodmanError, match="exit status 1"):
        node.launch(SLEEP)
    assert node.list_containers() != []
    node.remove(*node.list_containers())


def test_hook_beyond_its_timeout_refuses_the_start(node: PodmanNode) -> None:
    node.add_hook(Hook(CREATE_CONTAINER, Path("/bin/sleep"), ("1000",), timeout_s=1))
    outcome = node.run(RunSpec(command=("echo", "ran")))
    assert outcome.status in PODMAN_FAILED
    assert outcome.stdout == ""


def test_one_file_that_cannot_be_parsed_refuses_every_container(node: PodmanNode, recorder: Recorder) -> None:
    node.add_hook(recorder.hook(CREATE_CONTAINER))
    (node.hooks_dir / "torn.json").write_text('{"version":')
    outcome = node.run(RunSpec(command=("echo", "ran")))
    assert outcome.status in PODMAN_FAILED
    assert "torn.json" in outcome.stderr
    assert recorder.records() == []


def test_file_with_another_ending_is_not_read(node: PodmanNode) -> None:
    (node.hooks_dir / "torn.json.part").write_text('{"version":')
    assert node.run(TRUE).status == 0


def test_hooks_directory_of_one_run_replaces_the_node_s(node: PodmanNode, recorder: Recorder, tmp_path: Path) -> None:
    node.add_hook(recorder.hook(CREATE_CONTAINER))
    assert node.run(RunSpec(command=("true",), hooks_dir=tmp_path)).status == 0
    assert recorder.records() == []


def test_command_that_podman_refuses_is_an_error_with_its_words(node: PodmanNode) -> None:
    with pytest.raises(PodmanError, match="no such container"):
        node.inspect("absent")
    with pytest.raises(PodmanError, match="localhost/absent"):
        node.create(RunSpec(image="localhost/absent:1"))


def test_stop_leaves_nothing_of_a_container_that_runs_or_of_one_that_hangs_in_a_hook() -> None:
    before = collect_leftovers()
    node = PodmanNode()
    container = node.launch(SLEEP)
    pid = node.pid(container)
    node.add_hook(Hook(CREATE_CONTAINER, Path("/bin/sleep"), ("1000",)))
    hanging = node.popen(SLEEP)
    wait_until(lambda: system.find_processes(str(node.folder)) and is_hook_running(node), 20, "the hook to hang")
    assert collect_leftovers() > before
    node.stop()
    hanging.wait()
    assert not system.is_running(pid)
    wait_until(lambda: not collect_leftovers() - before, 10, "processes to be reaped")
    assert not node.folder.exists()
    node.stop()


def is_hook_running(node: PodmanNode) -> bool:
    """Whether a process named sleep is the child of a runc init of this node."""
    members = [pid for tree in system.cgroup_trees(node.name) for pid in system.cgroup_members(tree)]
    return any(system.read_cmdline(pid) == "sleep 1000" and parent_of(pid) in members for pid in members)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_node_that_cannot_load_an_image_cleans_up() -> None:
    class Broken(PodmanNode):
        def _must(self, *args: str) -> str:
            raise PodmanError(args, "as told")

    before = collect_leftovers()
    with pytest.raises(PodmanError, match="as told"):
        Broken()
    assert collect_leftovers() == before
