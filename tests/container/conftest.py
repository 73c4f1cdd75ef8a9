# SPDX-License-Identifier: Apache-2.0
"""One node for each runtime and test module. A module may set NODE_OPTIONS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.container.stage import TOOLS, Stage
from tests.support.agent import AgentProcess, EventReader, PluginProcess
from tests.support.node import IMAGES, Node, NodeOptions, Runtime


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower(), scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    options = getattr(request.module, "NODE_OPTIONS", NodeOptions())
    with Node(request.param, options, (*IMAGES, TOOLS)) as running:
        yield running


@pytest.fixture(scope="module")
def agent(request: pytest.FixtureRequest) -> Iterator[AgentProcess]:
    """With the policies that the module names STANDING."""
    with AgentProcess("--cri-socket", "none") as running:
        running.add(request.module.STANDING)
        yield running


@pytest.fixture(scope="module")
def plugin(node: Node, agent: AgentProcess) -> Iterator[PluginProcess]:
    with PluginProcess(agent, node.nri_socket) as running:
        yield running


@pytest.fixture(scope="module")
def events(agent: AgentProcess) -> Iterator[EventReader]:
    with EventReader(agent.run_dir) as reader:
        yield reader


@pytest.fixture
def stage(node: Node, agent: AgentProcess, plugin: PluginProcess) -> Iterator[Stage]:  # noqa: ARG001 - it has to run
    running = Stage(node, agent)
    yield running
    running.clear()
