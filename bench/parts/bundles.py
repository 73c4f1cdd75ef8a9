# SPDX-License-Identifier: Apache-2.0
"""runc alone, as conmon or a shim calls it: bundles with the OCI hook and without, created and started."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.parts.arms import Arm
from tests.support.containerd_config import Runc
from tests.support.image import compile_program
from tests.support.names import project_dir, unique_name
from tests.support.node import Runtime, default_spec
from tests.support.oci_hooks import Hook, add_hooks
from tests.support.system import remove_cgroups

COMMAND_S = 60.0
FOLDERS = ("dev", "proc", "sys", "tmp", "run")


class RuncError(Exception):
    """runc has failed; the text is its own."""


def make_spec(base: Mapping[str, Any], annotations: Mapping[str, str]) -> dict[str, Any]:
    """A spec of a program that waits: what `base` has, but for the process, and with these annotations."""
    process = {**base["process"], "args": ["/pause"], "terminal": False}
    return {**base, "process": process, "annotations": dict(annotations)}


def place_spec(spec: Mapping[str, Any], cgroups_path: str, rootfs: Path) -> dict[str, Any]:
    """The spec of one container."""
    linux = {**spec["linux"], "cgroupsPath": cgroups_path}
    return {**spec, "linux": linux, "root": {"path": str(rootfs)}}


def pod_annotations(namespace: str, pod: str) -> dict[str, str]:
    """As podman is given them by who runs a container of a pod. They say all of the labels, so nobody has to be asked:
    there are none.
    """
    return {
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.name": pod,
        "io.kubernetes.pod.uid": f"uid-{pod}",
        "io.kubernetes.container.name": "main",
    }


@dataclass(frozen=True, slots=True)
class Bundles:
    """specs: of each arm. name: of the cgroup above all containers. hooked: ids of the containers that had the hook, by
    how many were started at a time.
    """

    folder: Path
    name: str
    specs: Mapping[Arm, dict[str, Any]]
    hooked: dict[int, list[str]] = field(default_factory=dict)

    def blocks_of(self, parallel: int) -> Callable[[Arm, int], list[float]]:
        """What run_rounds calls."""
        return lambda arm, _: self.run_block(arm, parallel)

    def run_block(self, arm: Arm, parallel: int) -> list[float]:
        """`parallel` containers at a time, each created and started; milliseconds of each."""
        bundles = [self._prepare(arm) for _ in range(parallel)]
        if arm is Arm.WITH:
            self.hooked.setdefault(parallel, []).extend(bundle.name for bundle in bundles)
        try:
            with ThreadPoolExecutor(parallel) as threads:
                return list(threads.map(self._time, bundles))
        finally:
            self._delete(bundles)

    def _prepare(self, arm: Arm) -> Path:
        bundle = self.folder / unique_name("bundle")
        bundle.mkdir()
        spec = place_spec(self.specs[arm], f"/{self.name}/{bundle.name}", self.folder / "rootfs")
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def _time(self, bundle: Path) -> float:
        began = time.perf_counter()
        self._runc("create", "--bundle", str(bundle), bundle.name)
        self._runc("start", bundle.name)
        return (time.perf_counter() - began) * 1000

    def _delete(self, bundles: Iterable[Path]) -> None:
        for bundle in bundles:
            self._runc("delete", "--force", bundle.name)

    def _runc(self, *arguments: str) -> None:
        """A container's process keeps what it is given as output, so that is a file."""
        with open(self.folder / "runc.log", "a+") as log:
            done = subprocess.run(
                [Runc.SYSTEM.path, "--root", self.folder / "runc", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=COMMAND_S,
                check=False,
            )
        if done.returncode:
            raise RuncError(f"runc {arguments[0]}: {(self.folder / 'runc.log').read_text()[-1000:]}")


@contextmanager
def open_bundles(folder: Path, runtime: Runtime, hook: Hook, namespace: str) -> Iterator[Bundles]:
    """hook: of the arm that has one. The spec is the one that this containerd would start from."""
    rootfs = folder / "rootfs"
    for name in FOLDERS:
        (rootfs / name).mkdir(parents=True)
    compile_program(project_dir() / "tests/support/programs/pause.c", rootfs / "pause")
    plain = make_spec(default_spec(runtime), pod_annotations(namespace, "alone"))
    bundles = Bundles(folder, unique_name("bundles"), {Arm.WITHOUT: plain, Arm.WITH: add_hooks(plain, (hook,))})
    try:
        yield bundles
    finally:
        remove_cgroups(bundles.name)
