# SPDX-License-Identifier: Apache-2.0
"""A containerd, guarded at one door under one failure rule, and the pods that its containers start in."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from pathlib import Path

import grpc

from bench.faults.disk import Disk, mounted_disk
from bench.faults.guard import Guard, Paths
from bench.faults.patience import Patience
from bench.parts.policies import policy_text
from rthook.failure import FailureRule, Treatment, render_rule
from tests.support.cri import Container, ContainerSpec, Pod, PodSpec
from tests.support.hook import build_program
from tests.support.image import PAUSE, Image
from tests.support.names import project_dir, unique_name
from tests.support.node import Node, NodeOptions
from tests.support.oci_hooks import CREATE_CONTAINER, Hook

GUARDED = "guarded"
EXEMPT = "exempt"
PIN_ROOT = Path("/sys/fs/bpf")
VIOLATE = Image("localhost/violate:1", ("/violate",), {"violate": project_dir() / "bench/faults/violate.c"})
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Door(Enum):
    NRI = "nri"
    OCI = "oci"


def make_mark(number: int) -> str:
    """The argument of violate.c: four characters, a different one for each number below 36 to the fourth."""
    text = ""
    for _ in range(4):
        number, digit = divmod(number, len(DIGITS))
        text += DIGITS[digit]
    return text


def parse_mark(mark: str) -> int:
    """The descriptor that violate.c makes of it: positive, and none that a process has."""
    return int.from_bytes(mark.encode(), "little")


@dataclass(frozen=True, slots=True)
class Place:
    """Which site: its door, its mode, and a number that no other site of this bench has."""

    door: Door
    mode: Treatment
    number: int

    @property
    def mark(self) -> str:
        """Of this site's violation. Benches that run at the same time have other process ids."""
        return make_mark(os.getpid() * len(Door) * len(Treatment) + self.number)


@dataclass(slots=True)
class Site:
    """standing: one pod in each namespace, made while all was well."""

    place: Place
    node: Node
    guard: Guard
    disk: Disk
    patience: Patience
    standing: dict[str, Pod] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def new_pod(self, namespace: str) -> Pod:
        return self.node.cri.run_pod(PodSpec(f"pod-{next(self._numbers)}", namespace))

    def create(self, pod: Pod) -> Container:
        spec = ContainerSpec(f"c{next(self._numbers)}", VIOLATE.reference, args=(self.place.mark,))
        return self.node.cri.create(pod, spec)

    def remove(self, pod: Pod) -> None:
        """A runtime that is away keeps it; the node's end removes it."""
        with suppress(grpc.RpcError):
            self.node.cri.remove_pod(pod)


@contextmanager
def open_site(place: Place, stop: threading.Event) -> Iterator[Site]:
    """Nothing guards it yet: start its guard."""
    patience = Patience(stop)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{unique_name('faults')}-", dir="/tmp"))
        paths = Paths(Path(folder), PIN_ROOT / unique_name("pin"))
        _write_files(paths, place)
        disk = stack.enter_context(mounted_disk(paths.run))
        node = stack.enter_context(Node(options=_options(place.door, paths), images=(PAUSE, VIOLATE)))
        guard = Guard(paths, patience, node.socket, node.nri_socket if place.door is Door.NRI else None)
        stack.callback(guard.close)
        stack.callback(disk.free)
        yield Site(place, node, guard, disk, patience)


def _options(door: Door, paths: Paths) -> NodeOptions:
    return NodeOptions() if door is Door.NRI else NodeOptions(nri=False, hooks=(_hook(paths),))


def _hook(paths: Paths) -> Hook:
    options = (
        "--runtime=containerd",
        f"--agent-socket={paths.socket}",
        f"--spool={paths.spool}",
        f"--failure-rule={paths.rule}",
        f"--pin-dir={paths.pin_dir}",
    )
    return Hook(CREATE_CONTAINER, build_program(sanitize=False), (*options, CREATE_CONTAINER))


def _write_files(paths: Paths, place: Place) -> None:
    paths.rule.write_text(render_rule(FailureRule(default=place.mode, exempt=(EXEMPT,))))
    paths.policies.mkdir()
    policy = policy_text("violate", GUARDED, [parse_mark(place.mark)], "Sigkill")
    (paths.policies / "violate.yaml").write_text(policy)
