# SPDX-License-Identifier: Apache-2.0
"""contrib/minikube-install-hook.sh with a minikube that stands for the real one: a node is a directory, changed into
by chroot, with busybox for its programs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rthook.install.containerd import SECTION
from tests.support.names import project_dir

SCRIPT = project_dir() / "contrib/minikube-install-hook.sh"
BUSYBOX = Path("/bin/busybox")
OFF = f'version = 2\n[plugins."{SECTION}"]\ndisable = true\n'
CRICTL = {"containerd": "unix:///run/containerd/containerd.sock", "cri-o": "unix:///var/run/crio/crio.sock"}

FAKE_MINIKUBE = """#!/bin/bash
echo "$*" >> "$FAKE_LOG"
[ "$1 $2" = "-p $FAKE_PROFILE" ] || { echo "no profile $2" >&2; exit 85; }
shift 2
case $1 in
ssh) exec chroot "$FAKE_NODE" /bin/sh -c "${@: -1}" ;;
cp) cp "$2" "$FAKE_NODE$3" && chmod 644 "$FAKE_NODE$3" ;;
esac
"""
PODGATE = """#!/bin/sh
[ "$1" = hooks ] && shift && exec {python} -c 'from agent.cli.hooks import hooks; hooks()' "$@"
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not BUSYBOX.exists(), reason="the node is a chroot with busybox: takes root"
)


@dataclass(frozen=True, slots=True)
class Node:
    """A directory that stands for a minikube node."""

    root: Path
    folder: Path
    environment: dict[str, str]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *args], env=self.environment, cwd=project_dir(), capture_output=True, text=True, check=False
        )

    def put(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Directories end in a slash."""
        paths = [path for path in self.root.rglob("*") if "bin" not in path.parts and not path.is_symlink()]
        return {
            str(path.relative_to(self.root)) + "/" * path.is_dir(): (
                stat.S_IMODE(path.stat().st_mode),
                b"" if path.is_dir() else path.read_bytes(),
            )
            for path in paths
        }


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    root, programs = tmp_path / "node", tmp_path / "programs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "cat", "tar", "base64", "mkdir", "mv", "rm", "rmdir", "ls", "chmod", "chown", "sync"):
        (root / "bin" / name).symlink_to("busybox")
    write_program(root / "bin/sudo", '#!/bin/sh\nexec "$@"\n')
    write_program(root / "bin/systemctl", '#!/bin/sh\necho "$*" >> /restarted\n')
    for path in ("var/lib", "usr/share", "etc"):
        (root / path).mkdir(parents=True)
    write_program(programs / "minikube", FAKE_MINIKUBE)
    write_program(programs / "podgate", PODGATE.format(python=sys.executable))
    (tmp_path / "podgate-hook").write_bytes(b"\x7fELF a program\0")
    environment = {
        "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
        "FAKE_NODE": str(root),
        "FAKE_PROFILE": "shop",
        "FAKE_LOG": str(tmp_path / "calls"),
        "PYTHONPATH": str(project_dir()),
        "LC_ALL": "C.UTF-8",
    }
    return Node(root, tmp_path, environment)


def install(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    return node.run("--profile", "shop", "--", "--own-namespace", "podgate", *options)


def test_containerd_is_switched_on_and_back(node: Node) -> None:
    node.put("etc/crictl.yaml", f"runtime-endpoint: {CRICTL['containerd']}\n")
    config = node.put("etc/containerd/config.toml", OFF)
    config.chmod(0o600)
    before = node.tree()
    done = install(node, "--default", "closed")
    assert (done.returncode, done.stderr) == (0, "")
    assert config.read_text() == OFF.replace("true", "false")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "default closed\n" in (node.root / "etc/podgate/failure-rule").read_text()
    assert (node.root / "restarted").read_text() == "restart containerd\n"
    done = node.run("--profile", "shop", "--uninstall")
    assert done.returncode == 0
    (node.root / "restarted").unlink()
    assert node.tree() == before


def test_crio_gets_program_and_hooks_in_that_order(node: Node) -> None:
    node.put("etc/crictl.yaml", f"runtime-endpoint: {CRICTL['cri-o']}\n")
    (node.root / "usr/share/containers/oci/hooks.d").mkdir(parents=True)
    before = node.tree()
    done = install(node, "--binary", str(node.folder / "podgate-hook"))
    assert (done.returncode, done.stderr) == (0, "")
    program = node.root / "usr/libexec/podgate/podgate-hook"
    assert program.read_bytes() == b"\x7fELF a program\0"
    assert os.access(program, os.X_OK)
    hooks = sorted(path.name for path in (node.root / "usr/share/containers/oci/hooks.d").iterdir())
    assert hooks == ["podgate-create.json", "podgate-poststop.json"]
    moves = [call.rpartition(" ")[2] for call in node.calls() if "sudo mv" in call]
    assert moves.index("'/usr/libexec/podgate/podgate-hook'") < moves.index(
        "'/usr/share/containers/oci/hooks.d/podgate-create.json'"
    )
    again = install(node, "--binary", str(node.folder / "podgate-hook"))
    assert again.stdout == "profile shop, cri-o: install done, 0 steps\n"
    node.run("--profile", "shop", "--uninstall")
    assert node.tree() == before


def test_a_dry_run_changes_nothing(node: Node) -> None:
    node.put("etc/crictl.yaml", f"runtime-endpoint: {CRICTL['containerd']}\n")
    node.put("etc/containerd/config.toml", OFF)
    before = node.tree()
    done = node.run("--profile", "shop", "--dry-run")
    assert done.returncode == 0
    assert "would change /etc/containerd/config.toml: NRI is switched on" in done.stdout
    assert "  +disable = false" in done.stdout
    assert node.tree() == before
    assert not [call for call in node.calls() if " cp " in call]


def test_what_cannot_be_done_is_said(node: Node) -> None:
    node.put("etc/crictl.yaml", "runtime-endpoint: unix:///var/run/cri-dockerd.sock\n")
    done = node.run("--profile", "shop")
    assert (done.returncode, "runs docker" in done.stderr) == (1, True)
    node.put("etc/crictl.yaml", f"runtime-endpoint: {CRICTL['containerd']}\n")
    node.put("etc/containerd/config.toml", "version = = 2\n")
    done = node.run("--profile", "shop")
    assert done.returncode == 1
    assert done.stderr.startswith("/etc/containerd/config.toml:1:11: ")
    assert node.run("--profile", "other").returncode == 1


@pytest.mark.parametrize("args", [["--profile"], ["--node"], ["--nonsense"]])
def test_usage(node: Node, args: list[str]) -> None:
    assert node.run(*args).returncode == 2


def test_help(node: Node) -> None:
    done = node.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: minikube-install-hook.sh ")


def test_another_node_of_the_profile_is_named_to_minikube(node: Node) -> None:
    node.put("etc/crictl.yaml", f"runtime-endpoint: {CRICTL['containerd']}\n")
    node.run("--profile", "shop", "--node", "shop-m02", "--dry-run")
    assert all("ssh --node=shop-m02 -- " in call for call in node.calls())


def test_shellcheck_has_nothing_to_say() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""
