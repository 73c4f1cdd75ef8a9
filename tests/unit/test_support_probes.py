# SPDX-License-Identifier: Apache-2.0
"""Probes: what is missing is said, and REQUIRE turns a skip into a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import probes
from tests.support.containerd_config import Runc
from tests.support.probes import (
    Action,
    Verdict,
    judge,
    parse_require,
    probe_btf,
    probe_mount,
    probe_programs,
    probe_runc,
    run_probe,
)


def test_require_takes_names_with_commas_and_spaces() -> None:
    assert parse_require("kernel, container,") == {"kernel", "container"}
    assert parse_require("") == frozenset()


def test_require_refuses_a_name_without_a_probe() -> None:
    with pytest.raises(ValueError, match="REQUIRE has kernal; known: kernel, container, vm, guest"):
        parse_require("kernal")


def test_nothing_missing_runs_the_test() -> None:
    assert judge("kernel", None, frozenset({"kernel"})) == Verdict(Action.RUN)


def test_something_missing_skips_unless_required() -> None:
    assert judge("kernel", "no bpf", frozenset({"container"})) == Verdict(Action.SKIP, "kernel: no bpf")
    assert judge("kernel", "no bpf", frozenset({"kernel"})) == Verdict(Action.FAIL, "kernel: no bpf")


def test_first_missing_thing_is_told_and_ends_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(answer: str | None) -> probes.Probe:
        def probe() -> str | None:
            asked.append(str(answer))
            return answer

        return probe

    monkeypatch.setattr(probes, "PROBES", {"kernel": (ask(None), ask("no BTF"), ask("no bcc"))})
    assert run_probe("kernel") == "no BTF"
    assert asked == ["None", "no BTF"]


def test_absent_type_information_names_the_kernel_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BTF", tmp_path / "vmlinux")
    assert "CONFIG_DEBUG_INFO_BTF" in (probe_btf() or "")
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF")
    assert "magic" in (probe_btf() or "")


def test_file_system_that_the_kernel_has_not_is_named() -> None:
    assert (probe_mount("podgatefs") or "").startswith("podgatefs cannot be mounted")


def test_missing_programs_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODGATE_CACHE", str(tmp_path))
    missing = probe_programs() or ""
    assert "make setup" in missing
    assert f"{tmp_path}/runtimes/forky/usr/bin/containerd" in missing
    assert f"{tmp_path}/runtimes/runc/usr/sbin/runc" in missing
    monkeypatch.setattr(probes, "CONTAINER_PROGRAMS", (tmp_path / "podman",))
    assert f"{tmp_path}/podman" in (probe_programs() or "")


def test_runc_that_does_not_run_is_told_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODGATE_CACHE", str(tmp_path))
    assert (probe_runc(Runc.NEW) or "").endswith("No such file or directory (run `make setup`)")
    program = Runc.NEW.path
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho no such library >&2; exit 1\n")
    program.chmod(0o755)
    assert "does not run: no such library" in (probe_runc(Runc.NEW) or "")
    program.write_text("#!/bin/sh\necho runc version 1.3.6\n")
    assert probe_runc(Runc.NEW) is None


@pytest.mark.parametrize("name", ["probe_programs", "probe_runc"])
def test_container_tests_need_these(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes are looked up when they run, or stand in the table themselves."""
    monkeypatch.setenv("PODGATE_CACHE", "/absent")
    answers = [probe() for probe in probes.PROBES["container"]]
    wanted = {"probe_programs": "not there (run `make setup`)", "probe_runc": "does not run"}[name]
    assert any(wanted in (answer or "") for answer in answers)
