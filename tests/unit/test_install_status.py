# SPDX-License-Identifier: Apache-2.0
"""What status says of trees that stand for hosts, and what it asks running daemons."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nri_plugin.config import PluginConfig, parse_settings
from rthook.install.checks import RuntimeStatus, Verdict
from rthook.install.containerd import SECTION
from rthook.install.daemon import (
    Daemon,
    ask_crio,
    find_daemons,
    is_listening,
    parse_version,
    run_program,
    version_word,
)
from rthook.install.errors import NoRuntimeError
from rthook.install.files import apply_steps
from rthook.install.hooksd import choose_directory
from rthook.install.host import Host
from rthook.install.options import Mode, Options, RuleOptions, RuntimeName
from rthook.install.planner import plan_install
from rthook.install.readers import inspect_hooks_reader
from rthook.install.runtimes import detect, detect_some
from rthook.install.status import status_of
from rthook.install.status_containerd import parse_duration
from tests.support.wait import wait_until

CONFIG = "/etc/containerd/config.toml"
CREATE = "/usr/share/containers/oci/hooks.d/podgate-create.json"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "host/var/lib").mkdir(parents=True)
    return Host(tmp_path / "host")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    binary = tmp_path / "podgate-hook"
    binary.write_bytes(b"\x7fELF a program")
    return Options(binary=binary, rule=RuleOptions(own_namespace="podgate"))


def put(host: Host, path: str, text: str, mode: int = 0o644) -> Path:
    file = host.root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def install(host: Host, options: Options, name: RuntimeName) -> None:
    apply_steps(host, plan_install(host, options, [name]).steps)


def status(host: Host, options: Options, name: RuntimeName) -> RuntimeStatus:
    (found,) = status_of(host, options, [name])
    return found


def faults(found: RuntimeStatus) -> dict[str, str]:
    assert all(bool(check.advice) == (check.verdict is Verdict.WRONG) for check in found.checks)
    return {check.name: check.detail for check in found.checks if check.verdict is Verdict.WRONG}


@pytest.mark.parametrize("name", list(RuntimeName), ids=lambda name: name.value)
def test_what_was_installed_is_as_it_should_be(host: Host, options: Options, name: RuntimeName) -> None:
    install(host, options, name)
    found = status(host, options, name)
    assert faults(found) == {}
    assert found.ok
    assert (found.source, found.pid) == ("file", None)
    assert found.refusal


def test_containerd_without_nri(host: Host, options: Options) -> None:
    put(host, CONFIG, f'version = 2\n[plugins."{SECTION}"]\ndisable_connections = true\n')
    found = status(host, options, RuntimeName.CONTAINERD)
    assert faults(found) == {"NRI": "off", "connections": "only pre-installed plugins"}
    assert found.facts["nri_enabled"] is False


def test_containerd_that_disables_the_plugin(host: Host, options: Options) -> None:
    put(host, CONFIG, f'version = 3\ndisabled_plugins = ["{SECTION}"]\n')
    assert faults(status(host, options, RuntimeName.CONTAINERD)) == {"NRI": "disabled_plugins names it"}


@pytest.mark.parametrize(
    ("timeout", "version", "good"),
    [
        ("2s", "1.7.24", True),
        ("1600ms", "1.7.24", True),
        ("1.5s", "1.7.24", False),
        ("500ms", "2.1.9", True),
        ("100ms", "2.1.9", False),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot takes root")
def test_containerd_that_waits_too_short(host: Host, options: Options, timeout: str, version: str, good: bool) -> None:
    """Since 2.0 it tells the plugin how long it waits."""
    config = f'version = 2\n[plugins."{SECTION}"]\ndisable = false\nplugin_request_timeout = "{timeout}"\n'
    put(host, CONFIG, config)
    words = f"if [ $1 = --version ]; then echo containerd x {version}; else cat {CONFIG}; fi"
    put(host, "/usr/bin/containerd", f"#!/bin/sh\n{words}\n", 0o755)
    for name in ("sh", "cat"):
        target = host.root / "bin" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(Path("/bin/busybox").read_bytes())
        target.chmod(0o755)
    found = status(host, options, RuntimeName.CONTAINERD)
    assert (found.version, found.source) == (version, "binary")
    assert list(faults(found)) == ([] if good else ["patience"])


def test_containerd_configuration_that_cannot_be_read(host: Host, options: Options) -> None:
    put(host, CONFIG, "version = \n")
    assert faults(status(host, options, RuntimeName.CONTAINERD))["configuration"].startswith(f"{CONFIG}:1:11: ")


def test_preinstalled_plugin_that_leads_nowhere(host: Host, options: Options) -> None:
    put(host, CONFIG, "version = 3\n")
    program = put(host, "/usr/bin/podgate-nri", "#!/bin/sh\n", 0o755)
    options = replace(options, mode=Mode.NRI_PREINSTALLED, plugin="/usr/bin/podgate-nri")
    install(host, options, RuntimeName.CONTAINERD)
    found = status(host, options, RuntimeName.CONTAINERD)
    assert faults(found) == {}
    assert found.facts["preinstalled"] is True
    settings = parse_settings((host.root / "etc/nri/conf.d/10-podgate.conf").read_text())
    assert settings.faults == ()
    assert settings.apply(PluginConfig()) == PluginConfig()
    program.unlink()
    (host.root / "etc/nri/conf.d/10-podgate.conf").unlink()
    (host.root / "opt/nri/plugins/10-podgate").chmod(0o644)
    found = status(host, options, RuntimeName.CONTAINERD)
    assert list(faults(found)) == ["plugin", "plugin configuration", "plugin program"]
    assert "/usr/bin/podgate-nri, which is missing" in faults(found)["plugin program"]


def _remove_program(host: Host) -> None:
    (host.root / "usr/libexec/podgate/podgate-hook").unlink()


def _lose_mode(host: Host) -> None:
    (host.root / "usr/libexec/podgate/podgate-hook").chmod(0o644)


def _replace_program(host: Host) -> None:
    (host.root / "usr/libexec/podgate/podgate-hook").write_bytes(b"another")


def _remove_hook(host: Host) -> None:
    (host.root / CREATE.lstrip("/")).unlink()


def _change_hook(**changes: object) -> Callable[[Host], None]:
    def change(host: Host) -> None:
        file = host.root / CREATE.lstrip("/")
        document = json.loads(file.read_text())
        document["hook"] |= {key: value for key, value in changes.items() if key in document["hook"]}
        document |= {key: value for key, value in changes.items() if key in document and key != "hook"}
        file.write_text(json.dumps(document))

    return change


def _break_foreign(host: Host) -> None:
    put(host, "/usr/share/containers/oci/hooks.d/theirs.json", "{")


@pytest.mark.parametrize(
    ("harm", "name", "detail"),
    [
        (_remove_program, "hook program", "is missing: every container's start fails"),
        (_lose_mode, "hook program", "is not executable"),
        (_replace_program, "hook program", "is not the one of this podgate"),
        (_remove_hook, "hook", "podgate-create.json is in none of them"),
        (_change_hook(timeout=2), "hook timeout", "2 s for a hook that takes 2 s at most"),
        (_change_hook(stages=["prestart"]), "hook file", "prestart"),
        (_change_hook(when={"always": False}), "hook file", "createContainer"),
        (_break_foreign, "hooks directory", "does not parse"),
    ],
)
def test_each_harm_to_a_hook_is_told(
    host: Host, options: Options, harm: Callable[[Host], None], name: str, detail: str
) -> None:
    install(host, options, RuntimeName.PODMAN)
    harm(host)
    found = faults(status(host, options, RuntimeName.PODMAN))
    assert list(found) == [name]
    assert detail in found[name]


def test_the_stage_is_told_with_its_reason(host: Host, options: Options) -> None:
    install(host, options, RuntimeName.PODMAN)
    (text,) = (
        check.detail
        for check in status(host, options, RuntimeName.PODMAN).checks
        if CREATE in check.detail and check.name == "hook file"
    )
    assert "createContainer: the hook runs in the container's own cgroup" in text


@pytest.mark.parametrize(
    ("rule", "refused"),
    [("default open\n", False), ("default closed\n", True), ("pattern a-* quarantine\n", True), ("nonsense\n", True)],
)
def test_crio_cannot_refuse_over_nri(host: Host, options: Options, rule: str, refused: bool) -> None:
    put(host, "/etc/crio/crio.conf", "[crio.nri]\nenable_nri = true\n")
    put(host, options.failure_rule, rule)
    found = faults(status(host, options, RuntimeName.CRI_O))
    assert ("refusal" in found) == refused
    assert not refused or "only logged, and the container starts" in found["refusal"]
    install(host, options, RuntimeName.CRI_O)
    assert "refusal" not in faults(status(host, options, RuntimeName.CRI_O))


def test_crio_with_neither_nri_nor_hook(host: Host, options: Options) -> None:
    put(host, "/etc/crio/crio.conf", "[crio.nri]\nenable_nri = false\n")
    assert list(faults(status(host, options, RuntimeName.CRI_O))) == ["hook"]


def test_faults_of_the_failure_rule_are_told(host: Host, options: Options) -> None:
    put(host, options.failure_rule, "default open\nnamespace shop\n")
    found = faults(status(host, options, RuntimeName.PODMAN))
    assert found["failure rule"].startswith(f"{options.failure_rule}: line 2: ")


def test_later_files_of_crio_win(host: Host) -> None:
    put(host, "/etc/crio/crio.conf", '[crio.runtime]\nhooks_dir = ["/a"]\n')
    put(host, "/etc/crio/crio.conf.d/20.conf", '[crio.runtime]\nhooks_dir = ["/c", "/d"]\n')
    put(host, "/etc/crio/crio.conf.d/10.conf", '[crio.runtime]\nhooks_dir = ["/b"]\n[crio.nri]\nenable_nri = true\n')
    put(host, "/etc/crio/crio.conf.d/30.txt", "not TOML")
    reader = inspect_hooks_reader(host, RuntimeName.CRI_O)
    assert (reader.hooks_dirs, reader.nri_enabled) == (("/c", "/d"), True)


def test_later_files_of_podman_win(host: Host) -> None:
    put(host, "/usr/share/containers/containers.conf", '[engine]\nhooks_dir = ["/a"]\n')
    put(host, "/etc/containers/containers.conf.d/10.conf", '[engine]\nhooks_dir = ["/b"]\n')
    assert inspect_hooks_reader(host, RuntimeName.PODMAN).hooks_dirs == ("/b",)


def test_a_directory_that_outlasts_a_boot_is_chosen(host: Host) -> None:
    (host.root / "etc").mkdir()
    assert choose_directory(host, ["/run/hooks.d", "/etc/hooks.d"]) == "/etc/hooks.d"
    assert choose_directory(host, ["/run/hooks.d"]) == "/run/hooks.d"


def test_runtimes_are_found_by_what_they_leave(host: Host) -> None:
    with pytest.raises(NoRuntimeError, match=r"looked for /etc/containerd/config\.toml, .* the program podman"):
        detect_some(host)
    put(host, CONFIG, "")
    put(host, "/usr/local/bin/podman", "", 0o755)
    (host.root / "etc/crio/crio.conf.d").mkdir(parents=True)
    assert detect(host) == tuple(RuntimeName)


@contextmanager
def program(folder: Path, name: str, *args: str) -> Iterator[int]:
    """A process with that command name; a script's name is its process's."""
    script = folder / name
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo crio version 1.31.2\nread -r line\n')
    script.chmod(0o755)
    with subprocess.Popen([script, *args], stdin=subprocess.PIPE, cwd=folder) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == name, 5.0, "the script's start")
        yield process.pid
        process.communicate(b"\n")


def test_daemons_are_found_with_their_options(tmp_path: Path) -> None:
    with program(tmp_path, "podgate-test-d", "--config", "c.toml", "-d=/x") as pid:
        (daemon,) = find_daemons(Host(), "podgate-test-d")
        assert daemon.pid == pid
        assert daemon.option("--config", "-c") == str(tmp_path / "c.toml")
        assert daemon.option("--config-dir", "-d") == "/x"
        assert daemon.option("--other") is None
        assert abs(daemon.started - Path(f"/proc/{pid}").stat().st_ctime) < 60
        assert find_daemons(Host(tmp_path), "podgate-test-d") == []


class _Crio(http.server.BaseHTTPRequestHandler):
    """What cri-o answers to `crio status config`."""

    def do_GET(self) -> None:
        good = self.path == "/config"
        self.send_response(200 if good else 404)
        self.end_headers()
        self.wfile.write(b'[crio.runtime]\nhooks_dir = ["/asked"]\n' if good else b"")

    def log_message(self, *_args: object) -> None:
        """Nothing is to be printed."""


@contextmanager
def crio_socket(path: Path) -> Iterator[None]:
    with socketserver.UnixStreamServer(str(path), _Crio) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_crio_is_asked_over_its_socket(tmp_path: Path) -> None:
    with crio_socket(tmp_path / "s"):
        assert ask_crio(tmp_path / "s") == '[crio.runtime]\nhooks_dir = ["/asked"]\n'
    with pytest.raises(OSError, match="refused"):
        ask_crio(tmp_path / "s")


def test_a_running_crio_is_believed(tmp_path: Path) -> None:
    with crio_socket(tmp_path / "s"), program(tmp_path, "crio", "--listen", str(tmp_path / "s")) as pid:
        reader = inspect_hooks_reader(Host(), RuntimeName.CRI_O)
    assert reader.daemon is not None
    assert (reader.daemon.pid, reader.hooks_dirs, reader.source) == (pid, ("/asked",), "running")


def test_a_running_crio_that_does_not_answer_is_told(tmp_path: Path, options: Options) -> None:
    with program(tmp_path, "crio", "--listen", str(tmp_path / "none")):
        found = status(Host(), options, RuntimeName.CRI_O)
    assert "could not be asked" in faults(found)["daemon"]
    assert found.source == "file"


def test_a_socket_that_listens_is_seen_without_connecting(tmp_path: Path) -> None:
    path = str(tmp_path / "nri.sock")
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(path)
        assert not is_listening(None, path)
        channel.listen()
        assert is_listening(None, path)
    assert not is_listening(None, path)


def test_a_program_that_fails_says_its_last_words() -> None:
    daemon = Daemon(os.getpid(), "python", (), "/", 0.0)
    assert run_program(Host(), daemon, "python", ["-c", "print(1)"]) == "1\n"
    with pytest.raises(OSError, match="ZeroDivisionError"):
        run_program(Host(), daemon, "python", ["-c", "1/0"])
    assert run_program(Host(), None, "/bin/echo", ["x"]) == "x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot takes root")
def test_a_program_of_another_root_runs_in_that_root(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "bin/busybox").chmod(0o755)
    assert run_program(Host(tmp_path), None, "/bin/busybox", ["ls", "/"]) == "bin\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("", None), ("2", None), (None, None)],
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "word", "version"),
    [
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", "2.1.9+unknown", (2, 1)),
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1", "1.7.24~ds1", (1, 7)),
        ("containerd containerd.io v1.7.27 05044ec0a9a7", "v1.7.27", (1, 7)),
        ("podman version 4.3.1", "4.3.1", (4, 3)),
        ("nothing", "unknown", None),
    ],
)
def test_versions(text: str, word: str, version: tuple[int, int] | None) -> None:
    assert (version_word(text), parse_version(text)) == (word, version)
