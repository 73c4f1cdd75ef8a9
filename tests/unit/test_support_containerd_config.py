# SPDX-License-Identifier: Apache-2.0
"""containerd's configuration: valid TOML, everything below the node's folder."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.containerd_config import NodeOptions, Runc, Runtime, render_config
from tests.support.node import write_hooked_spec
from tests.support.oci_hooks import CREATE_CONTAINER, Hook

FOLDER = Path("/tmp/node")
CRI = {Runtime.CONTAINERD_2: "io.containerd.cri.v1.runtime", Runtime.CONTAINERD_1_7: "io.containerd.grpc.v1.cri"}


def render(runtime: Runtime, options: NodeOptions) -> dict[str, Any]:
    return tomllib.loads(render_config(runtime, FOLDER, options))


def absolute_paths(value: object) -> list[str]:
    """All strings in a document that are absolute paths."""
    if isinstance(value, dict):
        return [path for inner in value.values() for path in absolute_paths(inner)]
    if isinstance(value, list):
        return [path for inner in value for path in absolute_paths(inner)]
    return [value] if isinstance(value, str) and value.startswith("/") else []


@pytest.mark.parametrize("runtime", list(Runtime))
def test_every_path_but_the_oci_runtime_is_below_the_folder(runtime: Runtime) -> None:
    paths = absolute_paths(render(runtime, NodeOptions()))
    outside = [path for path in paths if not path.startswith("/tmp/node/")]
    assert len(paths) > 8
    assert outside == ["/usr/sbin/runc"]


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("nri", [True, False])
def test_nri_is_switched_and_has_a_socket_of_its_own(runtime: Runtime, nri: bool) -> None:
    section = render(runtime, NodeOptions(nri=nri))["plugins"]["io.containerd.nri.v1.nri"]
    assert section["disable"] is not nri
    assert section["socket_path"] == "/tmp/node/nri.sock"


@pytest.mark.parametrize("runtime", list(Runtime))
def test_runtime_takes_the_options_of_the_node(runtime: Runtime) -> None:
    options = NodeOptions(oci_runtime=Path('/opt/a "quoted" runc'), base_spec=Path("/opt/spec.json"))
    handler = render(runtime, options)["plugins"][CRI[runtime]]["containerd"]["runtimes"]["runc"]
    assert handler["options"]["BinaryName"] == '/opt/a "quoted" runc'
    assert handler["base_runtime_spec"] == "/opt/spec.json"


def test_newer_runc_is_in_the_cache_and_the_other_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODGATE_CACHE", "/cache")
    assert Runc.NEW.path == Path("/cache/runtimes/runc/usr/sbin/runc")
    assert Runc.SYSTEM.path == NodeOptions().oci_runtime == Path("/usr/sbin/runc")


def test_hooks_are_added_to_the_base_spec(tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    base.write_text('{"ociVersion": "1.2.1", "hooks": {"createContainer": [{"path": "/first"}]}}')
    options = NodeOptions(base_spec=base, hooks=(Hook(CREATE_CONTAINER, Path("/second")),))
    written = write_hooked_spec(Runtime.CONTAINERD_2, options, tmp_path / "new.json")
    spec = json.loads(written.read_text())
    assert spec["ociVersion"] == "1.2.1"
    assert [hook["path"] for hook in spec["hooks"]["createContainer"]] == ["/first", "/second"]
