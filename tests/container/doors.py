# SPDX-License-Identifier: Apache-2.0
"""The doors by which a runtime announces a container: the NRI plugin, and our OCI hook at each of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.container.stage import TOOLS, Stage
from tests.support.agent import AgentProcess, PluginProcess
from tests.support.hook import HookSetup, build_program
from tests.support.node import IMAGES, Node, NodeOptions, Runc, Runtime
from tests.support.oci_hooks import CREATE_CONTAINER, CREATE_RUNTIME, POSTSTOP, Hook


@dataclass(frozen=True, slots=True)
class Door:
    """stage: of the OCI hook, empty for the NRI plugin."""

    stage: str = ""
    runtime: Runtime = Runtime.CONTAINERD_2
    runc: Runc = Runc.SYSTEM

    def __str__(self) -> str:
        return "-".join((self.stage or "nri", self.runtime.name.lower(), self.runc.name.lower()))


# Each stage with each runtime and each runc, and no more than that: a node takes seconds.
DOORS = (
    Door(),
    Door(CREATE_CONTAINER),
    Door(CREATE_RUNTIME, runc=Runc.NEW),
    Door(CREATE_CONTAINER, Runtime.CONTAINERD_1_7, Runc.NEW),
)


def hook_setup(agent: AgentProcess, deadline_ms: int = 2000) -> HookSetup:
    """Our hook, told of an agent; its failure rule is a file in the agent's run directory."""
    return HookSetup(build_program(sanitize=False), agent.run_dir, deadline_ms, agent.pin_dir)


def oci_hook(agent: AgentProcess, stage: str, *options: str, deadline_ms: int = 2000) -> Hook:
    """The same as a runtime is told of it. Later options win."""
    setup = hook_setup(agent, deadline_ms)
    return Hook(stage, setup.program, (*setup.options(), *options, stage))


def start_agent(cri_socket: Path | str, *options: str) -> AgentProcess:
    """One that knows our hook's binary. cri_socket: it may come into being later."""
    return AgentProcess("--cri-socket", str(cri_socket), "--hook-binary", str(build_program(sanitize=False)), *options)


@contextmanager
def open_door(door: Door, policies: str, folder: Path, extra: Sequence[Hook] = ()) -> Iterator[Stage]:
    """A node whose containers are announced through the door. extra: hooks of others; OCI doors only."""
    socket = folder / "cri.sock"
    with ExitStack() as stack:
        agent = stack.enter_context(start_agent(socket))
        agent.add(policies)
        ours = (oci_hook(agent, door.stage), oci_hook(agent, POSTSTOP)) if door.stage else ()
        options = NodeOptions(nri=not door.stage, oci_runtime=door.runc.path, hooks=(*ours, *extra))
        node = stack.enter_context(Node(door.runtime, options, (*IMAGES, TOOLS)))
        socket.symlink_to(node.socket)
        if not door.stage:
            stack.enter_context(PluginProcess(agent, node.nri_socket))
        yield Stage(node, agent)
