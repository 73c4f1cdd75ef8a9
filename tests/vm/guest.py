# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for runs in a guest of `make test-vm`: what has a limit of its own gets the guest's patience too."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.cli import client
from agent.kernel.loader import LoaderLimits
from tests.support.patience import PATIENCE


def pytest_configure() -> None:
    """A policy is compiled before it is answered, and tests load programs with the loader's own default too."""
    client.DEADLINE_S *= PATIENCE
    usual = LoaderLimits()
    defaults = (usual.deadline_s * PATIENCE, usual.memory_bytes)
    LoaderLimits.__init__.__defaults__ = defaults


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """The nearest marker is the one that counts."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        if marker is not None:
            item.add_marker(pytest.mark.timeout(marker.args[0] * PATIENCE), append=False)
