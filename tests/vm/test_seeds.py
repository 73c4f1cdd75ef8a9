# SPDX-License-Identifier: Apache-2.0
"""What policies on kernel functions are written for: who is stopped, who is not, and what is told of it. All of the
policies of tests/support/policies are in force at once, each in a namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import socket_address
from tests.support.function_containers import container
from tests.support.function_hooks import (
    AT_FDCWD,
    KILLED,
    Done,
    Told,
    openat,
    paths,
    policies,
    read_policies,
    run_in,
)
from tests.support.language import marker_policy
from tests.support.patience import PATIENCE
from tests.support.workload import Cgroup, Ended, Node, step, steps

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

FILES = ("lseek", "secret", "entrypoint", "files", "programs", "credentials", "connections")
EBADF, ECONNREFUSED, EPERM = -9, -111, -1
SHELL_KILLED, SHELL_NO_ACCESS = 137, 126
INSIDE, OUTSIDE = "10.42.0.7", "192.0.2.7"
RACES = 20_000
RACE_S = 60.0
OPEN_HOW = bytes(24)  # struct open_how: O_RDONLY


@pytest.fixture(scope="module")
def places(scratch: Path) -> Path:
    """Its files: my/secret/file with a program beside it that may read it, links to it, and others."""
    secret = scratch / "my/secret/file"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret\n")
    (scratch / "my/secret/filf").write_text("known to all\n")
    for program in ("my/cat", "evil/cat"):
        (scratch / program).parent.mkdir(exist_ok=True)
        shutil.copy("/usr/bin/cat", scratch / program)
    (scratch / "symlink").symlink_to(secret)
    os.link(secret, scratch / "hardlink")
    for name in ("test1.txt", "test2.txt"):
        (scratch / name).write_text(f"{name}\n")
    write_script(scratch / "test.sh", "echo done")
    write_script(scratch / "sleeps.sh", "/usr/bin/sleep 0\necho $?")
    for folder in ("root/etc", "root/tmp"):
        (scratch / folder).mkdir(parents=True)
    return scratch


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module", autouse=True)
def in_force(node: Node, places: Path) -> Iterator[None]:
    texts = [read_policies(name, places) for name in FILES]
    with policies(node, json.dumps(marker_policy()), *texts):
        yield


@pytest.fixture(scope="module", autouse=True)
def addresses() -> None:
    """Of the loopback device: they are routed."""
    for address in (INSIDE, OUTSIDE):
        subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", "lo"], check=True)


def test_all_policies_are_in_force(node: Node) -> None:
    known = {status.name: status.state for status in node.agent.control.list().policies}
    assert len(known) == 17
    assert set(known.values()) == {"enabled"}


# One call that no honest program makes.


def test_seeking_nowhere_is_fatal_in_one_namespace(node: Node, told: Told) -> None:
    with node.container("seeking") as group:
        ended = group.run(steps(step("lseek", 0, 0, 0), step("lseek", -1, 0, 0), step("getpid")))
        assert (ended.killed, len(ended.results)) == (True, 1)
        (event,) = told.of(group)
    assert (event["function"], event["action"], event["enforced"]) == ("__x64_sys_lseek", "SIGKILL", True)
    assert event["args"] == [{"index": 0, "type": "int", "value": -1}]
    with node.container("other") as group:
        assert group.call("lseek", -1, 0, 0).results == (EBADF,)


# A file that one program alone may open.


def ways(scratch: Path) -> dict[str, list[str]]:
    """Steps of calls.c whose last one opens the file, by a path that leads there."""
    secret = str(scratch / "my/secret/file")
    folder = step("chdir", str(scratch / "my"))
    return {
        "openat": openat(secret),
        "open": step("open", secret, os.O_RDONLY, 0),
        "openat2": step("openat2", AT_FDCWD, secret, OPEN_HOW, len(OPEN_HOW)),
        "truncating": openat(secret, os.O_WRONLY | os.O_TRUNC),
        "creat": step("creat", secret, 0o600),
        "relative": steps(folder, openat("secret/file")),
        "dots": openat(scratch / "evil/../my/./secret//file"),
        "cwd": steps(folder, openat("/proc/self/cwd/secret/file")),
        "descriptor": steps(
            step("openat", AT_FDCWD, str(scratch / "my"), os.O_PATH, 0), step("openat", 3, "secret/file", 0, 0)
        ),
        "of-path": steps(step("openat", AT_FDCWD, secret, os.O_PATH, 0), openat("/proc/self/fd/3")),
        "symlink": openat(scratch / "symlink"),
    }


WAYS = sorted(ways(Path("/")))


@pytest.mark.parametrize("way", WAYS)
def test_secret_is_not_opened_whichever_way_leads_to_it(node: Node, places: Path, told: Told, way: str) -> None:
    with node.container("by-file") as group:
        ended = group.run(steps(ways(places)[way], step("getpid")))
        assert ended.killed, ended
        (event,) = told.of(group)
    assert (places / "my/secret/file").read_text() == "secret\n"
    assert (event["hook"], event["function"]) == ("kprobe", "security_file_open")
    assert event["args"][0]["value"] == str(places / "my/secret/file")
    assert event["actions"] == ["POST", "OVERRIDE EPERM", "SIGKILL"]


def test_io_uring_opens_no_secret(node: Node, places: Path, functions_program: Path) -> None:
    for mode in ([], ["async"]):
        with node.container("refused") as group:
            words = [str(group.path), "uring", str(places / "my/secret/file"), *mode]
            done = subprocess.run([functions_program, *words], stdout=subprocess.PIPE, text=True, check=True)
            assert done.stdout == f"{EPERM}\n"


def test_one_program_reads_the_secret_and_no_other_does(node: Node, places: Path, told: Told) -> None:
    secret = places / "my/secret/file"
    with node.container("by-file") as group:
        assert run_in(group, places / "my/cat", secret) == Done(0, "secret\n")
        assert run_in(group, places / "evil/cat", secret) == Done(KILLED, "")
        assert run_in(group, "/usr/bin/cat", "secret/file", folder=places / "my") == Done(KILLED, "")
        assert run_in(group, "/usr/bin/cat", "/etc/hostname").status == 0
        events = told.of(group)
    assert [event["process"]["binary"] for event in events] == [str(places / "evil/cat"), "/usr/bin/cat"]


def test_other_names_of_the_file_are_other_files(node: Node, places: Path) -> None:
    """A path is what the policy asks for: one who may make links or rename reaches the file by another one."""
    moved = places / "my/secret/moved"
    with node.container("by-file") as group:
        assert group.run(openat(places / "hardlink")).results == (3,)
        (places / "my/secret/file").rename(moved)
        assert group.run(openat(moved)).results == (3,)
        moved.rename(places / "my/secret/file")
        assert group.run(openat(places / "my/secret/file")).killed


def race(node: Node, places: Path, program: Path, namespace: str) -> tuple[int, list[int]]:
    secret = places / "my/secret/file"
    with node.container(namespace) as group:
        words = [str(group.path), "race", str(secret), str(secret.with_name("filf")), str(RACES)]
        done = subprocess.run(
            [program, *words], stdout=subprocess.PIPE, text=True, check=False, timeout=RACE_S * PATIENCE
        )
    return done.returncode, [int(word) for word in done.stdout.split()]


def test_name_that_changes_after_the_check_leads_nowhere(node: Node, places: Path, functions_program: Path) -> None:
    """The kernel's hook has the file that is opened, and no memory of the process."""
    status, (opened, other, refused, *errors) = race(node, places, functions_program, "refused")
    assert (status, opened, errors) == (0, 0, [0, 0])
    assert min(other, refused) > RACES // 1000
    assert other + refused >= RACES
    assert race(node, places, functions_program, "by-file") == (KILLED, [])


