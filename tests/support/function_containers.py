# SPDX-License-Identifier: Apache-2.0
"""Containers of calls.c by the OCI runtimes themselves, announced by our hook, which others can be started in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.container.doors import oci_hook
from tests.support.function_hooks import Done
from tests.support.names import cache_dir, unique_name
from tests.support.oci_hooks import CREATE_RUNTIME, POSTSTOP, add_hooks
from tests.support.patience import PATIENCE
from tests.support.workload import RUN_S, Node

RUNTIMES = {"runc": Path("/usr/sbin/runc"), "crun": cache_dir() / "vm/crun/usr/bin/crun"}
HOOK_MS = round(2000 * PATIENCE)


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs, and whose entrypoint has said that it waits."""

    id: str
    _runtime: Path
    _root: Path
    _process: subprocess.Popen[str]

    def go_on(self) -> Done:
        """The rest of what the entrypoint does, until its end."""
        out, _ = self._process.communicate("go\n", timeout=RUN_S)
        return Done(self._process.returncode, out)

    def execute(self, *words: str) -> Done:
        """Steps of calls.c by a process that the runtime starts in it."""
        command = [str(self._runtime), "--root", str(self._root), "exec", self.id, "/calls", "-", *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=RUN_S, check=False
        )
        return Done(done.returncode, done.stdout)

    def remove(self) -> None:
        """Whatever it does still."""
        command = [str(self._runtime), "--root", str(self._root), "delete", "--force", self.id]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False)
        self._process.kill()
        self._process.communicate()


@contextmanager
def container(
    node: Node, folder: Path, runtime: str, namespace: str, labels: Mapping[str, str], words: Sequence[str]
) -> Iterator[Container]:
    """Of a pod with these labels. words: steps of calls.c behind a `wait`. folder: where bundles are made; its root has
    /calls and a file /secret.
    """
    name = unique_name("container")
    bundle = folder / name
    for place in ("dev", "proc"):
        (bundle / "rootfs" / place).mkdir(parents=True)
    shutil.copy(node.program, bundle / "rootfs/calls")
    (bundle / "rootfs/secret").write_text("secret\n")
    hooks = [
        oci_hook(node.agent, stage, "--runtime=podman", deadline_ms=HOOK_MS) for stage in (CREATE_RUNTIME, POSTSTOP)
    ]
    spec = _spec(name, namespace, labels, ["/calls", "-", "wait", "--", *words])
    (bundle / "config.json").write_text(json.dumps(add_hooks(spec, hooks)))
    root = folder / runtime
    command = [str(RUNTIMES[runtime]), "--root", str(root), "run", "--bundle", str(bundle), name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    made = Container(name, RUNTIMES[runtime], root, process)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line == "waiting\n", f"{runtime} said {line!r} and ended with {process.poll()}"
        yield made
    finally:
        made.remove()


def _spec(name: str, namespace: str, labels: Mapping[str, str], words: Sequence[str]) -> dict[str, Any]:
    """config.json of a container with namespaces of its own, in a pod as podman annotates it."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": list(words), "cwd": "/", "env": ["A=b"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{name}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
        },
        "annotations": {
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.name": "pod",
            "io.kubernetes.pod.uid": "uid",
            "io.kubernetes.cri-o.Labels": json.dumps(dict(labels)),
        },
    }
