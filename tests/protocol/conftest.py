# SPDX-License-Identifier: Apache-2.0
"""Sockets and the log tap for the protocol tests."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_plugin.config import PluginConfig
from tests.protocol.fakes import FakeAgent, FakeRuntime, LogTap


@pytest.fixture
def agent_path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def agent(agent_path: Path) -> Iterator[FakeAgent]:
    with FakeAgent(agent_path) as fake:
        yield fake


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[FakeRuntime]:
    fake = FakeRuntime(tmp_path / "nri.sock")
    yield fake
    fake.close()


@pytest.fixture
def config(tmp_path: Path, agent_path: Path) -> PluginConfig:
    """Deadlines short enough for tests that run into them."""
    return PluginConfig(
        str(tmp_path / "nri.sock"),
        str(agent_path),
        bind_s=0.2,
        synchronize_s=0.2,
        resync_s=0.2,
        unbind_s=0.2,
        backoff_first_s=0.01,
        backoff_cap_s=0.05,
    )


@pytest.fixture
def tap() -> Iterator[LogTap]:
    logger = logging.getLogger("podgate.nri")
    handler = LogTap()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
