# SPDX-License-Identifier: Apache-2.0
"""What people write such policies for, with real programs: who is stopped and who is not, and what a rule on one system
call does not see. That is told by `podgate policy explain`, which is asked here, too.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.agent import EventReader
from tests.support.names import unique_name
from tests.support.workload import Cgroup, Node, kprobe, match, policy, selector

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

KILL = [{"action": "Sigkill"}]
NAMESPACE = "house"
JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
KILLED = -signal.SIGKILL
OLD_OPEN = "__import__('ctypes').CDLL(None).syscall(2, sys.argv[1].encode(), 0)"  # open(2) itself


@dataclass(frozen=True, slots=True)
class House:
    """A secret file, copies of cat and head beside it, and a container."""

    folder: Path
    container: Cgroup

    @property
    def secret(self) -> Path:
        return self.folder / "secret"

    @property
    def cat(self) -> Path:
        return self.folder / "cat"

    @property
    def head(self) -> Path:
        return self.folder / "head"

    def run(self, *command: Path | str) -> tuple[int, bytes]:
        """In the container and in this folder: the status and what it prints."""
        words = ["/bin/sh", "-c", JOIN, str(self.container.path), *map(str, command)]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, check=False, timeout=20)
        return done.returncode, done.stdout

    def python(self, code: str, *arguments: Path | str) -> tuple[int, bytes]:
        return self.run(sys.executable, "-c", f"import os, sys; {code}", *arguments)


@contextmanager
def open_house(node: Node) -> Iterator[House]:
    with TemporaryDirectory(prefix=unique_name("house") + "-") as folder, node.container(NAMESPACE) as container:
        house = House(Path(folder), container)
        house.secret.write_bytes(b"secret\n")
        for program in (house.cat, house.head):
            shutil.copy(f"/bin/{program.name}", program)
        yield house


def block_access(house: House) -> dict[str, Any]:
    """Only the one cat may open the secret by its name."""
    where = {"matchBinaries": [{"operator": "NotIn", "values": [str(house.cat)]}]}
    only = selector(match(1, "Equal", str(house.secret)), actions=KILL) | where
    return policy("block-secret-access", kprobe("openat", {1: "string"}, only), namespace=NAMESPACE)


def explain(node: Node, document: Mapping[str, Any]) -> str:
    done = node.agent.cli("policy", "explain", "-", text=json.dumps(document))
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_a_secret_is_opened_by_one_binary_only(node: Node, events: EventReader) -> None:
    with open_house(node) as house:
        node.add(block_access(house))
        assert house.run(house.cat, house.secret) == (0, b"secret\n")
        assert house.run(house.head, house.secret) == (KILLED, b"")
        event = events.find(lambda each: each.get("policy", {}).get("name") == "block-secret-access")
        assert event["process"]["binary"] == str(house.head)


def test_other_ways_to_the_file_are_not_seen_and_that_is_told(node: Node) -> None:
    """A relative name, another system call, a link: a rule on the text that one call is given knows none of them."""
    with open_house(node) as house:
        blocked = block_access(house)
        node.add(blocked)
        assert house.run(house.head, "secret") == (0, b"secret\n")
        read = "print(open(os.open(sys.argv[1], 0)).read(), end='')"
        assert house.python(read, house.secret)[0] == KILLED, "it is openat"
        other = "print(os.read(os.open(sys.argv[1], 0), 99))".replace("os.open(sys.argv[1], 0)", OLD_OPEN)
        assert house.python(other, house.secret)[0] == 0
        (house.folder / "link").symlink_to(house.secret)
        assert house.run(house.head, house.folder / "link") == (0, b"secret\n")
        said = explain(node, blocked)
        assert "relative" in said
        assert "between" in said
        assert "other calls, which the policy does not hook: open, openat2, creat" in said


def test_a_copied_binary_is_not_the_one_that_may(node: Node) -> None:
    with open_house(node) as house:
        node.add(block_access(house))
        other = house.folder / "other"
        shutil.copy(house.cat, other)
        assert house.run(other, house.secret) == (KILLED, b"")
        os.rename(other, house.cat)
        assert house.run(house.cat, house.secret) == (0, b"secret\n"), "a path is what was asked for"


def test_the_interpreter_that_seeks_nowhere_is_killed(node: Node) -> None:
    seek = "\nfor n in (0, -1):\n try: os.lseek(n, 0, 0)\n except OSError as e: print(e.errno, flush=True)"
    only = policy(
        "lseek-namespaced",
        kprobe("__x64_sys_lseek", {0: "int"}, selector(match(0, "Equal", -1), actions=KILL)),
        namespace=NAMESPACE,
    )
    with open_house(node) as house:
        assert house.python(seek)[0] == 0
        node.add(only)
        code, said = house.python(seek)
        assert (code, b"9\n" in said.splitlines(keepends=True)) == (KILLED, False)
        assert subprocess.run([sys.executable, "-c", f"import os; {seek}"], check=False, timeout=20).returncode == 0
        node.agent.control.delete("lseek-namespaced", NAMESPACE)
        assert house.python(seek)[0] == 0


def test_what_is_written_is_reported_with_its_file_and_size(node: Node, events: EventReader) -> None:
    hook = kprobe("sys_write", {0: "fd", 1: "char_buf:2", 2: "size_t"}, selector(match(1, "Equal", "to the file")))
    hook["selectors"][0]["matchActions"] = [{"action": "Post"}]
    with open_house(node) as house:
        node.add(policy("writes", hook, namespace=NAMESPACE))
        target = house.folder / "written"
        assert house.run("/bin/sh", "-c", 'printf "to the file" >"$0"', target) == (0, b"")
        event = events.find(lambda each: each.get("policy", {}).get("name") == "writes")
        path, data, size = event["args"]
        assert (path["path"], path["file_type"], size["value"]) == (str(target), "regular", 11)
        assert base64.b64decode(data["base64"]) == b"to the file"
