# SPDX-License-Identifier: Apache-2.0
"""One node for each runtime and test module. A module may set NODE_OPTIONS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.container.stage import TOOLS
from tests.support.node import IMAGES, Node, NodeOptions, Runtime


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower(), scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    options = getattr(request.module, "NODE_OPTIONS", NodeOptions())
    with Node(request.param, options, (*IMAGES, TOOLS)) as running:
        yield running
