# SPDX-License-Identifier: Apache-2.0
"""Installations that real runtimes read: containerd with its edited configuration, podman with our hooks.d files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.hooks import hooks
from nri_plugin.preinstalled import DEFAULT_LOG_FILE
from rthook.build import build_hook
from rthook.install.containerd import SECTION, nri_section, parse_toml
from rthook.install.containerd_state import inspect_containerd
from rthook.install.host import Host
from tests.support.containerd_config import NodeOptions, Runtime
from tests.support.image import BUSYBOX
from tests.support.node import Node
from tests.support.podman import PODMAN_FAILED, PodmanNode, RunSpec
from tests.support.system import mount, unmount
from tests.support.wait import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(120)]

MAJOR = {Runtime.CONTAINERD_2: 2, Runtime.CONTAINERD_1_7: 1}
runtimes = pytest.mark.parametrize("runtime", list(Runtime), ids=lambda runtime: runtime.name.lower())


def dump(runtime: Runtime, *args: str | Path) -> str:
    command = [runtime.binaries / "containerd", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def invoke(*args: str) -> Result:
    """With the record and the failure rule in the places of this machine: nothing of it may be left."""
    return CliRunner().invoke(hooks, args)


@dataclass(frozen=True, slots=True)
class Staged:
    """A tree that stands for a host; the real containerd is its program."""

    root: Path
    runtime: Runtime

    @property
    def config(self) -> Path:
        return self.root / "etc/containerd/config.toml"

    def run(self, verb: str) -> Result:
        return invoke(verb, "--root", str(self.root), "--runtime", "containerd")

    def effective(self) -> dict[str, object]:
        """What containerd makes of the file."""
        text = dump(self.runtime, "--config", self.config, "config", "dump")
        return nri_section(parse_toml("dump", text.encode())[1]) or {}


@pytest.fixture
def staged(tmp_path: Path, runtime: Runtime) -> Staged:
    tree = Staged(tmp_path / "host", runtime)
    tree.config.parent.mkdir(parents=True)
    return tree


def switched_off(runtime: Runtime) -> str:
    """The daemon's own default configuration, with everything off that can be."""
    text = dump(runtime, "config", "default")
    for key in ("disable", "disable_connections"):
        assert f"    {key} = " in text
        text = text.replace(f"    {key} = false", f"    {key} = true")
    return text


@runtimes
def test_containerds_own_default_configuration_is_edited_and_restored(staged: Staged, runtime: Runtime) -> None:
    text = switched_off(runtime)
    staged.config.write_text(text)
    assert staged.effective()["disable"] is True
    assert staged.run("install").exit_code == 0
    after = staged.effective()
    assert (after["disable"], after["disable_connections"]) == (False, False)
    changed = [line for line in staged.config.read_text().splitlines() if line not in text.splitlines()]
    assert {line.strip() for line in changed} <= {"disable = false", "disable_connections = false"}
    assert staged.run("uninstall").exit_code == 0
    assert staged.config.read_text() == text
    assert sorted(path.name for path in staged.config.parent.iterdir()) == ["config.toml"]


@runtimes
@pytest.mark.parametrize(
    "main",
    [
        "",
        "version = 2\n",
        'version = 2\nplugins = {"io.containerd.gc.v1.scheduler" = {mutation_threshold = 50}}\n',
        'version = 2\nplugins."io.containerd.gc.v1.scheduler".mutation_threshold = 50\n',
        'version = 2\r\n[plugins]\r\n  [plugins."io.containerd.gc.v1.scheduler"]\r\n    mutation_threshold = 50',
    ],
)
def test_any_form_of_file_is_read_by_containerd_afterwards(staged: Staged, main: str) -> None:
    staged.config.write_text(main, newline="")
    program = staged.root / "usr/bin/containerd"
    program.parent.mkdir(parents=True)
    shutil.copy(staged.runtime.binaries / "containerd", program)
    for path in ("lib", "lib64", "usr/lib"):
        (staged.root / path).mkdir(parents=True, exist_ok=True)
    _copy_libraries(program, staged.root)
    found = inspect_containerd(Host(staged.root), "/etc/containerd/config.toml")
    assert (found.fault, found.source, found.release and found.release[0]) == ("", "binary", MAJOR[staged.runtime])
    assert staged.run("install").exit_code == 0
    assert staged.effective()["disable"] is False
    assert staged.run("status").exit_code == 0
    assert staged.run("uninstall").exit_code == 0
    assert staged.config.read_bytes() == main.encode()


