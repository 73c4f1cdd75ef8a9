# SPDX-License-Identifier: Apache-2.0
"""Installations into trees: twice changes nothing, uninstalling leaves no trace, and a kill anywhere is repaired."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rthook.failure import Treatment, read_rule
from rthook.install.containerd import SECTION, nri_section
from rthook.install.edits import backup_of
from rthook.install.errors import (
    BinaryMissingError,
    ConfigSyntaxError,
    InstallError,
    NotWritableError,
    RecordError,
    UnsupportedError,
)
from rthook.install.files import apply_steps, check_writable
from rthook.install.host import Host
from rthook.install.options import HookOptions, Mode, Options, RuleOptions, RuntimeName, Stage
from rthook.install.plan import Plan, PutFile
from rthook.install.planner import plan_install, plan_uninstall
from rthook.install.record import RECORD

BINARY = b"\x7fELF a program\0"
CONFIG = "/etc/containerd/config.toml"
HOOKS_DIR = "/usr/share/containers/oci/hooks.d"
OFF = f'# theirs\nversion = 2\n\n[plugins."{SECTION}"]\n  disable = true # off\n'
CRIO_CONFIG = '[crio.runtime]\nhooks_dir = ["/run/oci/hooks.d", "/etc/oci/hooks.d"]\n'
ALL = (RuntimeName.CONTAINERD, RuntimeName.CRI_O, RuntimeName.PODMAN)
# What the interpreter tells of before it is done: a kill there leaves everything before.
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"})

Tree = dict[str, tuple[int, bytes]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    root = tmp_path / "host"
    (root / "var/lib").mkdir(parents=True)
    return Host(root)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    binary = tmp_path / "podgate-hook"
    binary.write_bytes(BINARY)
    return Options(binary=binary, rule=RuleOptions(own_namespace="podgate"))


def put(host: Host, path: str, text: str, mode: int = 0o644) -> Path:
    file = host.root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, newline="")
    file.chmod(mode)
    return file


def tree(host: Host) -> Tree:
    """Every path with its mode and content; directories end in a slash."""
    found: Tree = {}
    for path in host.root.rglob("*"):
        name, mode = str(path.relative_to(host.root)), stat.S_IMODE(path.stat().st_mode)
        found[name + "/" * path.is_dir()] = (mode, b"" if path.is_dir() else path.read_bytes())
    return found


def carry_out(host: Host, plan: Plan) -> Plan:
    check_writable(host, plan.steps)
    apply_steps(host, plan.steps)
    return plan


def install(host: Host, options: Options, *names: RuntimeName) -> Plan:
    return carry_out(host, plan_install(host, options, names))


def uninstall(host: Host, options: Options, *names: RuntimeName) -> Plan:
    return carry_out(host, plan_uninstall(host, options, names))


def furnish(host: Host) -> None:
    """A node with everything: containerd that imports, cri-o, and podman."""
    put(host, CONFIG, 'version = 2\nimports = ["conf.d/*.toml"]\n', 0o600)
    put(host, "/etc/containerd/conf.d/10.toml", OFF)
    put(host, "/etc/crio/crio.conf.d/10.conf", CRIO_CONFIG)
    put(host, "/usr/bin/podman", "#!/bin/sh\necho podman version 4.3.1\n", 0o755)
    put(host, "/etc/oci/hooks.d/theirs.json", '{"version": "1.0.0"}')


@pytest.mark.parametrize("names", [ALL, *((name,) for name in ALL)], ids=lambda names: "-".join(n.value for n in names))
def test_twice_changes_nothing_and_uninstalling_leaves_no_trace(
    host: Host, options: Options, names: tuple[RuntimeName, ...]
) -> None:
    furnish(host)
    before = tree(host)
    assert install(host, options, *names).steps
    installed = tree(host)
    assert install(host, options, *names).steps == ()
    assert tree(host) == installed
    assert installed != before
    uninstall(host, options, *names)
    assert tree(host) == before
    assert uninstall(host, options, *names).steps == ()


def test_a_plan_changes_nothing(host: Host, options: Options) -> None:
    furnish(host)
    before = tree(host)
    assert plan_install(host, options, ALL).steps
    assert tree(host) == before


def kill_at(number: int, work: Callable[[], object]) -> int:
    """Runs `work` in a child that is killed before its change `number`; the child's wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    left = number

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_CREAT)
        if event in CHANGES or writes:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(watch)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def check_between(host: Host) -> None:
    """What must hold whenever a container may start: what calls us is whole, and what it calls is there."""
    for hook in (*host.root.glob("etc/oci/hooks.d/podgate*.json"), *host.root.glob("usr/share/**/podgate*.json")):
        program = host.root / json.loads(hook.read_text())["hook"]["path"].lstrip("/")
        assert program.read_bytes() == BINARY
        assert os.access(program, os.X_OK)
    for config in host.root.glob("etc/containerd/**/*.toml"):
        assert tomllib.loads(config.read_text())["version"] == 2
    for launcher in host.root.glob("opt/nri/plugins/*"):
        assert launcher.name.startswith(".") or (host.root / "usr/libexec/podgate/podgate-nri").exists()


