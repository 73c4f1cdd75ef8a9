# SPDX-License-Identifier: Apache-2.0
"""podgate-nri as a plugin that the runtime starts itself. Pure.

The runtime gives it no PATH and no output; what it is to do stands in a file that the runtime hands over
(ConfigureRequest.config of NRI), a YAML mapping.
"""

from __future__ import annotations

import shlex

import yaml

from nri_plugin.preinstalled import DEFAULT_LOG_FILE
from rthook.install.options import Options

NAME = "10-podgate"
# Beside the hook: one path to change when podgate-nri moves.
LAUNCHER = "podgate-nri"


def render_launcher(plugin: str) -> bytes:
    return f'#!/bin/sh\n# Written by podgate hooks install.\nexec {shlex.quote(plugin)} "$@"\n'.encode()


def render_config(options: Options) -> bytes:
    settings = {
        "agent-socket": options.hook.agent_socket,
        "failure-rule": options.failure_rule,
        "log-file": DEFAULT_LOG_FILE,
        "pin-dir": options.hook.pin_dir,
    }
    return b"# Handed to podgate-nri by the container runtime.\n" + yaml.safe_dump(settings).encode()


def parse_launcher(data: bytes) -> str:
    """The program that a launcher of ours starts; empty for any other file."""
    lines = data[:4096].decode(errors="replace").splitlines()
    words = shlex.split(lines[2]) if data.startswith(b"#!/bin/sh\n") and len(lines) == 3 else []
    return words[1] if len(words) == 3 and words[0] == "exec" else ""
