# SPDX-License-Identifier: Apache-2.0
"""The environment in which a runtime starts a plugin of its plugin directory (pkg/api/plugin.go of containerd/nri).

There are no arguments, no PATH, and standard input and output are /dev/null. The plugin's file name, NN-name, gives its
index and name. The runtime does not start it again when it ends.
"""

import errno
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

SOCKET = "NRI_PLUGIN_SOCKET"
NAME = "NRI_PLUGIN_NAME"
INDEX = "NRI_PLUGIN_IDX"
DEFAULT_LOG_FILE = "/var/log/podgate-nri.log"
# What containerd/nri accepts at RegisterPlugin.
NAME_PATTERN = re.compile("[A-Za-z0-9_.+-]+")
INDEX_PATTERN = re.compile("[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Preinstalled:
    """fd: the connection to the runtime, open in this process."""

    fd: int
    name: str
    index: str


def parse_environment(environment: Mapping[str, str]) -> Preinstalled | None:
    """None when no runtime started this process; ValueError for variables that no runtime sets so."""
    if (descriptor := environment.get(SOCKET)) is None:
        return None
    name, index = environment.get(NAME, ""), environment.get(INDEX, "")
    if not re.fullmatch("[0-9]{1,6}", descriptor):
        raise ValueError(f"{SOCKET}={descriptor!r} is no descriptor's number")
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(f"{NAME}={name!r} is not a name of letters, digits and _.+-")
    if not INDEX_PATTERN.fullmatch(index):
        raise ValueError(f"{INDEX}={index!r} is not exactly two digits")
    return Preinstalled(int(descriptor), name, index)


def check_descriptor(fd: int) -> None:
    """OSError when `fd` is no open stream socket."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EPROTOTYPE, f"descriptor {fd} is not a stream socket")
