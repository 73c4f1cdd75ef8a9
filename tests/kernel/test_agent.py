# SPDX-License-Identifier: Apache-2.0
"""The agent's life: why it does not start, what a crash leaves in force, what a stop leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.base import ATTACHED
from tests.support import system
from tests.support.agent import AgentProcess, EventReader, command, run_cli
from tests.support.names import unique_name
from tests.support.wait import wait_until
from tests.support.workload import (
    POST,
    Cgroup,
    Identity,
    Node,
    kprobe,
    lseek_policy,
    match,
    message,
    policy,
    selector,
    start_node,
    step,
    steps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

START_S = 60.0


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"{unique_name('run')}-") as folder:
        yield Path(folder)


def start_refused(run_dir: Path, *options: str, before: str = "", wrapper: str = "") -> str:
    """What an agent says that does not start, in a mount namespace of its own where a shell first does `before`."""
    pins = Path("/sys/fs/bpf") / unique_name("pin")
    words = [command("podgate-agent"), "--run-dir", str(run_dir), "--pin-dir", str(pins), *options]
    script = f"set -e\n{before}\nexec {wrapper} " + ' "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in run_dir.iterdir() if path.suffix == ".sock"] == []
    assert not pins.exists()
    return done.stderr.rstrip().rpartition("podgate-agent: ")[2]


UNMOUNT = "while umount /sys/fs/bpf 2>/dev/null; do :; done"
TRACEFS = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"
OWN_MOUNTS = f"{UNMOUNT}\nmount -t bpf bpf /sys/fs/bpf\n{TRACEFS}"
HIDE_BTF = "mount -t tmpfs tmpfs /sys/kernel/btf"
HIDE_BPFFS = f"{UNMOUNT}\nmount -t tmpfs tmpfs /sys/fs"


def test_without_root_it_does_not_start(run_dir: Path) -> None:
    run_dir.chmod(0o777)
    cache = str(run_dir / "cache")
    said = start_refused(run_dir, "--cache-dir", cache, wrapper="setpriv --reuid 65534 --regid 65534 --clear-groups")
    assert "needs root with CAP_BPF" in said
    assert "start it as root" in said


def test_without_capabilities_it_does_not_start(run_dir: Path) -> None:
    wrapper = "setpriv --inh-caps=-all --bounding-set=-bpf,-perfmon,-sys_admin"
    said = start_refused(run_dir, before=OWN_MOUNTS, wrapper=wrapper)
    assert said == "the agent lacks CAP_BPF and CAP_PERFMON: start it privileged, or add the capabilities"


def test_hidden_btf_is_asked_for(calls_program: Path, run_dir: Path) -> None:
    """Of bpf(2); what the kernel shows is not there, and nor is a header tree made of it."""
    wrapper = ("unshare", "-m", "sh", "-c", f'{HIDE_BTF} && exec "$@"', "sh")
    with AgentProcess("--cache-dir", str(run_dir / "cache"), wrapper=wrapper) as agent:
        assert list(Path(f"/proc/{agent.pid}/root/sys/kernel/btf").iterdir()) == []
        with closing(Node(agent, calls_program)) as node, node.container() as cgroup:
            agent.add(json.dumps(lseek_policy("p")))
            assert cgroup.run(step("lseek", -1, 0, 0)).status == -signal.SIGKILL


def test_without_a_place_for_bpffs_it_does_not_start(run_dir: Path) -> None:
    said = start_refused(run_dir, before=HIDE_BPFFS)
    assert said == "/sys/fs/bpf does not exist; the kernel needs CONFIG_BPF_SYSCALL=y and sysfs on /sys"


def test_bpffs_that_cannot_be_mounted_is_named(run_dir: Path) -> None:
    said = start_refused(run_dir, before=UNMOUNT, wrapper="setpriv --inh-caps=-all --bounding-set=-sys_admin")
    assert said.startswith("mount bpf on /sys/fs/bpf: EPERM")
    assert "mount the BPF file system there" in said


def test_pin_directory_outside_of_bpffs_is_refused(run_dir: Path) -> None:
    said = start_refused(run_dir, "--pin-dir", str(run_dir / "pins"))
    assert "bpf(OBJ_PIN" in said


def test_second_agent_on_a_run_directory_is_refused(shared_node: Node) -> None:
    words = [command("podgate-agent"), "--run-dir", str(shared_node.agent.run_dir), "--pin-dir", "/sys/fs/bpf/never"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 1
    assert f"another agent runs with {shared_node.agent.run_dir}: stop it, or use --run-dir" in done.stderr
    assert shared_node.agent.control.status().pid == shared_node.agent.pid


def test_faults_of_the_policy_directory_are_told_with_their_places(run_dir: Path) -> None:
    policies = run_dir / "policies"
    policies.mkdir()
    (policies / "good.yaml").write_text(json.dumps(lseek_policy("good")))
    (policies / "a.yaml").write_text("apiVersion: cilium.io/v1alpha1\nkind: TracingPolice\n")
    (policies / "b.yaml").write_text(json.dumps(policy("b", kprobe("lsek", {}))))
    (policies / "notes.txt").write_text("not a policy")
    said = start_refused(run_dir, "--policy-dir", str(policies))
    places = [line.split(": ")[0] for line in said.splitlines()]
    assert f"{policies}/a.yaml:2:7" in places
    assert any(place.startswith(f"{policies}/b.yaml:1:") for place in places)
    assert not any("good.yaml" in place or "notes" in place for place in places)


def test_ring_that_is_no_power_of_two_is_a_usage_error(run_dir: Path) -> None:
    words = [command("podgate-agent"), "--run-dir", str(run_dir), "--ring-kib", "12"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert "12 is not a power of two" in done.stderr


def test_stop_leaves_nothing(run_dir: Path) -> None:
    """Mounts are looked at from inside of the agent's mount namespace, in which it had to mount both file systems."""
    pins = Path("/sys/fs/bpf") / unique_name("pin")
    count = f"grep -cE ' ({run_dir}/tracing|/sys/fs/bpf) .* - (bpf|tracefs) '"
    script = f"""{UNMOUNT}
    while umount /sys/kernel/tracing 2>/dev/null; do :; done
    "$@" >&2 & agent=$!; echo $agent; read line; {count} /proc/self/mountinfo
    kill $agent; wait $agent; echo $?; {count} /proc/self/mountinfo"""
    words = [
        command("podgate-agent"),
        "--run-dir",
        str(run_dir),
        "--pin-dir",
        str(pins),
        "--log-file",
        str(run_dir / "log"),
    ]
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", *words], stdin=-1, stdout=-1, text=True) as shell:
        wait_until((run_dir / "agent.sock").exists, START_S, "the agent's socket")
        children = _children_of(run_dir)
        out, _ = shell.communicate("stop\n", timeout=START_S)
    _, mounted, status, left = out.split()
    assert (mounted, status, left) == ("2", "0", "0")
    assert sorted(path.name for path in run_dir.iterdir()) == ["agent.lock", "log"]
    assert len(children) == 1
    assert not any(map(system.is_running, children))
    assert '"stopping: no policy is enforced any more"' in (run_dir / "log").read_text()