def test_rule_on_the_name_knows_only_that_name(node: Node, places: Path) -> None:
    """What the rule on the file is better for."""
    with node.container("by-name") as group:
        assert group.run(ways(places)["openat"]).killed
        for way in ("relative", "openat2", "open", "cwd", "symlink"):
            assert group.run(ways(places)[way]).results[-1] == 3, way


# Only what the pod itself starts.


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_only_the_entrypoint_and_its_forks_open_the_secret(
    node: Node, tmp_path: Path, told: Told, runtime: str
) -> None:
    words = steps(openat("/secret"), ["fork"], openat("/secret"), ["exec"], openat("/secret"))
    with container(node, tmp_path, runtime, "vendor", {"app": "nginx"}, words) as pod:
        assert pod.execute(*openat("/calls")) == Done(0, "3\n")
        for attempt in (openat("/secret"), steps(["fork"], openat("/secret"))):
            done = pod.execute(*attempt)
            assert (done.status, done.out) == (SHELL_KILLED, "")
        assert pod.go_on() == Done(0, "3\n4\n5\n")
        events = told.of(pod.id)
        assert [event["policy"]["name"] for event in events] == ["entrypoint"] * 2
    with container(node, tmp_path, runtime, "vendor", {"app": "other"}, openat("/secret")) as pod:
        assert pod.execute(*openat("/secret")) == Done(0, "3\n")