@pytest.mark.parametrize("first", [install, uninstall])
def test_a_kill_at_any_change_is_repaired_by_the_next_call(
    host: Host, options: Options, first: Callable[..., Plan], tmp_path: Path
) -> None:
    furnish(host)
    put(host, "/usr/bin/podgate-nri", "#!/bin/sh\n", 0o755)
    options = replace(options, mode=Mode.NRI_PREINSTALLED, plugin="/usr/bin/podgate-nri")
    before = tree(host)
    shutil.copytree(host.root, tmp_path / "before")
    install(host, options, *ALL)
    installed = tree(host)
    shutil.copytree(host.root, tmp_path / "installed")
    for number in range(1000):
        shutil.rmtree(host.root)
        shutil.copytree(tmp_path / ("before" if first is install else "installed"), host.root)
        status = kill_at(number, lambda: first(host, options, *ALL))
        check_between(host)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        install(host, options, *ALL)
        assert tree(host) == installed, f"installed again after a kill before change {number}"
        uninstall(host, options, *ALL)
        assert tree(host) == before, f"uninstalled after a kill before change {number}"
    assert number > len(installed) - len(before)


def test_an_uninstallation_that_is_killed_is_finished_by_the_next(host: Host, options: Options, tmp_path: Path) -> None:
    furnish(host)
    before = tree(host)
    install(host, options, *ALL)
    shutil.copytree(host.root, tmp_path / "installed")
    number, status = 0, 1
    while not os.WIFEXITED(status):
        shutil.rmtree(host.root)
        shutil.copytree(tmp_path / "installed", host.root)
        status = kill_at(number, lambda: uninstall(host, options, *ALL))
        uninstall(host, options, *ALL)
        assert tree(host) == before, f"after a kill before change {number}"
        number += 1


def test_a_change_of_options_that_is_killed_is_finished_by_the_next(
    host: Host, options: Options, tmp_path: Path
) -> None:
    furnish(host)
    before = tree(host)
    install(host, options, RuntimeName.CRI_O)
    shutil.copytree(host.root, tmp_path / "installed")
    rule = RuleOptions("closed", ("shop",), "podgate", asked=True)
    other = replace(options, hooks_dir="/etc/other.d", install_dir="/opt/podgate", rule=rule)
    number, status = 0, 1
    while not os.WIFEXITED(status):
        shutil.rmtree(host.root)
        shutil.copytree(tmp_path / "installed", host.root)
        status = kill_at(number, lambda: install(host, other, RuntimeName.CRI_O))
        check_between(host)
        install(host, other, RuntimeName.CRI_O)
        assert not (host.root / "usr/libexec").exists()
        assert sorted(os.listdir(host.root / "etc/oci/hooks.d")) == ["theirs.json"]
        assert read_rule(host.root / "etc/podgate/failure-rule").default is Treatment.CLOSED
        uninstall(host, other, RuntimeName.CRI_O)
        assert tree(host) == before, f"after a kill before change {number}"
        number += 1


def test_the_program_comes_before_what_calls_it_and_goes_after(host: Host, options: Options) -> None:
    furnish(host)
    paths = [step.path for step in install(host, options, RuntimeName.CRI_O).steps]
    program, hook = "/usr/libexec/podgate/podgate-hook", "/etc/oci/hooks.d/podgate-create.json"
    assert paths.index(program) < paths.index(hook)
    paths = [step.path for step in uninstall(host, options, RuntimeName.CRI_O).steps]
    assert paths.index(hook) < paths.index(program)


