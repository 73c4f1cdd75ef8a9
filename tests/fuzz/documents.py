# SPDX-License-Identifier: Apache-2.0
"""Targets that read a document: the OCI runtime's JSON, annotations, hooks.d files, the failure rule, cgroup paths."""

from __future__ import annotations

from collections.abc import Mapping

from agent.hooks.annotations import AnnotatedIdentity, Runtime, identify
from agent.hooks.errors import HookError
from agent.hooks.limits import MAX_ID, MAX_NAME, MAX_PATH
from agent.hooks.spec import parse_config, parse_state
from agent.kernel.cgroup_path import candidates
from agent.kernel.errors import CgroupError
from rthook.failure import Treatment, parse_rule, render_rule
from rthook.install.hooksd import find_broken, parse_hook
from rthook.install.host import Host
from tests.fuzz import seeds
from tests.fuzz.words import MismatchError, generalise, name_error

NAMESPACES = (None, "", "kube-system", "payments", "team-a", "A", "x" * 300)


def run_state(data: bytes) -> str:
    try:
        state = parse_state(data)
    except HookError as error:
        return name_error(error)
    check_text(state.id, MAX_ID)
    check_text(state.bundle, MAX_PATH - 1)
    return f"pid {min(state.pid, 2)}, {'a' if state.bundle else 'no'} bundle, {min(len(state.annotations), 2)} keys"


def run_config(data: bytes) -> str:
    try:
        spec = parse_config(data)
    except HookError as error:
        return name_error(error)
    check_text(spec.cgroups_path, MAX_PATH - 1)
    return f"{'a' if spec.cgroups_path else 'no'} path, {min(len(spec.annotations), 2)} keys"


def run_annotations(data: bytes) -> str:
    """The input is the object of annotations in a state; every runtime's way to read it."""
    try:
        state = parse_state(b'{"id":"' + seeds.ID.encode() + b'","annotations":' + data + b"}")
    except HookError as error:
        return name_error(error)
    return "; ".join(f"{runtime.value}: {identify_word(state.annotations, runtime)}" for runtime in Runtime)


def identify_word(annotations: Mapping[str, str], runtime: Runtime) -> str:
    """Who it is, checked, or why that cannot be told."""
    try:
        who = identify(annotations, runtime, seeds.ID)
    except HookError as error:
        return generalise(str(error))[:30]
    check_identity(who)
    return f"{who.kind.value} in {'a' if who.namespace else 'no'} pod"


def check_identity(who: AnnotatedIdentity) -> None:
    """A pod has a namespace and a name; what is told can be logged and sent."""
    if bool(who.namespace) != bool(who.pod_name):
        raise MismatchError(f"half a pod: {who}")
    for text in (who.namespace, who.pod_name, who.pod_uid, who.container_name):
        check_text(text, MAX_NAME)
    for key, value in who.labels or ():
        check_text(key + value, 1 << 20)


def check_text(text: str, limit: int) -> None:
    if len(text) > limit or not text.isprintable():
        raise MismatchError(f"a text that may not be there: {text!a:.200}")
    text.encode()


class OneFile(Host):
    """A host with one file in each directory."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        object.__setattr__(self, "_data", data)

    def read(self, path: str) -> bytes | None:
        data: bytes = object.__getattribute__(self, "_data")
        return data if path else None

    def names(self, directory: str) -> list[str]:
        return ["other.json"] if directory else []


def run_hooksd(data: bytes) -> str:
    """A hooks.d file of somebody else: what is wrong with it, and whether it is a hook's."""
    broken = find_broken(OneFile(data), "/hooks.d")
    fault = generalise(broken[0][1]) if broken else "reads"
    return f"{fault}, {'no hook' if parse_hook(data) is None else 'a hook'}"


def run_failure_rule(data: bytes) -> str:
    """A rule without faults can be written and read back; with faults, nothing but what is named is open."""
    rule = parse_rule(data)
    treatments = {
        name: rule.treatment(name) for name in (None, "", "kube-system", "payments", "team-a", "A", "x" * 300)
    }
    if not rule.faults and parse_rule(render_rule(rule).encode()) != rule:
        raise MismatchError("a rule that is not read back as it was written")
    if rule.faults and treatments[""] is not Treatment.CLOSED:
        raise MismatchError("faults, and the default is not closed")
    return f"{rule.default.value}, {sorted({generalise(fault.what) for fault in rule.faults})[:2]}"


def run_cgroups_path(data: bytes) -> str:
    """linux.cgroupsPath, as a hook or a runtime tells it: no candidate may lead out of the hierarchy."""
    try:
        found = candidates(data.decode(errors="surrogateescape"))
    except CgroupError as error:
        return name_error(error)
    if any(".." in path.split("/") or path.strip("/") in ("", ".") for path in found):
        raise MismatchError(f"a path that leads out: {found}")
    return f"{len(found)} candidates"
