# SPDX-License-Identifier: Apache-2.0
"""podgate hooks: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import hooks as command
from rthook.failure import read_rule
from rthook.install.containerd import SECTION
from rthook.install.options import (
    DEFAULT_AGENT_SOCKET,
    DEFAULT_DEADLINE_MS,
    DEFAULT_FAILURE_RULE,
    DEFAULT_PIN_DIR,
    Stage,
)
from tests.support.names import project_dir

OFF = f'version = 2\n[plugins."{SECTION}"]\ndisable = true\n'


class Stand:
    """A host in a directory, and the command run on it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "host"
        (self.root / "etc").mkdir(parents=True)
        (self.root / "var/lib").mkdir(parents=True)
        self.binary = folder / "podgate-hook"
        self.binary.write_bytes(b"\x7fELF a program\0")

    def put(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def run(self, *args: str, **environment: str) -> Result:
        runner = CliRunner(env={"POD_NAMESPACE": "", **environment})
        return runner.invoke(command.hooks, [args[0], "--root", str(self.root), *args[1:]])

    def install(self, *args: str, **environment: str) -> Result:
        return self.run("install", "--binary", str(self.binary), *args, **environment)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_install_status_uninstall(stand: Stand) -> None:
    config = stand.put("etc/containerd/config.toml", OFF)
    result = stand.install()
    assert result.exit_code == 0, result.output
    assert "change /etc/containerd/config.toml: NRI is switched on\n" in result.stdout
    assert "  -disable = true\n  +disable = false\n" in result.stdout
    assert result.stdout.endswith("now run: systemctl restart containerd\n")
    assert config.read_text() == OFF.replace("true", "false")
    assert stand.install().stdout == "nothing to change\n"
    assert stand.run("status").exit_code == 0
    assert stand.run("uninstall").exit_code == 0
    assert config.read_text() == OFF
    result = stand.run("status")
    assert result.exit_code == 1
    assert "containerd, NRI: podgate hooks install --runtime containerd\n" in result.stderr


def test_a_dry_run_says_what_it_would_do(stand: Stand) -> None:
    config = stand.put("etc/containerd/config.toml", OFF)
    result = stand.install("--dry-run")
    assert (result.exit_code, config.read_text()) == (0, OFF)
    assert "would change /etc/containerd/config.toml" in result.stdout
    assert result.stdout.endswith("then run: systemctl restart containerd\n")
    assert sorted(os.listdir(stand.root)) == ["etc", "var"]


def test_a_plan_as_json(stand: Stand) -> None:
    stand.put("etc/containerd/config.toml", OFF)
    plan = json.loads(stand.install("--dry-run", "-o", "json").stdout)
    assert plan["dry_run"] is True
    assert plan["commands"] == ["systemctl restart containerd"]
    (step,) = (step for step in plan["steps"] if step["path"] == "/etc/containerd/config.toml")
    assert (step["action"], "+disable = false" in step["diff"]) == ("write", True)


def test_a_status_as_json(stand: Stand) -> None:
    stand.put("etc/containerd/config.toml", OFF)
    result = stand.run("status", "-o", "json")
    answer = json.loads(result.stdout)
    (containerd,) = answer["runtimes"]
    assert (result.exit_code, answer["ok"], containerd["ok"]) == (1, False, False)
    assert (containerd["runtime"], containerd["source"], containerd["pid"]) == ("containerd", "file", None)
    assert containerd["facts"]["nri"]["disable"] is True
    assert {"name": "NRI", "verdict": "wrong", "detail": "off"}.items() <= containerd["checks"][1].items()


def test_no_runtime_is_an_error_that_says_what_was_looked_for(stand: Stand) -> None:
    for verb in ("install", "uninstall", "status"):
        result = stand.run(verb)
        assert result.exit_code == 1
        assert result.stderr.startswith("no container runtime is here; looked for /etc/containerd/config.toml, ")


def test_a_broken_configuration_is_named_with_its_place(stand: Stand) -> None:
    stand.put("etc/containerd/config.toml", "version = 2\n[[\n")
    result = stand.install()
    assert result.exit_code == 1
    assert result.stderr.startswith("/etc/containerd/config.toml:2:3: ")


@pytest.mark.parametrize(
    "args",
    [
        ["--runtime", "docker"],
        ["--runtime", "podman", "--mode", "nri"],
        ["--runtime", "containerd", "--plugin", "/usr/bin/podgate-nri"],
        ["--runtime", "podman", "--hooks-dir", "relative"],
        ["--runtime", "podman", "--agent-socket", "/" + "x" * 107],
        ["--runtime", "podman", "--pin-dir", "/" + "x" * 255],
        ["--runtime", "podman", "--deadline-ms", "0"],
        ["--runtime", "podman", "--deadline-ms", "60001"],
        ["--runtime", "podman", "--stage", "prestart"],
        ["--runtime", "podman", "--default", "shut"],
        ["--runtime", "podman", "--exempt", "No_Name"],
        ["--runtime", "podman", "--own-namespace", "-"],
        ["--runtime", "podman", "--binary", "/nowhere"],
    ],
)
def test_usage(stand: Stand, args: list[str]) -> None:
    result = stand.install(*args)
    assert (result.exit_code, sorted(os.listdir(stand.root))) == (2, ["etc", "var"])


def test_oci_with_containerd_is_explained(stand: Stand) -> None:
    result = stand.install("--runtime", "containerd", "--mode", "oci")
    assert (result.exit_code, "base_runtime_spec" in result.stderr) == (1, True)


def test_a_missing_program_says_how_to_make_it(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rthook.install.shares.BINARY_PLACES", (Path("/nowhere/podgate-hook"),))
    result = stand.run("install", "--runtime", "podman")
    assert (result.exit_code, "make hook" in result.stderr) == (1, True)


def test_own_namespace_comes_from_the_option_the_environment_or_the_service_account(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = tmp_path / "namespace"
    monkeypatch.setattr(command, "SERVICE_ACCOUNT_NAMESPACE", account)
    rule = stand.root / "etc/podgate/failure-rule"

    def exempt(*args: str, **environment: str) -> tuple[str, ...]:
        rule.unlink(missing_ok=True)
        assert stand.install("--runtime", "podman", *args, **environment).exit_code == 0
        return read_rule(rule).exempt

    assert exempt() == ("kube-system",)
    account.write_text("from-account\n")
    assert exempt() == ("kube-system", "from-account")
    assert exempt(POD_NAMESPACE="from-pod") == ("kube-system", "from-pod")
    assert exempt("--own-namespace", "named", POD_NAMESPACE="x") == ("kube-system", "named")
    assert exempt("--exempt", "a", "--exempt", "b") == ("kube-system", "from-account", "a", "b")


def test_the_hooks_own_defaults_are_those_left_out() -> None:
    """hook/options.c has them too: an argument that is left out must mean the same there."""
    source = (project_dir() / "rthook/hook/options.c").read_text()
    assert f'#define DEFAULT_DEADLINE "{DEFAULT_DEADLINE_MS}"' in source
    for default in (
        DEFAULT_AGENT_SOCKET,
        DEFAULT_FAILURE_RULE,
        DEFAULT_PIN_DIR,
        *(stage.value for stage in Stage),
    ):
        assert f'"{default}"' in source
    header = (project_dir() / "rthook/hook/options.h").read_text()
    assert f"#define MAX_PATH {command.MAX_PATH}\n" in header
    assert f"#define MAX_DEADLINE_MS {command.MAX_DEADLINE_MS}\n" in header