def test_two_hook_files_with_a_stage_each(host: Host, options: Options) -> None:
    furnish(host)
    hook = HookOptions(Stage.CREATE_RUNTIME, "/run/other.sock", deadline_ms=1001)
    install(host, replace(options, hook=hook), RuntimeName.CRI_O)
    create, poststop = (
        json.loads((host.root / f"etc/oci/hooks.d/podgate-{name}.json").read_text()) for name in ("create", "poststop")
    )
    assert create["hook"] == {
        "path": "/usr/libexec/podgate/podgate-hook",
        "args": [
            "podgate-hook",
            "createRuntime",
            "--runtime=crio",
            "--agent-socket=/run/other.sock",
            "--deadline-ms=1001",
        ],
        "timeout": 5,
    }
    assert (create["stages"], create["when"], create["version"]) == (["createRuntime"], {"always": True}, "1.0.0")
    assert "user namespaces" in create["description"]
    assert (poststop["stages"], poststop["hook"]["args"][:2]) == (["poststop"], ["podgate-hook", "poststop"])


def test_a_directory_that_two_runtimes_read_has_one_pair_of_files_for_both(host: Host, options: Options) -> None:
    put(host, "/etc/crio/crio.conf", "")
    put(host, "/usr/bin/podman", "#!/bin/sh\n", 0o755)
    plan = install(host, options, RuntimeName.CRI_O)
    hook = json.loads((host.root / f"{HOOKS_DIR.lstrip('/')}/podgate-create.json").read_text())
    assert hook["hook"]["args"][2] == "--runtime=auto"
    assert any("cri-o and podman both read" in text for text in plan.notes)
    assert install(host, options, RuntimeName.PODMAN).notes == plan.notes
    assert not any(isinstance(step, PutFile) for step in plan_install(host, options, ALL[1:]).steps)


def test_what_another_runtime_needs_stays(host: Host, options: Options) -> None:
    furnish(host)
    before = tree(host)
    install(host, options, *ALL)
    uninstall(host, options, RuntimeName.CRI_O)
    assert (host.root / "usr/libexec/podgate/podgate-hook").exists()
    assert not (host.root / "etc/oci/hooks.d/podgate-create.json").exists()
    uninstall(host, options, RuntimeName.PODMAN)
    assert not (host.root / "usr").joinpath("libexec").exists()
    assert (host.root / "etc/podgate/failure-rule").exists()
    uninstall(host, options, RuntimeName.CONTAINERD)
    assert tree(host) == before


def test_uninstalling_without_a_record_goes_by_name(host: Host, options: Options) -> None:
    furnish(host)
    before = tree(host)
    install(host, options, *ALL)
    shutil.rmtree(host.root / "var/lib/podgate")
    notes = uninstall(host, options, *ALL).notes
    assert [note for note in notes if "found by name" in note] == [
        f"{name.value}: no record of an installation, found by name" for name in ALL
    ]
    left = {path for path in tree(host) if not path.endswith("/")} - set(before)
    assert left == {"etc/podgate/failure-rule"}
    assert {path: tree(host)[path] for path in before} == before


def test_a_users_change_survives_and_only_our_keys_are_undone(host: Host, options: Options) -> None:
    config = put(host, CONFIG, OFF)
    install(host, options, RuntimeName.CONTAINERD)
    config.write_text(config.read_text() + '\n[debug]\nlevel = "info"\n')
    assert {step.path for step in install(host, options, RuntimeName.CONTAINERD).steps} == {backup_of(CONFIG), RECORD}
    assert uninstall(host, options, RuntimeName.CONTAINERD).notes == ()
    assert config.read_text() == OFF + '\n[debug]\nlevel = "info"\n'
    assert sorted(os.listdir(config.parent)) == ["config.toml"]


def test_a_users_change_is_told_when_undone(host: Host, options: Options) -> None:
    config = put(host, CONFIG, OFF)
    install(host, options, RuntimeName.CONTAINERD)
    config.write_text(config.read_text() + "# theirs\n")
    assert [note for note in uninstall(host, options, RuntimeName.CONTAINERD).notes if "changed since" in note]
    assert config.read_text() == OFF + "# theirs\n"


def test_a_user_who_switched_it_off_again_keeps_the_newest_file(host: Host, options: Options) -> None:
    config = put(host, CONFIG, OFF)
    install(host, options, RuntimeName.CONTAINERD)
    theirs = config.read_text().replace("false", "true") + "# theirs\n"
    config.write_text(theirs)
    install(host, options, RuntimeName.CONTAINERD)
    assert nri_section(tomllib.loads(config.read_text())) == {"disable": False}
    uninstall(host, options, RuntimeName.CONTAINERD)
    assert config.read_text() == theirs