def _copy_libraries(program: Path, root: Path) -> None:
    """So that the program runs in that root."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for word in said.split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)


IMPORT_FORMS: dict[str, Callable[[Path], str]] = {
    "relative": lambda _folder: "conf.d/1.toml",
    "relative pattern": lambda _folder: "conf.d/*.toml",
    "absolute pattern": lambda folder: f"{folder}/conf.d/*.toml",
}


@runtimes
@pytest.mark.parametrize("form", IMPORT_FORMS)
@pytest.mark.parametrize("says", ["disable = true", 'socket_path = "/run/x.sock"', ""])
def test_imports_that_override_are_edited_where_they_do(tmp_path: Path, runtime: Runtime, form: str, says: str) -> None:
    config = tmp_path / "config.toml"
    (tmp_path / "conf.d").mkdir()
    section = f'[plugins."{SECTION}"]\n'
    config.write_text(f'version = 2\nimports = ["{IMPORT_FORMS[form](tmp_path)}"]\n{section}disable = true\n')
    (tmp_path / "conf.d/1.toml").write_text("version = 2\n" + (f"{section}{says}\n" if says else ""))
    before = [path.read_text() for path in (config, tmp_path / "conf.d/1.toml")]
    tree = Staged(tmp_path, runtime)
    place = [*(f"--{name}={value}" for name, value in (("runtime", "containerd"), ("containerd-config", config)))]
    result = invoke("install", *place, "--failure-rule", str(tmp_path / "rule"), "--dry-run", "-o", "json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    _apply_diffs(plan["steps"])
    text = dump(tree.runtime, "--config", config, "config", "dump")
    assert (nri_section(parse_toml("dump", text.encode())[1]) or {})["disable"] is False
    assert [path.read_text() for path in (config, tmp_path / "conf.d/1.toml")] != before


def _apply_diffs(steps: list[dict[str, str]]) -> None:
    """The diffs of a dry run are diffs: patch(1) understands them."""
    for step in steps:
        if step["action"] == "write" and step["path"].endswith(".toml"):
            subprocess.run(["patch", "--quiet", step["path"]], input=step["diff"], text=True, check=True)


@pytest.fixture(params=list(Runtime), ids=lambda runtime: runtime.name.lower())
def deaf_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A containerd with NRI off."""
    with Node(request.param, NodeOptions(nri=False), images=()) as node:
        yield node


def test_running_containerd_gets_nri_and_loses_it_again(deaf_node: Node) -> None:
    config = deaf_node.folder / "config.toml"
    text = config.read_text()
    place = ["--runtime", "containerd", "--containerd-config", str(config)]
    rule = ["--failure-rule", str(deaf_node.folder / "failure-rule")]
    assert not deaf_node.nri_socket.exists()
    result = invoke("status", *place, *rule)
    assert result.exit_code == 1
    assert "containerd, NRI: podgate hooks install" in result.stderr
    try:
        assert invoke("install", *place, *rule).exit_code == 0
        assert checks(place, rule)["socket"] == "wrong"
        for offset, verdict in ((60, "wrong"), (-60, "ok")):  # the daemon started about now
            os.utime(config, (time.time() + offset,) * 2)
            assert checks(place, rule)["loaded"] == verdict
        deaf_node.restart()
        assert deaf_node.nri_socket.is_socket()
        answer = json.loads(invoke("status", *place, *rule, "-o", "json").stdout)["runtimes"][0]
        assert (answer["ok"], answer["source"], answer["pid"]) == (True, "running", deaf_node.pid)
        assert answer["facts"]["nri"]["socket_path"] == str(deaf_node.nri_socket)
    finally:
        assert invoke("uninstall", *place).exit_code == 0
    assert config.read_text() == text
    deaf_node.restart()
    assert invoke("status", *place, *rule).exit_code == 1


def checks(place: list[str], rule: list[str]) -> dict[str, str]:
    answer = json.loads(invoke("status", *place, *rule, "-o", "json").stdout)
    return {check["name"]: check["verdict"] for check in answer["runtimes"][0]["checks"]}


def test_a_read_only_file_system_names_the_option(tmp_path: Path) -> None:
    root = tmp_path / "host"
    for path in ("usr", "etc", "var/lib"):
        (root / path).mkdir(parents=True)
    mount("tmpfs", root / "usr", "tmpfs")
    try:
        subprocess.run(["mount", "-o", "remount,ro", root / "usr"], check=True)
        binary = tmp_path / "podgate-hook"
        binary.write_bytes(b"\x7fELF")
        place = ["--root", str(root), "--runtime", "podman", "--binary", str(binary)]
        result = invoke("install", *place, "--hooks-dir", "/etc/hooks.d")
        assert result.exit_code == 1
        assert "the file system is read-only; name another directory with --install-dir" in result.stderr
        assert list((root / "var/lib").iterdir()) == []
        other = ["--hooks-dir", "/etc/hooks.d", "--install-dir", "/var/lib/podgate/bin"]
        assert invoke("install", *place, *other).exit_code == 0
        assert (root / "etc/hooks.d/podgate-create.json").exists()
    finally:
        unmount(root / "usr")


