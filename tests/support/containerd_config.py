# SPDX-License-Identifier: Apache-2.0
"""The configuration file of a private containerd: versions 2 (containerd 1.7) and 3 (containerd 2.x) of its format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.support.image import PAUSE
from tests.support.names import cache_dir
from tests.support.oci_hooks import Hook


class Runtime(Enum):
    """A containerd that the tests can start; the value is the Debian suite that it was unpacked from."""

    CONTAINERD_2 = "forky"
    CONTAINERD_1_7 = "trixie"

    @property
    def binaries(self) -> Path:
        """The folder with containerd, ctr and the shim."""
        return cache_dir() / "runtimes" / self.value / "usr/bin"


class Runc(Enum):
    """A runc that the tests can use: 1.1 of Debian 12, or 1.3 (or later) of a newer suite."""

    SYSTEM = "system"
    NEW = "new"

    @property
    def path(self) -> Path:
        """The program; the newer one was made to run here by tools/fetch_runtimes.py."""
        return Path("/usr/sbin/runc") if self is Runc.SYSTEM else cache_dir() / "runtimes/runc/usr/sbin/runc"


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a node differs from the usual.

    `base_spec` is an OCI config.json to start every container's spec from, those of pod sandboxes excepted; without
    one, containerd's own default. `hooks` are added to it.
    """

    nri: bool = True
    nri_request_timeout: str = "2s"
    oci_runtime: Path = Runc.SYSTEM.path
    base_spec: Path | None = None
    log_level: str = "info"
    hooks: tuple[Hook, ...] = ()


def render_config(runtime: Runtime, folder: Path, options: NodeOptions) -> str:
    """config.toml for a containerd that keeps everything below `folder`: sockets c.sock and nri.sock, root, state."""
    if runtime is Runtime.CONTAINERD_1_7:
        body, runc = _render_cri_v1(folder), "io.containerd.grpc.v1.cri"
    else:
        body, runc = _render_cri_v2(folder), "io.containerd.cri.v1.runtime"
    version = 2 if runtime is Runtime.CONTAINERD_1_7 else 3
    return _render_daemon(version, folder, options) + body + _render_runc(runc, folder, options)


def _quote(value: Path | str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(str(value))


def _render_daemon(version: int, folder: Path, options: NodeOptions) -> str:
    return f"""\
version = {version}
root = {_quote(folder / "root")}
state = {_quote(folder / "state")}

[grpc]
address = {_quote(folder / "c.sock")}

[ttrpc]
address = {_quote(folder / "c.sock.ttrpc")}

[debug]
level = {_quote(options.log_level)}

[plugins."io.containerd.internal.v1.opt"]
path = {_quote(folder / "opt")}

# Off by default in 1.7.
[plugins."io.containerd.nri.v1.nri"]
disable = {str(not options.nri).lower()}
disable_connections = false
socket_path = {_quote(folder / "nri.sock")}
plugin_path = {_quote(folder / "nri-plugins")}
plugin_config_path = {_quote(folder / "nri-conf")}
plugin_request_timeout = {_quote(options.nri_request_timeout)}
"""


def _render_cri_v1(folder: Path) -> str:
    """The CRI plugin of 1.7. oom_score_adj stays as it is: lowering it takes CAP_SYS_RESOURCE."""
    return f"""
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = {_quote(PAUSE.reference)}

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {_quote(folder / "cni-bin")}
conf_dir = {_quote(folder / "cni-conf")}
"""


def _render_cri_v2(folder: Path) -> str:
    """The CRI plugins of 2.x, which split images from the rest."""
    return f"""
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {_quote(PAUSE.reference)}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{_quote(folder / "cni-bin")}]
conf_dir = {_quote(folder / "cni-conf")}
"""


def _render_runc(plugin: str, folder: Path, options: NodeOptions) -> str:
    base = f"base_runtime_spec = {_quote(options.base_spec)}\n" if options.base_spec else ""
    return f"""
[plugins."{plugin}".containerd]
default_runtime_name = "runc"

[plugins."{plugin}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
{base}
[plugins."{plugin}".containerd.runtimes.runc.options]
BinaryName = {_quote(options.oci_runtime)}
Root = {_quote(folder / "runc")}
SystemdCgroup = false
"""