def _children_of(run_dir: Path) -> list[int]:
    """The processes that the agent on this run directory started."""
    agent = next(pid for pid in system.find_processes(str(run_dir)) if "sh -c" not in system.read_cmdline(pid))
    return [int(pid) for task in Path(f"/proc/{agent}/task").glob("*/children") for pid in task.read_text().split()]


def test_rules_outlive_a_crash_until_the_next_agent_knows_the_containers(calls_program: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(lseek_policy("p", namespace="default")))
    with start_node(calls_program, "--policy-dir", str(tmp_path)) as node, node.cgroup() as group:
        init = group.start(["wait"])
        init.await_waiting()
        node.announce(init.pid, Identity("default"), id="one")
        events_pid = node.agent.control.status().events_pid
        node.agent.background.process.kill()
        node.agent.background.process.wait()
        assert group.call("lseek", -1, 0, 0).killed
        wait_until(lambda: not system.is_running(events_pid), 10, "the event process to end with its agent")
        node.agent.restart(crash=True)
        assert group.call("lseek", -1, 0, 0).killed
        previous = node.agent.pin_dir.with_name(node.agent.pin_dir.name + "-previous")
        assert previous.exists()
        node.hook.synchronize([message(init.pid, Identity("default"), id="one")])
        node.agent.background.await_event("an earlier agent's rules end here")
        assert not previous.exists()
        released = [line for line in node.agent.background.lines() if "earlier agent" in line["event"]]
        assert (released[0]["links"], released[0]["synchronized"]) == (len(ATTACHED) + 1, True)  # and lseek's
        with EventReader(node.agent.run_dir) as heard:
            ended = group.call("lseek", -1, 0, 0)
            assert ended.killed
            assert heard.find(lambda event: event.get("type") == "policy")["process"]["pid"] == ended.pid
    assert not node.agent.pin_dir.exists()


