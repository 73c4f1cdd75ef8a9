# SPDX-License-Identifier: Apache-2.0
"""What each NRI call asks of the plugin, as values. Pure: the loop in `plugin` carries them out.

Theory of operation
    `handle` gives one action for one request. The event handlers that exist define the event mask: the runtime ends
    the connection on one bit that it does not know, so we subscribe to nothing else. All are among the first eleven,
    which every version knows. There is no event for changed labels: UpdatePodSandbox tells of resources only.

    NRI up to 0.11 tells these events in StateChange; later ones call RunPodSandbox and the others first. Both lead to
    the same handlers. The code of an error answer is never UNIMPLEMENTED unless the method is unknown: NRI 0.12 takes
    it for "ask again as StateChange".

    Nothing is subscribed to in which a plugin may adjust a container, and every answer is empty.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from nri_plugin.api import nri_pb2
from nri_plugin.containers import Rejection, Subject, name_subject, parse_container, parse_pod, parse_sandbox
from nri_plugin.runtime_info import RuntimeInfo, parse_runtime
from nri_plugin.synchronize import Inventory, SynchronizeParts, TooManyError
from nri_plugin.ttrpc import Code, Request
from rthook.api import hook_pb2

PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"
RUNTIME_SERVICE = "nri.pkg.api.v1alpha1.Runtime"


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer at once with this payload; nothing else is to be done."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error."""

    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Take what the runtime says of itself, then answer with the event mask."""

    runtime: RuntimeInfo
    events: int


@dataclass(frozen=True, slots=True)
class Bind:
    """Have the container bound, then answer with an empty message."""

    container: hook_pb2.Container
    subject: Subject


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A start of which the message does not say what it must: the failure rule decides."""

    rejection: Rejection


@dataclass(frozen=True, slots=True)
class BindSandbox:
    """Have the pod's sandbox bound, then answer with an empty message whatever came of it. None: it has no process."""

    sandbox: hook_pb2.Container | Rejection | None
    subject: Subject


@dataclass(frozen=True, slots=True)
class Unbind:
    """Answer with an empty message, and have the container forgotten."""

    container_id: str


@dataclass(frozen=True, slots=True)
class Synchronize:
    """Tell the agent the whole inventory, then answer with an empty message."""

    inventory: Inventory


Action = Answer | Refuse | Configure | Bind | Unreadable | BindSandbox | Unbind | Synchronize
EventHandler = Callable[[nri_pb2.PodSandbox, nri_pb2.Container], Action]


def handle_run_sandbox(pod: nri_pb2.PodSandbox, _container: nri_pb2.Container) -> BindSandbox:
    """The pause process runs, and no container of the pod exists yet."""
    return BindSandbox(parse_pod(pod) if pod.pid else None, name_subject(parse_sandbox(pod), pod.id))


def handle_remove_sandbox(pod: nri_pb2.PodSandbox, _container: nri_pb2.Container) -> Unbind:
    """The sandbox is gone for good. When it is stopped only, its cgroups may live on."""
    return Unbind(pod.id)


def handle_start(pod: nri_pb2.PodSandbox, container: nri_pb2.Container) -> Bind | Unreadable:
    """The init process exists and is held at the exec fifo: the moment to bind."""
    sandbox = parse_sandbox(pod)
    converted = parse_container(sandbox, container, hook_pb2.PHASE_HELD)
    if isinstance(converted, Rejection):
        return Unreadable(converted)
    return Bind(converted, name_subject(sandbox, converted.id))


def handle_remove(_pod: nri_pb2.PodSandbox, container: nri_pb2.Container) -> Unbind:
    """The container is gone for good."""
    return Unbind(container.id)


EVENT_HANDLERS: Mapping["nri_pb2.Event", EventHandler] = {
    nri_pb2.RUN_POD_SANDBOX: handle_run_sandbox,
    nri_pb2.REMOVE_POD_SANDBOX: handle_remove_sandbox,
    nri_pb2.START_CONTAINER: handle_start,
    nri_pb2.REMOVE_CONTAINER: handle_remove,
}


def compute_event_mask(events: Iterable[int]) -> int:
    """NRI's event mask: the sum of 1 << (event - 1). An empty one would mean all events."""
    return sum(1 << (event - 1) for event in set(events))


def handle(request: Request, parts: SynchronizeParts) -> Action:
    """The action that `request` asks for; `parts` collects what Synchronize says over several requests."""
    handler = _METHODS.get(request.method) if request.service == PLUGIN_SERVICE else None
    if handler is None:
        return Refuse(Code.UNIMPLEMENTED, f"{request.service}/{request.method} is not implemented")
    try:
        return handler(request.payload, parts)
    except DecodeError as error:
        return Refuse(Code.INVALID_ARGUMENT, f"malformed {request.method}: {error}")


def _configure(payload: bytes, _parts: SynchronizeParts) -> Action:
    request = nri_pb2.ConfigureRequest.FromString(payload)
    return Configure(parse_runtime(request), compute_event_mask(EVENT_HANDLERS))


def _synchronize(payload: bytes, parts: SynchronizeParts) -> Action:
    part = nri_pb2.SynchronizeRequest.FromString(payload)
    try:
        parts.add(part)
    except TooManyError as error:
        return Refuse(Code.RESOURCE_EXHAUSTED, error.reason)
    if part.more:
        return Answer(nri_pb2.SynchronizeResponse(more=True).SerializeToString())
    return Synchronize(parts.finish())


def _shutdown(_payload: bytes, _parts: SynchronizeParts) -> Action:
    """The runtime closes the connection next."""
    return Answer()


def _state_change(payload: bytes, _parts: SynchronizeParts) -> Action:
    """An event that was not subscribed to is none of our business."""
    event = nri_pb2.StateChangeEvent.FromString(payload)
    handler = EVENT_HANDLERS.get(event.event)
    return Answer() if handler is None else handler(event.pod, event.container)


def _run_pod_sandbox(payload: bytes, _parts: SynchronizeParts) -> Action:
    return handle_run_sandbox(nri_pb2.RunPodSandboxRequest.FromString(payload).pod, nri_pb2.Container())


def _remove_pod_sandbox(payload: bytes, _parts: SynchronizeParts) -> Action:
    return handle_remove_sandbox(nri_pb2.RemovePodSandboxRequest.FromString(payload).pod, nri_pb2.Container())


def _start_container(payload: bytes, _parts: SynchronizeParts) -> Action:
    request = nri_pb2.StartContainerRequest.FromString(payload)
    return handle_start(request.pod, request.container)


def _remove_container(payload: bytes, _parts: SynchronizeParts) -> Action:
    request = nri_pb2.RemoveContainerRequest.FromString(payload)
    return handle_remove(request.pod, request.container)


_METHODS: Mapping[str, Callable[[bytes, SynchronizeParts], Action]] = {
    "Configure": _configure,
    "Synchronize": _synchronize,
    "Shutdown": _shutdown,
    "StateChange": _state_change,
    "RunPodSandbox": _run_pod_sandbox,
    "RemovePodSandbox": _remove_pod_sandbox,
    "StartContainer": _start_container,
    "RemoveContainer": _remove_container,
}