# Files: seen, and ended.


def read_file(group: Cgroup, path: Path) -> Ended:
    return group.run(steps(openat(path), step("read", 3, "r:64", 64)))


def test_reads_are_seen_with_what_the_function_returned(node: Node, places: Path, told: Told) -> None:
    with node.container("reads-seen") as group:
        assert [read_file(group, places / name).results for name in ("test1.txt", "test2.txt")] == [(3, 10)] * 2
        assert group.run(steps(openat(places / "test1.txt", os.O_WRONLY), step("write", 3, "x", 0))).status == 0
        (event,) = told.of(group)
    assert (event["hook"], event["function"]) == ("kprobe", "security_file_permission")
    path, mask = event["args"]
    assert path == {
        "index": 0,
        "type": "file",
        "value": str(places / "test1.txt"),
        "file_type": "regular",
        "mode": "0644",
    }
    assert mask == {"index": 1, "type": "int", "value": 4}
    assert event["return"] == {"type": "int", "value": 0}
    assert (event["action"], event["actions"]) == ("POST", ["POST"])
    assert event["process"]["binary"] == str(node.program)


def test_reads_are_ended(node: Node, places: Path, told: Told) -> None:
    with node.container("reads-ended") as group:
        assert read_file(group, places / "test1.txt").killed
        assert read_file(group, places / "test2.txt").results == (3, 10)
        (event,) = told.of(group)
    assert (event["action"], event["enforced"], event["return"]["value"]) == ("SIGKILL", True, 0)


def test_writes_are_ended_and_programs_that_run_are_no_reads(node: Node, places: Path) -> None:
    script = places / "test.sh"
    with node.container("writes-ended") as group:
        assert read_file(group, script).status == 0
        assert run_in(group, script) == Done(0, "done\n")
        assert group.run(steps(openat(script, os.O_WRONLY), step("write", 3, "x", 1), step("getpid"))).killed
        write_script(script, "echo done")


def test_configuration_is_kept_from_being_written(node: Node, places: Path, told: Told) -> None:
    """Paths begin at the root that the process has."""
    root = step("chroot", str(places / "root"))

    def write(group: Cgroup, path: str) -> Ended:
        file = openat(path, os.O_WRONLY | os.O_CREAT)
        return group.run(steps(root, step("chdir", "/"), file, step("write", 3, "x", 1), step("getpid")))

    with node.container("etc-seen") as group:
        assert write(group, "/etc/passwd").results[:4] == (0, 0, 3, 1)
        assert write(group, "/tmp/passwd").results[:4] == (0, 0, 3, 1)
        (event,) = told.of(group)
        assert (paths([event]), paths([event], 1), event["action"]) == (["/etc/passwd"], [2], "POST")
    with node.container("etc-kept") as group:
        assert write(group, "/etc/passwd").killed
        assert write(group, "/tmp/passwd").results[:4] == (0, 0, 3, 1)
        assert group.run(steps(root, openat("/etc/passwd"), step("read", 3, "r:1", 1))).results[2] == 1
        (event,) = told.of(group)
        assert (paths([event]), event["action"]) == (["/etc/passwd"], "SIGKILL")