def test_a_backup_that_is_gone_is_told(host: Host, options: Options) -> None:
    config = put(host, CONFIG, OFF)
    install(host, options, RuntimeName.CONTAINERD)
    config.with_name("config.toml.podgate-backup").unlink()
    on = config.read_text()
    (note,) = (text for text in uninstall(host, options, RuntimeName.CONTAINERD).notes if "is gone" in text)
    assert "stays as it is" in note
    assert config.read_text() == on


def test_a_missing_configuration_is_made_and_goes_again(host: Host, options: Options) -> None:
    before = tree(host)
    plan = install(host, options, RuntimeName.CONTAINERD)
    assert tomllib.loads((host.root / CONFIG.lstrip("/")).read_text()) == {
        "version": 2,
        "plugins": {SECTION: {"disable": False}},
    }
    assert plan.commands == ("systemctl restart containerd",)
    assert install(host, options, RuntimeName.CONTAINERD).steps == ()
    uninstall(host, options, RuntimeName.CONTAINERD)
    assert tree(host) == before


def test_containerd_2_without_a_configuration_needs_none(host: Host, options: Options) -> None:
    put(host, CONFIG, "version = 3\n")
    plan = install(host, options, RuntimeName.CONTAINERD)
    assert CONFIG not in {step.path for step in plan.steps}
    assert plan.commands == ()


def test_a_broken_configuration_changes_nothing(host: Host, options: Options) -> None:
    put(host, CONFIG, "version = 2\nroot = = 1\n")
    before = tree(host)
    with pytest.raises(ConfigSyntaxError, match=r"^/etc/containerd/config\.toml:2:8: "):
        install(host, options, *ALL)
    assert tree(host) == before


def test_a_broken_import_is_named(host: Host, options: Options) -> None:
    put(host, CONFIG, 'version = 2\nimports = ["conf.d/*.toml", "gone.toml"]\n')
    put(host, "/etc/containerd/conf.d/1.toml", "x")
    with pytest.raises(ConfigSyntaxError, match=r"^/etc/containerd/conf\.d/1\.toml:1:2: "):
        install(host, options, RuntimeName.CONTAINERD)


def test_an_import_that_is_not_there_is_told(host: Host, options: Options) -> None:
    put(host, CONFIG, 'version = 2\nimports = ["gone.toml"]\n')
    notes = plan_install(host, options, [RuntimeName.CONTAINERD]).notes
    assert "/etc/containerd/gone.toml is imported and does not exist" in notes


def test_oci_hooks_of_containerd_are_explained(host: Host, options: Options) -> None:
    with pytest.raises(UnsupportedError, match="base_runtime_spec"):
        install(host, replace(options, mode=Mode.OCI), RuntimeName.CONTAINERD)


def test_preinstalled_plugin_needs_a_program_on_the_host(host: Host, options: Options) -> None:
    options = replace(options, mode=Mode.NRI_PREINSTALLED, plugin="/usr/bin/podgate-nri")
    with pytest.raises(UnsupportedError, match="--plugin"):
        install(host, options, RuntimeName.CONTAINERD)


def test_preinstalled_plugin_goes_where_the_configuration_says(host: Host, options: Options) -> None:
    put(host, CONFIG, f'version = 3\n[plugins."{SECTION}"]\nplugin_path = "/p"\nplugin_config_path = "/c"\n')
    put(host, "/usr/bin/podgate-nri", '#!/bin/sh\necho "$0" "$@"\n', 0o755)
    options = replace(options, mode=Mode.NRI_PREINSTALLED, plugin="/usr/bin/podgate-nri", install_dir="/opt/podgate")
    plan = install(host, options, RuntimeName.CONTAINERD)
    assert (host.root / "p/10-podgate").read_text().endswith('exec /opt/podgate/podgate-nri "$@"\n')
    assert os.access(host.root / "p/10-podgate", os.X_OK)
    assert (host.root / "opt/podgate/podgate-nri").read_text().endswith('exec /usr/bin/podgate-nri "$@"\n')
    assert "agent-socket: /run/podgate/agent.sock" in (host.root / "c/10-podgate.conf").read_text().splitlines()
    assert plan.commands == ("systemctl restart containerd",)


