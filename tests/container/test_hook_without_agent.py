# SPDX-License-Identifier: Apache-2.0
"""What becomes of a container that our OCI hook cannot have bound: the failure rule, by namespace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.container.doors import hook_setup, oci_hook, start_agent
from tests.container.stage import FREE, KILL_LSEEK, SETTLE_S, STOPPED, TOOLS, Pods, policy_text, stopped
from tests.container.test_podman_hook import pod
from tests.support.agent import AgentProcess
from tests.support.image import FIRST
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME
from tests.support.podman import PODMAN_FAILED, PodmanNode, RunSpec
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.kernel, pytest.mark.timeout(120)]

DEADLINE_MS = 500
RULES = ("default closed", "namespace guarded open", "pattern team-* quarantine", "exempt kube-system")
SLEEP = RunSpec(image=TOOLS.reference, command=("sleep", "1000"))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """Its policy is in a directory, so that it is back after a restart."""
    folder: Path = tmp_path_factory.mktemp("policies")
    (folder / "standing.json").write_text(policy_text("standing", Pods(namespace="guarded"), KILL_LSEEK))
    with start_agent("none", "--policy-dir", str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanNode]:
    with PodmanNode(images=(FIRST, TOOLS)) as node:
        yield node


@pytest.fixture(params=[CREATE_CONTAINER, CREATE_RUNTIME])
def hooked(request: pytest.FixtureRequest, podman: PodmanNode, agent: AgentProcess) -> Iterator[PodmanNode]:
    hook_setup(agent).write_rule(*RULES)
    podman.add_hook(oci_hook(agent, request.param, "--runtime=podman", deadline_ms=DEADLINE_MS))
    yield podman
    podman.clear_hooks()
    for container in podman.list_containers():
        podman.remove(container)


@contextlib.contextmanager
def killed(agent: AgentProcess) -> Iterator[None]:
    """Its programs stay pinned."""
    agent.background.process.kill()
    agent.background.process.wait()
    try:
        yield
    finally:
        agent.restart(crash=True)


@contextlib.contextmanager
def absent(agent: AgentProcess) -> Iterator[None]:
    """Nothing of it is left."""
    agent.background.stop()
    try:
        yield
    finally:
        agent.restart(crash=False)


@contextlib.contextmanager
def hanging(agent: AgentProcess) -> Iterator[None]:
    with stopped(agent.pid):
        yield


@contextlib.contextmanager
def without_socket(agent: AgentProcess) -> Iterator[None]:
    hidden = agent.socket.with_suffix(".hidden")
    agent.socket.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(agent.socket)


Down = Callable[[AgentProcess], AbstractContextManager[None]]
STILL_PINNED: dict[str, Down] = {"killed": killed, "hangs": hanging, "no socket": without_socket}


def violate(node: PodmanNode, namespace: str) -> tuple[int, str]:
    outcome = node.run(replace(pod(namespace), image=FIRST.reference))
    return outcome.status, outcome.stdout


def start(node: PodmanNode, namespace: str) -> str:
    container = node.create(replace(SLEEP, annotations=pod(namespace).annotations))
    assert node.start(container).status == 0
    return container


def inside(node: PodmanNode, container: str) -> tuple[int, str]:
    """A violation by a process that is started there."""
    outcome = node.exec(container, "/first")
    return outcome.status, outcome.stdout


@pytest.mark.parametrize("down", STILL_PINNED.values(), ids=STILL_PINNED)
def test_each_namespace_has_a_rule_of_its_own(hooked: PodmanNode, agent: AgentProcess, down: Down) -> None:
    """A quarantined container is under the policy of another namespace, from its first instruction on."""
    with down(agent):
        assert violate(hooked, "guarded") == FREE
        assert violate(hooked, "kube-system") == FREE
        refused = hooked.run(replace(pod("payments"), image=FIRST.reference))
        assert refused.status in PODMAN_FAILED
        assert "does not start" in refused.stderr
        assert violate(hooked, "team-a") == STOPPED
    assert violate(hooked, "guarded") == STOPPED
    assert violate(hooked, "team-a") == FREE


def test_quarantine_without_anything_of_an_agent_left_is_closed(hooked: PodmanNode, agent: AgentProcess) -> None:
    with absent(agent):
        refused = hooked.run(replace(pod("team-a"), image=FIRST.reference))
        assert refused.status in PODMAN_FAILED
        assert "quarantine: " in refused.stderr
        assert violate(hooked, "kube-system") == FREE


def test_quarantine_lasts_over_the_agents_return_as_nobody_says_who_it_is(
    hooked: PodmanNode, agent: AgentProcess
) -> None:
    """podman cannot be asked. A crashed agent's successor takes over what is in quarantine."""
    with killed(agent):
        container = start(hooked, "team-a")
        assert inside(hooked, container) == STOPPED
    assert agent.control.status().quarantined == 1
    assert inside(hooked, container) == STOPPED
    hooked.remove(container)
    wait_until(lambda: agent.control.status().quarantined == 0, SETTLE_S, "the container to be forgotten")


def test_decisions_are_collected_when_the_agent_is_back(hooked: PodmanNode, agent: AgentProcess) -> None:
    spool = hook_setup(agent).spool
    wait_until(lambda: not list(spool.parent.glob(f"{spool.name}*")), SETTLE_S, "earlier decisions to be collected")
    before = dict(agent.control.status().decided_without_agent)
    with without_socket(agent):
        for namespace in ("guarded", "payments", "team-a", "team-b"):
            violate(hooked, namespace)
    expected = {"open": 1, "closed": 1, "quarantined": 2}
    wait_until(lambda: collected(agent, before) == expected, SETTLE_S, f"decisions {expected}")
    told = [line for line in agent.background.lines() if line["event"] == "a hook decided without the agent"]
    assert [line["namespace"] for line in told[-4:]] == ["guarded", "payments", "team-a", "team-b"]
    assert not spool.exists()


def collected(agent: AgentProcess, before: dict[str, int]) -> dict[str, int]:
    now = agent.control.status().decided_without_agent
    return {outcome: count - before.get(outcome, 0) for outcome, count in now.items() if count > before.get(outcome, 0)}
