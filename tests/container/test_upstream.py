# SPDX-License-Identifier: Apache-2.0
"""The public gRPC interface: a runtime's hook of another project announces a container, and waits for the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.container.doors import start_agent
from tests.container.stage import FREE, KILL_LSEEK, STOPPED, Pods, policy_text
from tests.container.test_podman_hook import LABELS, pod
from tests.support.agent import AgentProcess
from tests.support.containerd_config import Runc
from tests.support.image import FIRST
from tests.support.names import project_dir
from tests.support.oci_hooks import CREATE_RUNTIME, Hook
from tests.support.podman import PODMAN_FAILED, PodmanNode, RunSpec
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("grpc")
    return folder / "g.sock"


@pytest.fixture(scope="module")
def agent(socket: Path) -> Iterator[AgentProcess]:
    with start_agent("none", "--grpc-address", f"unix://{socket}") as running:
        running.add(policy_text("by-namespace", Pods(namespace="guarded"), KILL_LSEEK))
        wait_until(socket.is_socket, 20, "the interface to be served")
        yield running


@pytest.fixture(params=list(Runc), ids=lambda runc: runc.name.lower(), scope="module")
def podman(request: pytest.FixtureRequest, socket: Path) -> Iterator[PodmanNode]:
    """With a hook that is a client of the interface; a runtime gives it neither PATH nor the project's directory."""
    with PodmanNode(request.param, (FIRST,)) as node:
        args = ("-c", f"cd {project_dir()} && exec {sys.executable} -m tests.container.upstream_hook {socket}")
        node.add_hook(Hook(CREATE_RUNTIME, Path("/bin/sh"), args))
        yield node


def violate(node: PodmanNode, spec: RunSpec) -> tuple[int, str]:
    outcome = node.run(replace(spec, image=FIRST.reference))
    return outcome.status, outcome.stdout


def test_container_that_another_hook_announces_is_guarded(podman: PodmanNode, agent: AgentProcess) -> None:
    before = agent.control.status().starts["upstream"]
    assert violate(podman, pod("guarded")) == STOPPED
    assert violate(podman, pod("other", LABELS)) == FREE
    status = agent.control.status()
    assert status.starts["upstream"] - before == 2
    assert any(stage.stage == "announce" and stage.outcomes["bound"] >= 2 for stage in status.stages)


def test_announcement_that_contradicts_the_annotations_is_refused_with_the_reason(podman: PodmanNode) -> None:
    spec = pod("other")
    lying = replace(spec, annotations={**spec.annotations, "tests.say-namespace": "elsewhere"})
    outcome = podman.run(replace(lying, image=FIRST.reference))
    assert outcome.status in PODMAN_FAILED
    assert "INVALID_ARGUMENT" in outcome.stderr
    assert json.dumps("elsewhere")[1:-1] in outcome.stderr
