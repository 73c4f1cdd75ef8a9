# SPDX-License-Identifier: Apache-2.0
"""A node and an agent between which one door is open, and no other: the way by which the agent hears of containers.

nri   the plugin runs; the node has no hook
oci   NRI is off; the OCI hook is in the spec that the node starts every container's from
hold  neither: the kernel stops what nobody announced, and the agent asks the runtime who it is
late  neither, and nobody is stopped: a watcher asks the runtime what runs, and announces what is new
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

from bench.parts.starts import Starts, read_hold, read_nri, read_oci
from bench.parts.watcher import Watcher
from tests.support.agent import AgentProcess, PluginProcess
from tests.support.hook import build_program
from tests.support.names import unique_name
from tests.support.node import Node, NodeOptions, Runtime
from tests.support.oci_hooks import CREATE_CONTAINER, Hook

PIN_ROOT = Path("/sys/fs/bpf")


class Door(Enum):
    NRI = "nri"
    OCI = "oci"
    HOLD = "hold"
    LATE = "late"


class Announcer(Protocol):
    """Who tells the agent of containers."""

    def read_starts(self, ids: Sequence[str]) -> Starts:
        """Of the containers with these ids, which have ended."""
        ...


@dataclass(frozen=True, slots=True)
class PluginAnnouncer:
    plugin: PluginProcess

    def read_starts(self, ids: Sequence[str]) -> Starts:
        return read_nri(self.plugin.background.lines(), ids)


@dataclass(frozen=True, slots=True)
class HookAnnouncer:
    agent: AgentProcess

    def read_starts(self, ids: Sequence[str]) -> Starts:
        starts = read_oci(self.agent.background.lines(), ids)
        alone = sum(self.agent.control.status().decided_without_agent.values())
        return replace(starts, counts={"decided_without_agent": alone})


@dataclass(frozen=True, slots=True)
class KernelAnnouncer:
    agent: AgentProcess

    def read_starts(self, ids: Sequence[str]) -> Starts:
        return read_hold(self.agent.background.lines(), ids)


class WatcherAnnouncer:
    """Of single starts it knows nothing; it counts those since it was asked last."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._told: Mapping[str, int] = {}

    def read_starts(self, _ids: Sequence[str]) -> Starts:
        now = {"bound": self._watcher.bound, "too_late": self._watcher.too_late}
        fresh = {name: count - self._told.get(name, 0) for name, count in now.items()}
        self._told = now
        return Starts(counts=fresh)


@dataclass(frozen=True, slots=True)
class Site:
    node: Node
    agent: AgentProcess
    announcer: Announcer


@dataclass(frozen=True, slots=True)
class HookFiles:
    """Where the hook finds its agent, named before there is one: a node reads its hooks when it starts, and the agent
    is told the node's socket. folder: holds a link to the agent's run directory, and the failure rule.
    """

    binary: Path
    folder: Path
    pin_dir: Path

    @property
    def options(self) -> tuple[str, ...]:
        return (
            f"--agent-socket={self.folder}/agent/agent.sock",
            f"--spool={self.folder}/agent/hook.log",
            f"--failure-rule={self.folder}/failure-rule",
            f"--pin-dir={self.pin_dir}",
        )

    @property
    def hook(self) -> Hook:
        return Hook(CREATE_CONTAINER, self.binary, (*self.options, CREATE_CONTAINER))

    def command(self, stage: str) -> list[str]:
        """What a runtime executes at this stage."""
        return [str(self.binary), *self.options, stage]

    def lead_to(self, agent: AgentProcess) -> None:
        """The agent that the hook calls from now on."""
        link = self.folder / "agent"
        link.unlink(missing_ok=True)
        link.symlink_to(agent.run_dir)


@contextmanager
def open_hook_files(rule: str = "default open\n") -> Iterator[HookFiles]:
    """rule: the text of the failure rule."""
    with tempfile.TemporaryDirectory(prefix=f"{unique_name('hook')}-", dir="/tmp") as folder:
        files = HookFiles(build_program(sanitize=False), Path(folder), PIN_ROOT / unique_name("pin"))
        (files.folder / "failure-rule").write_text(rule)
        yield files


@contextmanager
def open_plugged(node: Node) -> Iterator[Site]:
    """An agent and a plugin between it and the node, which has no hook."""
    with (
        AgentProcess("--unannounced", "report", "--cri-socket", "none") as agent,
        PluginProcess(agent, node.nri_socket) as plugin,
    ):
        yield Site(node, agent, PluginAnnouncer(plugin))


def hooked_options(files: HookFiles) -> NodeOptions:
    """Of a node whose containers run the hook."""
    return NodeOptions(nri=False, hooks=(files.hook,))


@contextmanager
def open_hooked(files: HookFiles, node: Node) -> Iterator[Site]:
    """The agent that the node's hook calls; it asks the node's runtime for the pods' labels."""
    with open_hook_agent(files, str(node.socket)) as agent:
        yield Site(node, agent, HookAnnouncer(agent))


@contextmanager
def open_hook_agent(files: HookFiles, cri_socket: str) -> Iterator[AgentProcess]:
    """The agent that the hook calls."""
    options = ("--unannounced", "report", "--cri-socket", cri_socket, "--hook-binary", str(files.binary))
    with AgentProcess(*options, pin_dir=files.pin_dir) as agent:
        files.lead_to(agent)
        yield agent


@contextmanager
def open_site(door: Door, runtime: Runtime) -> Iterator[Site]:
    with ExitStack() as stack:
        yield OPENERS[door](stack, runtime)


def _open_nri(stack: ExitStack, runtime: Runtime) -> Site:
    return stack.enter_context(open_plugged(stack.enter_context(Node(runtime))))


def _open_oci(stack: ExitStack, runtime: Runtime) -> Site:
    files = stack.enter_context(open_hook_files())
    return stack.enter_context(open_hooked(files, stack.enter_context(Node(runtime, hooked_options(files)))))


def _open_hold(stack: ExitStack, runtime: Runtime) -> Site:
    node = stack.enter_context(Node(runtime, NodeOptions(nri=False)))
    options = ("--unannounced", "hold", "--hold-fallback", "open", "--cri-socket", str(node.socket))
    agent = stack.enter_context(AgentProcess(*options))
    return Site(node, agent, KernelAnnouncer(agent))


def _open_late(stack: ExitStack, runtime: Runtime) -> Site:
    node = stack.enter_context(Node(runtime, NodeOptions(nri=False)))
    agent = stack.enter_context(AgentProcess("--unannounced", "report", "--cri-socket", "none"))
    watcher = stack.enter_context(Watcher(node.cri, agent.socket))
    return Site(node, agent, WatcherAnnouncer(watcher))


OPENERS = {Door.NRI: _open_nri, Door.OCI: _open_oci, Door.HOLD: _open_hold, Door.LATE: _open_late}
