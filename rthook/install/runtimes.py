# SPDX-License-Identifier: Apache-2.0
"""Which container runtimes a node has."""

from __future__ import annotations

from rthook.install.daemon import find_daemons, find_program
from rthook.install.errors import NoRuntimeError
from rthook.install.host import Host
from rthook.install.options import DEFAULT_CONTAINERD_CONFIG, RuntimeName
from rthook.install.readers import CRIO_CONFIG, CRIO_CONFIG_DIR, CRIO_SOCKETS

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
# By what a runtime is known to be there; podman has no daemon, and its configuration is that of other tools too.
PLACES = {
    RuntimeName.CONTAINERD: (DEFAULT_CONTAINERD_CONFIG, CONTAINERD_SOCKET),
    RuntimeName.CRI_O: (CRIO_CONFIG, CRIO_CONFIG_DIR, CRIO_SOCKETS[0]),
    RuntimeName.PODMAN: (),
}
PROGRAMS = {RuntimeName.CONTAINERD: "containerd", RuntimeName.CRI_O: "crio", RuntimeName.PODMAN: "podman"}


def detect(host: Host) -> tuple[RuntimeName, ...]:
    """The runtimes of a node, by configuration, socket, program and process."""
    return tuple(
        name
        for name, paths in PLACES.items()
        if any(host.exists(path) for path in paths)
        or find_program(host, PROGRAMS[name])
        or (name is not RuntimeName.PODMAN and find_daemons(host, PROGRAMS[name]))
    )


def detect_some(host: Host) -> tuple[RuntimeName, ...]:
    """NoRuntimeError when there is none."""
    if found := detect(host):
        return found
    places = [path for paths in PLACES.values() for path in paths]
    raise NoRuntimeError([*places, *(f"the program {name}" for name in PROGRAMS.values())])