@pytest.fixture(scope="module")
def hook_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hook") / "podgate-hook"
    build_hook(target)
    return target


@pytest.fixture(scope="module")
def podman() -> Iterator[PodmanNode]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with PodmanNode(images=(BUSYBOX,)) as node:
        yield node


def stage_hook(folder: Path, program: Path, *options: str) -> RunSpec:
    """In a tree, of which hooks and program are then where the files say."""
    tree, places = folder / "tree", ("--install-dir", str(folder / "bin"), "--hooks-dir", "/hooks.d")
    tree.mkdir(exist_ok=True)
    result = invoke(
        *("install", "--root", str(tree), "--runtime", "podman", "--binary", str(program)), *places, *options
    )
    assert result.exit_code == 0, result.stderr
    (folder / "bin").symlink_to(tree / str(folder).lstrip("/") / "bin")
    return RunSpec(command=("echo", "started"), hooks_dir=tree / "hooks.d")


@pytest.mark.parametrize("user_namespace", [False, True], ids=["host-users", "user-namespace"])
@pytest.mark.parametrize("default", ["open", "closed"])
def test_podman_calls_the_hook_as_it_is_told(
    podman: PodmanNode, hook_program: Path, default: str, user_namespace: bool
) -> None:
    folder = podman.new_folder()
    places = [f"--agent-socket={folder / 'agent.sock'}", f"--failure-rule={folder / 'failure-rule'}"]
    stage = ("--stage", "createRuntime") if user_namespace else ()
    spec = stage_hook(folder, hook_program, *stage, "--deadline-ms", "500", *places)
    (folder / "failure-rule").write_text(f"default {default}\n")
    outcome = podman.run(dataclasses.replace(spec, user_namespace=user_namespace))
    if default == "open":
        assert (outcome.stdout, outcome.status) == ("started\n", 0), outcome.stderr
    else:
        assert "podgate-hook" in outcome.stderr
        assert (outcome.stdout, outcome.status in PODMAN_FAILED) == ("", True)


def test_one_file_that_does_not_parse_stops_podman(podman: PodmanNode, hook_program: Path) -> None:
    """Why a file is written beside its place under a name that is not read."""
    folder = podman.new_folder()
    spec = stage_hook(folder, hook_program, f"--failure-rule={folder / 'failure-rule'}")
    assert spec.hooks_dir is not None
    (spec.hooks_dir / ".podgate-create.json.podgate-new").write_text("{")
    assert podman.run(spec).stdout == "started\n"
    (spec.hooks_dir / "theirs.json").write_text("{")
    assert "theirs.json" in podman.run(spec).stderr


def test_containerd_starts_the_preinstalled_plugin(node: Node) -> None:
    config, log = node.folder / "config.toml", node.folder / "plugin.log"
    text = config.read_text()
    place = ["--runtime", "containerd", "--containerd-config", str(config)]
    rule = ["--failure-rule", str(node.folder / "failure-rule")]
    plugin = Path(sys.executable).parent / "podgate-nri"
    try:
        mode = ["--mode", "nri-preinstalled", "--plugin", str(plugin), "--install-dir", str(node.folder / "bin")]
        assert invoke("install", *place, *rule, *mode).exit_code == 0
        settings = node.folder / "nri-conf/10-podgate.conf"
        settings.write_text(settings.read_text().replace(DEFAULT_LOG_FILE, str(log)))
        node.restart()
        wait_until(lambda: log.exists() and "nri_ready" in log.read_text(), 10.0, "the plugin to be ready")
        answer = json.loads(invoke("status", *place, *rule, "-o", "json").stdout)["runtimes"][0]
        assert (answer["ok"], answer["facts"]["preinstalled"]) == (True, True)
    finally:
        assert invoke("uninstall", *place).exit_code == 0
    assert config.read_text() == text
    assert not (node.folder / "nri-plugins").exists()


def test_the_command_is_found_without_an_agent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from agent.cli.hooks import hooks; hooks()", "status", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "--containerd-config" in done.stdout) == (0, True)
