# SPDX-License-Identifier: Apache-2.0
"""What this kernel says of writing to the memory of processes, and what becomes of a policy that wants it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel import bpf, user_writes
from agent.kernel.errors import KernelError
from agent.kernel.instructions import RETURN, RETURN_0, encode
from agent.kernel.user_writes import find_write_refusal
from agent.policy.facts import FactsError
from tests.support.agent import run_cli
from tests.support.language import act, arg, build_subject, document

pytestmark = pytest.mark.kernel

ASK = "from agent.kernel.user_writes import find_write_refusal; print(find_write_refusal())"


def ask_without(*options: str) -> str:
    """What a process says that was started with these options of setpriv(1)."""
    command = ["setpriv", *options, sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_loader_without_the_capability_is_refused_and_told_why() -> None:
    """The kernel hands out the helper to nobody else, and says no more than when it is locked down."""
    told = ask_without("--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert told == "the kernel refuses bpf_probe_write_user, since the agent lacks CAP_SYS_ADMIN"


def test_what_cannot_be_tried_is_not_taken_for_a_refusal() -> None:
    told = ask_without("--bounding-set=-all", "--inh-caps=-all")
    assert "whether programs may write to processes is unknown: bpf(PROG_LOAD pg_probe): EPERM" in told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("none [integrity] confidentiality\n", "since it is locked down for integrity"),
        ("none integrity [confidentiality]\n", "since it is locked down for confidentiality"),
        (None, "as kernels do that are locked down"),
    ],
)
def test_refusal_names_the_lockdown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, reason: str
) -> None:
    def refuse(*_: object) -> bpf.Fd:
        hint = "0: program of this type cannot use helper bpf_probe_write_user#36"
        raise KernelError("bpf(PROG_LOAD pg_probe)", 22, hint)

    monkeypatch.setattr(bpf, "load_program", refuse)
    lockdown = tmp_path / "lockdown"
    if text:
        lockdown.write_text(text)
    assert find_write_refusal(lockdown) == f"the kernel refuses bpf_probe_write_user, {reason}"


def test_kernel_that_takes_the_program_gives_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """With helper 112, probe_read_user, instead of 36."""
    allocate, into_stack = encode(0x7A, 10, offset=-8), encode(0xBF, 1, 10) + encode(0x07, 1, immediate=-8)
    read = encode(0xB7, 2, immediate=8) + encode(0xB7, 3) + encode(0x85, immediate=112)
    monkeypatch.setattr(user_writes, "WRITE_USER", allocate + into_stack + read + RETURN_0)
    assert find_write_refusal() == ""
    monkeypatch.setattr(user_writes, "WRITE_USER", RETURN)
    with pytest.raises(FactsError, match="is unknown"):
        find_write_refusal()


def test_policy_is_checked_on_this_node(tmp_path: Path) -> None:
    """With its place and the reason, and without an agent."""
    gauge = {"path": str(build_subject(tmp_path)), "provider": "podgate_test", "name": "gauge"}
    selector = {"matchActions": [act("Set", argIndex=0, argValue=41)]}
    text = json.dumps(document("set", usdts=[gauge | {"args": [arg(0, "int32")], "selectors": [selector]}]))
    file = tmp_path / "set.yaml"
    file.write_text(text)
    done = run_cli(tmp_path, "policy", "check", "--node", str(file))
    place = text.index('{"action": "Set"') + 1
    refusal = find_write_refusal()
    told = f"{file}:1:{place}: Set is not possible on this node: {refusal}, leave it out" if refusal else ""
    assert (told in done.stdout + done.stderr, done.returncode) == (True, 1 if refusal else 0)
