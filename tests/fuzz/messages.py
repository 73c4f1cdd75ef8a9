# SPDX-License-Identifier: Apache-2.0
"""Targets that read a message of a known method: the first byte of an input is the method's number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import cast

from agent.hooks.annotations import Runtime, identify
from agent.hooks.announced import AnnouncedStarts
from agent.hooks.calls import CallError
from agent.hooks.endpoint import HookEndpoint
from agent.hooks.gate import Bound, Gate, Start
from agent.hooks.oci import Described, OciStarts, Stage, find_labels
from agent.hooks.peer import Peer
from agent.hooks.spec import State
from agent.kernel.cgroup_path import AnnouncedCgroup, candidates
from agent.workload.identity import CgroupId, ContainerId, Door, WorkloadId
from nri_plugin.handlers import PLUGIN_SERVICE, Refuse, handle
from nri_plugin.synchronize import SynchronizeParts
from nri_plugin.ttrpc import Request
from tests.fuzz import seeds
from tests.fuzz.words import generalise

ROOT = Peer(1, 0, 0)

METHODS = tuple(dict.fromkeys(name for name, _ in seeds.nri_calls()))


def run_nri(data: bytes) -> str:
    """The first byte is the method's number. Synchronize comes in two parts, as a list of a full node does."""
    if not data:
        return "no input"
    method, parts = METHODS[data[0] % len(METHODS)], SynchronizeParts()
    words = []
    for _ in range(2 if method == "Synchronize" else 1):
        action = handle(Request(1, PLUGIN_SERVICE, method, data[1:]), parts)
        words.append(f"{action.code.name}" if isinstance(action, Refuse) else type(action).__name__)
    return f"{method}: {', '.join(words)}"


class GateOfNothing:
    """Takes the place of the gate behind the endpoint: binds whatever has been parsed."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def bind(self, start: Start, **_options: bool) -> Bound:
        return Bound(CgroupId(start.pid or 1), WorkloadId(1), 0, 0)

    def unbind(self, container: ContainerId) -> bool:
        return bool(container)

    def mark(self) -> int:
        return 0

    def link_nested(self) -> None:
        return None

    def retain(self, containers: Iterable[ContainerId], mark: int) -> int:
        return len(list(containers)) + mark


class LabelsOfAll:
    """Takes the place of the runtime that is asked for a pod's labels."""

    def labels_of(self, sandbox_id: str, namespace: str, name: str, /) -> dict[str, str] | None:
        return {"app": name, "in": namespace} if sandbox_id else None


class StartsOfNothing:
    """Takes the place of what looks for the hook's process and its bundle: the state alone says whose it is."""

    def __init__(self, labels: LabelsOfAll) -> None:
        self._labels = labels

    def describe(self, runtime: Runtime, state: State, _peer: Peer) -> Described:
        return Described(state, "", identify(state.annotations, runtime, state.id))

    def start(self, _stage: Stage, container: Described, _peer: Peer) -> Start:
        who = container.identity
        identity = who.of_container(container.state.id, find_labels(who, self._labels))
        return Start(identity, container.state.pid, container.cgroups_path, held=True, door=Door.OCI)


def find_announced(cgroups_path: str) -> AnnouncedCgroup:
    """The likeliest of the directories; CgroupError as the parser of paths raises it."""
    return AnnouncedCgroup(CgroupId(1), candidates(cgroups_path)[0], 1)


HOOK_METHODS = tuple(dict.fromkeys(name for name, _ in seeds.hook_calls()))


def run_hook_protobuf(data: bytes) -> str:
    """The first byte is the method's number."""
    if not data:
        return "no input"
    method = HOOK_METHODS[data[0] % len(HOOK_METHODS)]
    labels = LabelsOfAll()
    announced = AnnouncedStarts(find_announced, labels)
    endpoint = HookEndpoint(cast(Gate, GateOfNothing()), cast(OciStarts, StartsOfNothing(labels)), announced)
    try:
        after = endpoint.call(method, data[1:], ROOT).after
    except CallError as error:
        if error.after is not None:
            error.after()
        return f"{method}: {error.code.name}: {generalise(error.message)}"
    if after is not None:
        after()
    return f"{method}: answered"