def test_the_failure_rule_exempts_the_system_and_ourselves(host: Host, options: Options) -> None:
    rule = RuleOptions("quarantine", ("shop",), "podgate", asked=True)
    install(host, replace(options, rule=rule), RuntimeName.CONTAINERD)
    written = read_rule(host.root / "etc/podgate/failure-rule")
    assert written.faults == ()
    assert (written.default, written.exempt) == (Treatment.QUARANTINE, ("kube-system", "podgate", "shop"))


def test_a_failure_rule_that_is_there_is_nobodys_but_the_users(host: Host, options: Options) -> None:
    file = put(host, options.failure_rule, "default closed\n")
    asked = replace(options, rule=RuleOptions("open", asked=True))
    notes = install(host, asked, RuntimeName.CONTAINERD).notes
    assert f"{options.failure_rule} exists and stays as it is" in notes
    uninstall(host, options, RuntimeName.CONTAINERD)
    assert file.read_text() == "default closed\n"


def test_a_failure_rule_of_ours_that_was_edited_stays(host: Host, options: Options) -> None:
    install(host, options, RuntimeName.CONTAINERD)
    file = host.root / options.failure_rule.lstrip("/")
    file.write_text("default closed\n")
    assert install(host, options, RuntimeName.CONTAINERD).steps == ()
    notes = uninstall(host, options, RuntimeName.CONTAINERD).notes
    assert f"{options.failure_rule} was changed by hand and stays" in notes
    assert file.read_text() == "default closed\n"


def test_an_unknown_namespace_of_ours_is_told(host: Host, options: Options) -> None:
    notes = plan_install(host, replace(options, rule=RuleOptions()), [RuntimeName.CONTAINERD]).notes
    assert any("--own-namespace" in note for note in notes)


def test_a_foreign_file_that_does_not_parse_is_told(host: Host, options: Options) -> None:
    put(host, f"{HOOKS_DIR}/theirs.json", "{")
    put(host, f"{HOOKS_DIR}/notes.txt", "{")
    (note,) = plan_install(host, options, [RuntimeName.PODMAN]).notes
    assert note.startswith(f"{HOOKS_DIR}/theirs.json does not parse")
    assert "podman refuses every container" in note


def test_a_directory_that_the_runtime_does_not_read_is_told(host: Host, options: Options) -> None:
    (note,) = plan_install(host, replace(options, hooks_dir="/srv/hooks"), [RuntimeName.PODMAN]).notes
    assert f"podman reads {HOOKS_DIR}, not /srv/hooks" in note


def test_a_program_that_lost_its_mode_is_repaired(host: Host, options: Options) -> None:
    install(host, options, RuntimeName.PODMAN)
    program = host.root / "usr/libexec/podgate/podgate-hook"
    program.chmod(0o644)
    assert [step.path for step in install(host, options, RuntimeName.PODMAN).steps] == [options.hook_path]
    assert os.access(program, os.X_OK)


def test_a_hook_is_not_installed_without_its_program(host: Host, options: Options, tmp_path: Path) -> None:
    with pytest.raises(BinaryMissingError, match="make hook"):
        install(host, replace(options, binary=tmp_path / "none"), RuntimeName.PODMAN)


def test_a_record_of_something_else_is_refused(host: Host, options: Options) -> None:
    for text in ("{", "[]", '{"version": 2}', '{"version": 1, "runtimes": {"x": {}}, "directories": []}'):
        put(host, RECORD, text)
        with pytest.raises(RecordError, match=f"^{RECORD}: "):
            install(host, options, RuntimeName.PODMAN)


def read_only(paths: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a read-only mount answers, of which root is no exception either."""
    access = os.access

    def refuse(path: Path, mode: int, **more: bool) -> bool:
        return access(path, mode, **more) and not (mode & os.W_OK and any(path.is_relative_to(p) for p in paths))

    monkeypatch.setattr(os, "access", refuse)


def test_a_read_only_place_names_the_option(host: Host, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(host)
    before = tree(host)
    read_only([host.root / "usr"], monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(NotWritableError, match="name another directory with --install-dir"):
        install(host, options, RuntimeName.CRI_O)
    assert tree(host) == before
    install(host, replace(options, install_dir="/var/lib/podgate/bin"), RuntimeName.CRI_O)
    assert (host.root / "var/lib/podgate/bin/podgate-hook").exists()
    uninstall(host, options, RuntimeName.CRI_O)
    assert tree(host) == before


def test_what_fails_in_between_says_which_step(host: Host, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_new: Path, _path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(InstallError, match=r"write /var/lib/podgate/hooks\.json.*: No space left"):
        install(host, options, RuntimeName.PODMAN)