def test_event_process_that_is_killed_is_started_again_with_all_names(node: Node) -> None:
    node.add(lseek_policy("named", actions=POST, namespace="default"))
    before = node.agent.control.status()
    with node.container("default", {"app": "web"}, pod="web-1") as group:
        os.kill(before.events_pid, signal.SIGKILL)
        wait_until(
            lambda: node.agent.control.status().events_pid not in (0, before.events_pid), 20, "another event process"
        )
        with EventReader(node.agent.run_dir) as heard:
            pid = group.call("lseek", -1, 0, 0).pid
            event = heard.find(lambda event: bool(event.get("process") and event["process"]["pid"] == pid))
    assert (event["policy"]["name"], event["pod"]["name"], event["pod"]["labels"]) == ("named", "web-1", {"app": "web"})
    assert node.agent.control.status().events_restarts == before.events_restarts + 1


def test_enforcement_does_not_need_the_event_process(node: Node) -> None:
    node.add(lseek_policy("p", namespace="default"))
    with node.container() as group:
        os.kill(node.agent.control.status().events_pid, signal.SIGKILL)
        assert group.call("lseek", -1, 0, 0).killed
        wait_until(lambda: node.agent.control.status().events_pid != 0, 20, "another event process")


def big_events() -> dict[str, Any]:
    """Posts each access of a path that begins with /sss."""
    hook = kprobe("access", {0: "string"}, selector(match(0, "Prefix", "/sss"), actions=POST))
    return policy("big", hook, namespace="default")


def make_big_events(group: Cgroup, count: int) -> None:
    """Of some 4,200 bytes each."""
    ended = group.run(steps(*[step("access", "/" + "s" * 4000, 0)] * count))
    assert len(ended.results) == count


def test_slow_reader_is_told_how_much_it_missed(calls_program: Path) -> None:
    """What it gets and what it is told of add up to what was made."""
    made = 2000
    with start_node(calls_program, "--ring-kib", "16384") as node, node.container() as group:
        node.add(big_events())
        with _subscribe(node) as slow, EventReader(node.agent.run_dir) as quick:
            for number in range(250, made + 1, 250):
                make_big_events(group, 250)
                wait_until(partial(_has_heard, quick, number), 30, "all events at the reader that keeps up")
            got = _drain(slow, made)
        assert node.counter("events_lost") == 0
    assert got["lost"] > 0
    assert got["policy"] + got["lost"] == made


def _has_heard(reader: EventReader, count: int) -> bool:
    return len(reader.all()) >= count


def _subscribe(node: Node) -> socket.socket:
    reader = socket.socket(socket.AF_UNIX)
    reader.connect(str(node.agent.run_dir / "events.sock"))
    reader.settimeout(20)
    return reader


def _drain(reader: socket.socket, made: int) -> dict[str, int]:
    """Counts of lines until all that were made are accounted for."""
    seen = {"policy": 0, "lost": 0, "subscribed": 0}
    rest = b""
    while seen["policy"] + seen["lost"] < made:
        *whole, rest = (rest + reader.recv(1 << 20)).split(b"\n")
        for line in map(json.loads, whole):
            seen[line["type"]] += line.get("count", 1)
            assert line.get("reason", "slow reader") == "slow reader"
    return seen


def test_full_ring_is_told_to_readers(calls_program: Path) -> None:
    with start_node(calls_program, "--ring-kib", "4") as node, node.container() as group:
        node.add(big_events())
        with EventReader(node.agent.run_dir) as heard:
            make_big_events(group, 50)
            lost = heard.find(lambda event: event["type"] == "lost")
        assert lost["reason"] == "ring buffer full"
        assert node.counter("events_lost") >= lost["count"] > 0


