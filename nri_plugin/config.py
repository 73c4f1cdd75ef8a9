# SPDX-License-Identifier: Apache-2.0
"""What the plugin is told at its start, by the command line or by the runtime that started it. Pure."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from rthook.failure import DEFAULT_PATH
from rthook.generations import DEFAULT_PIN_DIR

DEFAULT_NRI_SOCKET = "/var/run/nri/nri.sock"
DEFAULT_AGENT_SOCKET = "/run/podgate/agent.sock"
DEFAULT_FAILURE_RULE = Path(DEFAULT_PATH)
# Four paths; the runtime reads the file whole, however large it is.
MAX_SETTINGS = 64 << 10
# The kernel's PATH_MAX.
MAX_PATH = 4096


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """Paths, names, and times in seconds. What depends on the runtime's patience is in `budget`.

    preconnected: the descriptor of the runtime's connection when the runtime has started the plugin; the plugin then
    ends with that connection.
    """

    nri_socket: str = DEFAULT_NRI_SOCKET
    agent_socket: str = DEFAULT_AGENT_SOCKET
    name: str = "podgate"
    index: str = "10"
    failure_rule: Path = DEFAULT_FAILURE_RULE
    pin_dir: Path = DEFAULT_PIN_DIR
    preconnected: int | None = None
    # The runtime answers RegisterPlugin, configures and synchronizes within 5 s or never.
    registration_s: float = 10.0
    # Connecting to the runtime, and sending one answer.
    io_s: float = 1.0
    backoff_first_s: float = 0.1
    backoff_cap_s: float = 0.5
    # Between two looks at held processes and at the failure rule, and between two reports to the agent.
    watch_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a configuration file of the runtime's sets; None is what it does not. faults: what could not be read."""

    agent_socket: str | None = None
    failure_rule: Path | None = None
    log_file: str | None = None
    pin_dir: Path | None = None
    faults: tuple[str, ...] = ()

    def apply(self, config: PluginConfig) -> PluginConfig:
        """The configuration with what is set here."""
        return dataclasses.replace(
            config,
            agent_socket=self.agent_socket or config.agent_socket,
            failure_rule=self.failure_rule or config.failure_rule,
            pin_dir=self.pin_dir or config.pin_dir,
        )


KEYS = ("agent-socket", "failure-rule", "log-file", "pin-dir")


def parse_settings(text: str) -> Settings:
    """A YAML mapping with KEYS, each an absolute path; empty text sets nothing.

    What cannot be read is a fault and sets nothing, and the rest counts: a plugin that refused its configuration would
    be dropped by the runtime, which then starts every container unguarded.
    """
    try:
        document = _load(text)
    except ValueError as error:
        return Settings(faults=(str(error),))
    faults = [f"unknown key {str(key)[:64]!r}; known: {', '.join(KEYS)}" for key in document if key not in KEYS]
    values: dict[str, str] = {}
    for key in KEYS:
        if key in document:
            value = document[key]
            if isinstance(value, str) and value.startswith("/") and "\0" not in value and len(value) <= MAX_PATH:
                values[key] = value
            else:
                faults.append(f"{key} is not an absolute path: {str(value)[:64]!r}")
    rule, pins = values.get("failure-rule"), values.get("pin-dir")
    return Settings(
        values.get("agent-socket"),
        Path(rule) if rule else None,
        values.get("log-file"),
        Path(pins) if pins else None,
        tuple(faults),
    )


def _load(text: str) -> dict[object, object]:
    """The mapping; ValueError says why it is none."""
    if len(text) > MAX_SETTINGS:
        raise ValueError(f"{len(text)} characters, limit {MAX_SETTINGS}")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"not readable as YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__}, not a mapping of {', '.join(KEYS)}")
    return document
