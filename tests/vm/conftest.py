# SPDX-License-Identifier: Apache-2.0
"""One agent for the tests of a session that try hooks on kernel functions: in a guest a start takes a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.container.doors import start_agent
from tests.support.agent import EventReader
from tests.support.function_hooks import Told, build_functions
from tests.support.names import unique_name
from tests.support.workload import Node, build_calls


@pytest.fixture(scope="session")
def calls_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_calls(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="session")
def functions_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_functions(tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="session")
def node(calls_program: Path) -> Iterator[Node]:
    """It knows our OCI hook."""
    with start_agent("/nowhere/cri.sock") as agent:
        running = Node(agent, calls_program)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture(scope="session")
def told(node: Node) -> Iterator[Told]:
    with EventReader(node.agent.run_dir) as reader:
        yield Told(node, reader)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder that every user may look into."""
    with TemporaryDirectory(prefix=unique_name("functions") + "-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