def test_exit_status_says_what_happened(node: Node, tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(lseek_policy("good")))
    assert node.agent.cli("policy", "add", str(good)).returncode == 0
    assert node.agent.cli("policy", "list").returncode == 0
    unknown = node.agent.cli("policy", "delete", "unknown")
    assert (unknown.returncode, unknown.stderr) == (1, "no policy unknown here; there are: good\n")
    assert node.agent.cli("policy", "delete", "good").returncode == 0
    assert node.agent.cli("policy", "add").returncode == 2
    assert node.agent.cli("nonsense").returncode == 2
    assert node.agent.cli("policy", "add", "-", text=good.read_text()).returncode == 0
    missing = node.agent.cli("policy", "add", "/no/such/file")
    assert (missing.returncode, missing.stderr) == (1, "/no/such/file: No such file or directory\n")


@pytest.mark.parametrize("words", [("policy", "list"), ("status",), ("events",), ("policy", "delete", "x")])
def test_no_agent_is_exit_status_3(run_dir: Path, words: tuple[str, ...]) -> None:
    done = run_cli(run_dir, *words)
    assert done.returncode == 3
    assert "start podgate-agent, or name its --run-dir" in done.stderr


def test_check_needs_no_agent(run_dir: Path) -> None:
    good, bad = json.dumps(lseek_policy("good")), json.dumps(lseek_policy("Bad"))
    assert (
        run_cli(run_dir, "policy", "check", "-", text=good).stdout == "<stdin>:1:1: TracingPolicy good on lseek: ok\n"
    )
    refused = run_cli(run_dir, "policy", "check", "-", text=bad)
    assert refused.returncode == 1
    assert refused.stderr.startswith("<stdin>:1:")


HEAD = "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\nmetadata: {name: bad}\n"
BAD_INPUTS = {
    "unparsable": (HEAD + "spec: {kprobes: [\n", "5:1", ""),
    "unknown-field": (HEAD + "spec:\n  kprobs: []\n", "5:3", "did you mean kprobes"),
    "wrong-type": (HEAD + "spec:\n  kprobes: lseek\n", "5:12", "list"),
    "unknown-call": (HEAD + "spec:\n  kprobes:\n  - call: sys_lsek\n", "6:11", "did you mean lseek"),
    "incomplete": (HEAD + "spec:\n  kprobes:\n  - call: lseek\n    return: true\n", "7:5", "needs returnArg"),
    "unsupported": (HEAD + "spec:\n  loader: true\n  kprobes: [{call: lseek}]\n", "5:", "not supported"),
    "bad-value": (
        HEAD
        + "spec:\n  kprobes:\n  - call: lseek\n    args: [{index: 0, type: int}]\n    selectors:\n"
        + '    - matchArgs: [{index: 0, operator: Equal, values: ["5000000000"]}]\n',
        "9:56",
        "does not fit type int",
    ),
    "second-document": (json.dumps(lseek_policy("fine")) + "\n---\nkind: Pod\n", "3:", "kind"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_policy_is_refused_with_its_place_and_changes_nothing(shared_node: Node, tmp_path: Path, name: str) -> None:
    text, place, words = BAD_INPUTS[name]
    before = listed(shared_node)
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    done = shared_node.agent.cli("policy", "add", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{file}:{place}" in done.stderr
    assert words in done.stderr
    assert listed(shared_node) == before


def test_what_this_node_cannot_do_is_refused_and_listed_with_the_reason(shared_node: Node, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(HEAD + "spec:\n  kprobes: [{call: no_such_function, syscall: false}, {call: lseek}]\n")
    done = shared_node.agent.cli("policy", "add", str(file))
    reason = f'{file}:5:13: this kernel has no function "no_such_function": it is not there'
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    (row,) = [row for row in listed(shared_node) if row["name"] == "bad"]
    assert (row["state"], row["error"].startswith(reason)) == ("load_error", True)
    assert shared_node.agent.cli("policy", "delete", "bad").returncode == 0


def listed(node: Node) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(node.agent.cli("policy", "list", "-o", "json").stdout)
    return rows


def test_restart_after_a_clean_stop_finds_nothing_of_an_earlier_agent() -> None:
    with AgentProcess() as agent:
        agent.restart(crash=False)
        assert [line for line in agent.background.lines() if "earlier agent" in line["event"]] == []
