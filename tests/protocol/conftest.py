# SPDX-License-Identifier: Apache-2.0
"""Sockets and the log tap for the protocol tests."""

import dataclasses
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
def rule_path(tmp_path: Path) -> Path:
    """Where the failure rule would be; a test that needs another than `open` writes it."""
    return tmp_path / "failure-rule"


@pytest.fixture
def config(tmp_path: Path, agent_path: Path, rule_path: Path) -> PluginConfig:
    """Reconnecting soon. Nothing is watched or reported unless a test asks for it: see `watchful`."""
    return PluginConfig(
        str(tmp_path / "nri.sock"),
        str(agent_path),
        failure_rule=rule_path,
        pin_dir=tmp_path / "pins",
        backoff_first_s=0.01,
        backoff_cap_s=0.05,
        watch_s=60.0,
    )


@pytest.fixture
def watchful(config: PluginConfig) -> PluginConfig:
    """Reports and looks around often."""
    return dataclasses.replace(config, watch_s=0.02)


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
