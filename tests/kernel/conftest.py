# SPDX-License-Identifier: Apache-2.0
"""One agent for all tests of a session that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import EventReader
from tests.support.workload import Node, build_calls, start_node


@pytest.fixture(scope="session")
def calls_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_calls(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def shared_node(calls_program: Path) -> Iterator[Node]:
    with start_node(calls_program) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """Without policies before and after."""
    shared_node.clear()
    yield shared_node
    shared_node.clear()


@pytest.fixture
def events(shared_node: Node) -> Iterator[EventReader]:
    with EventReader(shared_node.agent.run_dir) as reader:
        yield reader
