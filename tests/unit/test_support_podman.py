# SPDX-License-Identifier: Apache-2.0
"""podman's configuration: valid TOML, and everything below the node's folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.support.podman import PodmanError, render_config, render_storage

FOLDER = Path('/tmp/a "node"')


def test_every_path_is_below_the_folder_and_locks_are_files() -> None:
    config = tomllib.loads(render_config(FOLDER))
    paths = [config["engine"][key] for key in ("runtime", "tmp_dir", "volume_path")]
    paths += [*config["engine"]["hooks_dir"], config["network"]["network_config_dir"]]
    assert [path for path in paths if not path.startswith(f"{FOLDER}/")] == []
    assert config["engine"]["lock_type"] == "file"
    assert config["engine"]["cgroup_manager"] == "cgroupfs"


def test_podman_at_a_container_s_end_reads_the_same_files() -> None:
    inherited = dict(entry.split("=", 1) for entry in tomllib.loads(render_config(FOLDER))["engine"]["conmon_env_vars"])
    assert inherited["CONTAINERS_CONF"] == f"{FOLDER}/containers.conf"
    assert inherited["CONTAINERS_STORAGE_CONF"] == f"{FOLDER}/storage.conf"


def test_storage_is_below_the_folder_and_makes_no_mounts() -> None:
    storage = tomllib.loads(render_storage(FOLDER))["storage"]
    assert storage == {"driver": "vfs", "graphroot": f"{FOLDER}/root", "runroot": f"{FOLDER}/run"}


def test_error_says_the_command_and_podman_s_words() -> None:
    error = PodmanError(("rm", "c1"), "no such container\n")
    assert str(error) == "podman rm c1: no such container"