# Programs.


def test_script_is_seen_as_its_interpreter_and_what_that_runs(node: Node, places: Path, told: Told) -> None:
    with node.container("programs-seen") as group:
        assert run_in(group, places / "sleeps.sh") == Done(0, "0\n")
        events = told.of(group)
    assert paths(events, 1) == ["/usr/bin/dash", "/usr/bin/sleep"]
    nothing, file = events[0]["args"]
    assert nothing == {"index": 0, "type": "nop"}
    assert (file["type"], file["file_type"], file["mode"]) == ("file", "regular", "0755")
    assert events[0]["function"] == "security_bprm_creds_from_file"


def test_programs_are_ended_before_they_run(node: Node, places: Path, told: Told) -> None:
    with node.container("no-sleep") as group:
        assert run_in(group, places / "sleeps.sh") == Done(0, f"{SHELL_KILLED}\n")
        (event,) = told.of(group)
        assert (paths([event], 1), event["action"]) == (["/usr/bin/sleep"], "SIGKILL")
    with node.container("no-dash") as group:
        assert run_in(group, places / "sleeps.sh") == Done(KILLED, "")
        assert run_in(group, "/usr/bin/sleep", "0").status == 0


def test_programs_are_refused_and_who_asked_goes_on(node: Node, places: Path, told: Told) -> None:
    with node.container("sleep-refused") as group:
        assert run_in(group, places / "sleeps.sh") == Done(0, f"{SHELL_NO_ACCESS}\n")
        (event,) = told.of(group)
    assert event["actions"] == ["POST", "OVERRIDE EACCES"]


# Credentials.


def test_new_credentials_are_told_whole(node: Node, told: Told) -> None:
    switch = steps(step("setresgid", 1002, 1002, 1002), step("setresuid", 1001, 0, 0))
    leave = step("setresuid", 1003, 1003, 1003)
    with node.container("credentials") as group:
        group.run(switch)
        assert told.of(group) == []
        assert group.run(steps(["newpid"], switch, leave)).status == 0
        found = credentials(told.of(group))
    first, second, third = ({name: each[name] for name in ("uid", "euid", "gid", "fsgid")} for each in found)
    assert first == {"uid": 0, "euid": 0, "gid": 1002, "fsgid": 1002}
    assert second == {"uid": 1001, "euid": 0, "gid": 1002, "fsgid": 1002}
    assert third == {"uid": 1003, "euid": 1003, "gid": 1002, "fsgid": 1002}
    assert {"CAP_CHOWN", "CAP_SYS_ADMIN"} <= set(found[1]["caps"]["permitted"]) & set(found[1]["caps"]["effective"])
    assert found[2]["caps"]["permitted"] == found[2]["caps"]["effective"] == []
    assert (found[0]["user_ns"]["level"], found[0]["user_ns"]["ns"]["is_host"]) == (0, True)


def credentials(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert {event["function"] for event in events} == {"commit_creds"}
    assert {event["args"][0]["type"] for event in events} == {"cred"}
    return [event["args"][0]["value"] for event in events]


# Connections.


def test_connections_are_ended_unless_they_stay_inside(node: Node, told: Told) -> None:
    with node.container("outside") as group:
        for address in ("127.0.0.1", INSIDE):
            assert connect(group, address).results == (3, ECONNREFUSED)
        for address in ("127.0.0.2", OUTSIDE):
            assert connect(group, address).killed
        events = told.of(group)
    ends = [event["args"][0]["value"] for event in events]
    assert [(end["daddr"], end["dport"], end["family"]) for end in ends] == [
        ("127.0.0.2", 9, "AF_INET"),
        (OUTSIDE, 9, "AF_INET"),
    ]
    assert {(event["function"], event["action"]) for event in events} == {("tcp_connect", "SIGKILL")}


def connect(group: Cgroup, address: str) -> Ended:
    """To the port of nobody."""
    where = socket_address(address, 9)
    return group.run(steps(step("socket", 2, 1, 0), step("connect", 3, where, len(where))))
