# SPDX-License-Identifier: Apache-2.0
"""The policies of examples/ do what is said beside them; and what is said there depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.agent import EventReader
from tests.support.examples import differences, example_names, find_lacking, perform, read_example, with_policy
from tests.support.names import unique_name
from tests.support.workload import Node

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

# Of each example a line that its outcome stands on: with the other text it must come out differently.
KEY_LINES = {
    "binary-tampering": ("/usr/local/bin/, ", ""),
    "bpf-and-perf": ("role, operator: NotIn", "role, operator: In"),
    "credential-reads": ("[/serviceaccount/]", "[/service-account/]"),
    "entrypoint-only": ("isNamespacePID: true", "isNamespacePID: false"),
    "etc-writes": ("values: [/etc/]", "values: [/usr/]"),
    "kernel-code": ("operator: NotIn, values: [network]", "operator: In, values: [network]"),
    "module-loads": ('["2:4"]', '["3:4"]'),
    "network-egress": ("operator: NotSAddr", "operator: SAddr"),
    "outbound-connections": ("operator: NotSAddr", "operator: SAddr"),
    "privilege-gain": ("arg0 != 0 && arg1 == 0", "arg0 != 0 && arg1 == 1"),
    "process-injection": ("followChildren: true", "followChildren: false"),
    "reverse-shell": ("argSig: 9", "argSig: 18"),
    "root-credentials": ("/usr/bin/su, ", ""),
    "shell-input": ("SubStringIgnCase", "SubString"),
    "tmp-binaries": ("argError: -13", "argError: -2"),
    "token-guard": ("values: [/usr/bin/head]", "values: [/usr/bin/cat]"),
    "web-server-shell": ("value: monitor", "value: enforce"),
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that every user may look into."""
    with TemporaryDirectory(prefix=unique_name("example") + "-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_every_example_has_a_key_line() -> None:
    assert example_names() == sorted(KEY_LINES)


def skip_where_impossible(name: str) -> None:
    if reason := find_lacking(name):
        pytest.skip(reason)


@pytest.mark.parametrize("name", sorted(KEY_LINES))
def test_example(name: str, node: Node, events: EventReader, scratch: Path) -> None:
    skip_where_impossible(name)
    example = read_example(name, scratch, node.program)
    assert differences(example.expected, perform(node, events, example)) == []


@pytest.mark.parametrize("name", sorted(KEY_LINES))
def test_example_stands_on_its_policy(name: str, node: Node, events: EventReader, scratch: Path) -> None:
    skip_where_impossible(name)
    example = with_policy(read_example(name, scratch, node.program), *KEY_LINES[name])
    assert differences(example.expected, perform(node, events, example)) != []
