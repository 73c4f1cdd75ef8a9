# SPDX-License-Identifier: Apache-2.0
"""CriClient against real containerd: who a container is, also while the runtime is making it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cri.client import CriClient, find_socket
from agent.cri.errors import CriUnreachable
from agent.cri.model import Identified, State
from tests.container.stage import stopped
from tests.support.cri import Container, ContainerSpec, Pod, PodSpec
from tests.support.node import Node, NodeOptions, Runtime
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

VERSIONS = {Runtime.CONTAINERD_2: "2.", Runtime.CONTAINERD_1_7: "1.7."}
SLEEP = ContainerSpec(name="sleeper", command=("sleep", "1000"), annotations={"note": "kept"})
PATIENCE_S = 5.0
# While `hold` exists, a container is not made: its id is in `held`, as in a hook of the runtime.
HOLDING_RUNTIME = """#!/bin/sh
case " $* " in *" create "*)
	for id; do :; done
	[ ! -e {folder}/hold ] || printf %s "$id" >{folder}/held
	while [ -e {folder}/hold ]; do sleep 0.02; done
esac
exec /usr/sbin/runc "$@"
"""


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower(), scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the holding runtime of a node is, and its files."""
    made = tmp_path_factory.mktemp(request.param.name)
    script = made / "runtime"
    script.write_text(HOLDING_RUNTIME.format(folder=made))
    script.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    runtime = next(runtime for runtime in Runtime if runtime.name in folder.name)
    with Node(runtime, NodeOptions(oci_runtime=folder / "runtime")) as running:
        yield running


@pytest.fixture
def client(node: Node) -> Iterator[CriClient]:
    made = CriClient(node.socket, PATIENCE_S)
    yield made
    made.close()


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    made = node.cri.run_pod(PodSpec("web-0", "shop", {"app": "web"}, "u-1", {"team": "a"}))
    yield made
    node.cri.remove_pod(made)


def check_identity(found: Identified | None, pod: Pod, state: State) -> None:
    """That it is the sleeper of that pod."""
    assert found is not None
    assert (found.pod.sandbox, found.pod.namespace, found.pod.name, found.pod.uid) == (pod.id, "shop", "web-0", "u-1")
    assert found.pod.labels["app"] == "web"
    assert found.pod.annotations == {"team": "a"}
    assert found.container is not None
    assert (found.container.name, found.container.sandbox) == ("sleeper", pod.id)
    assert (found.container.image, found.container.state) == (SLEEP.image, state)
    assert found.container.labels["io.kubernetes.pod.namespace"] == "shop"
    assert found.container.annotations["note"] == "kept"


def test_it_is_the_runtime_that_it_names(node: Node, client: CriClient) -> None:
    found = client.version()
    assert (found.name, found.api) == ("containerd", "v1")
    assert found.version.startswith(VERSIONS[node.runtime])
    assert find_socket((node.folder / "absent", node.folder / "config.toml", node.socket)) == node.socket


def test_a_container_is_identified_through_its_life(node: Node, client: CriClient, pod: Pod) -> None:
    container = node.cri.create(pod, SLEEP)
    check_identity(client.identify(container.id), pod, State.CREATED)
    assert client.find_process(container.id) is None
    assert client.running() == ()
    node.cri.start(container)
    check_identity(client.identify(container.id), pod, State.RUNNING)
    process = client.find_process(container.id)
    assert process is not None
    assert process.pid == client.pid_of(container.id) == node.cri.pid(container)
    assert process.cgroups_path == f"/{node.name}/podu-1/{container.id}"
    assert [found.id for found in client.running()] == [container.id]
    node.cri.stop(container)
    check_identity(client.identify(container.id), pod, State.EXITED)
    assert client.pid_of(container.id) is None
    node.cri.remove(container)
    assert client.identify(container.id) is None
    assert client.pid_of(container.id) is None


def test_a_sandboxs_id_is_its_pod(client: CriClient, pod: Pod) -> None:
    found = client.identify(pod.id)
    assert found is not None
    assert found.is_sandbox
    assert found.pod.labels["app"] == "web"
    assert client.find_container(pod.id) is None


def test_the_beginning_of_an_id_names_nobody(node: Node, client: CriClient, pod: Pod) -> None:
    container = node.cri.run(pod, SLEEP)
    for shortened in (container.id[:12], pod.id[:12], ""):
        assert client.identify(shortened) is None
    assert client.pid_of(container.id[:12]) is None


@contextlib.contextmanager
def holding(folder: Path, start: Callable[[], object]) -> Iterator[str]:
    """Runs `start` in a thread; while this lasts, the OCI runtime that it comes to waits. Gives the id that it has."""
    held = folder / "held"
    (folder / "hold").touch()
    starting = threading.Thread(target=start)
    starting.start()
    try:
        yield str(wait_until(lambda: held.exists() and held.read_text(), 20.0, "a container to be held"))
    finally:
        (folder / "hold").unlink()
        starting.join(20.0)
        held.unlink(missing_ok=True)


def test_a_container_that_is_being_made_is_identified(node: Node, folder: Path, client: CriClient, pod: Pod) -> None:
    """The runtime answers while it waits for an OCI runtime, as it does in that one's hooks."""
    container = node.cri.create(pod, SLEEP)
    with holding(folder, lambda: node.cri.start(container)) as held:
        assert held == container.id
        check_identity(client.identify(held), pod, State.CREATED)
    check_identity(client.identify(container.id), pod, State.RUNNING)


def test_a_sandbox_that_is_being_made_is_not_known_yet(node: Node, folder: Path, client: CriClient) -> None:
    """Only its annotations can tell a hook whose it is."""
    made: list[Pod] = []
    with holding(folder, lambda: made.append(node.cri.run_pod(PodSpec("young", "shop")))) as held:
        assert client.identify(held) is None
    found = client.identify(held)
    assert found is not None
    assert (found.is_sandbox, found.pod.name) == (True, "young")
    node.cri.remove_pod(made[0])


def await_answer(client: CriClient, container: Container) -> Identified | None:
    """After a restart the runtime reads what it knew before it answers."""
    try:
        return client.identify(container.id)
    except CriUnreachable:
        return None


def test_a_runtime_that_was_restarted_is_asked_again(node: Node, client: CriClient, pod: Pod) -> None:
    container = node.cri.run(pod, SLEEP)
    check_identity(client.identify(container.id), pod, State.RUNNING)
    node.restart(crash=True)
    check_identity(wait_until(lambda: await_answer(client, container), 10.0, "an answer"), pod, State.RUNNING)


def test_a_runtime_that_hangs_is_given_up_at_the_deadline(node: Node, pod: Pod) -> None:
    container = node.cri.run(pod, SLEEP)
    hasty = CriClient(node.socket, 0.3)
    assert hasty.identify(container.id) is not None
    with stopped(node.pid), pytest.raises(CriUnreachable, match="no answer to ListContainers in time"):
        hasty.identify(container.id)
    assert wait_until(lambda: await_answer(hasty, container), 10.0, "an answer") is not None
    hasty.close()
