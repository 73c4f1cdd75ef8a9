# SPDX-License-Identifier: Apache-2.0
"""What the runtimes of a node really use of us, as checks with what to do. Reads the host, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rthook.install.checks import RuntimeStatus, wrong
from rthook.install.errors import InstallError
from rthook.install.host import Host
from rthook.install.options import Options, RuntimeName
from rthook.install.status_containerd import containerd_status
from rthook.install.status_hooks import hooks_status


def status_of(host: Host, options: Options, runtimes: Sequence[RuntimeName]) -> tuple[RuntimeStatus, ...]:
    """One for each runtime; a configuration that cannot be read is a check of its own."""
    return tuple(_status(host, options, name) for name in runtimes)


def _status(host: Host, options: Options, name: RuntimeName) -> RuntimeStatus:
    try:
        if name is RuntimeName.CONTAINERD:
            return containerd_status(host, options)
        return hooks_status(host, options, name)
    except InstallError as error:
        return RuntimeStatus(name, "unknown", None, "file", "", {}, (wrong("configuration", str(error), "correct it"),))
