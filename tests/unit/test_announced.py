# SPDX-License-Identifier: Apache-2.0
"""Containers that another's hook announces by their cgroup's path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.announced import AnnouncedStarts
from agent.hooks.errors import HookError, LookupFailed, Reason
from agent.hooks.gate import Start
from agent.hooks.limits import MAX_ID, MAX_NAME, MAX_PATH
from agent.kernel.cgroup import ProcessCgroup
from agent.kernel.cgroup_path import AnnouncedCgroup
from agent.kernel.errors import CgroupError
from agent.workload.identity import CgroupId, ContainerIdentity, Door
from rthook.api import hook_pb2

_CRIO = {
    "io.kubernetes.cri-o.ContainerID": "c1",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.SandboxID": "s1",
    "io.kubernetes.cri-o.ImageName": "web:1",
    "io.kubernetes.container.name": "main",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.uid": "u1",
}
_SANDBOX = _CRIO | {
    "io.kubernetes.cri-o.ContainerType": "sandbox",
    "io.kubernetes.cri-o.Labels": '{"app": "web"}',
}
_POD = {"pod_namespace": "shop", "pod_name": "web-0", "pod_uid": "u1", "name": "main", "image": "web:1"}


@dataclass
class _Stage:
    """labels: what the runtime says of any pod. nested: its process is in a child of the one cgroup that exists."""

    labels: Mapping[str, str] | None = field(default_factory=lambda: {"a": "1"})
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    nested: bool = False

    def labels_of(self, sandbox_id: str, namespace: str, name: str) -> Mapping[str, str] | None:
        self.asked.append((sandbox_id, namespace, name))
        return self.labels

    def _find(self, path: str) -> AnnouncedCgroup:
        if path != "/pods/c1":
            raise CgroupError(f"cgroup {path} is not there")
        return AnnouncedCgroup(CgroupId(1 << 40), path, 70, self.nested)

    def start(self, **members: Any) -> Start:
        request = {"id": "c1", "cgroups_path": "/pods/c1"} | members
        return AnnouncedStarts(self._find, self).start(hook_pb2.AnnounceRequest(**request))


@pytest.fixture
def stage() -> _Stage:
    return _Stage()


def _refused(call: Callable[[], object]) -> HookError:
    with pytest.raises(HookError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("members", "sandbox"), [(_POD, ""), ({"annotations": _CRIO}, "s1"), (_POD | {"annotations": _CRIO}, "s1")]
)
def test_a_container_is_told_by_the_message_or_its_annotations(
    stage: _Stage, members: dict[str, Any], sandbox: str
) -> None:
    identity = ContainerIdentity("c1", "main", "shop", "web-0", "u1", (("a", "1"),), "web:1")  # type: ignore[arg-type]
    cgroup = ProcessCgroup(CgroupId(1 << 40), "/pods/c1")
    assert stage.start(**members) == Start(identity, 70, "/pods/c1", True, door=Door.UPSTREAM, cgroup=cgroup)
    assert stage.asked == [(sandbox, "shop", "web-0")]


def test_an_image_that_is_told_by_its_id_is_named_by_the_annotations(stage: _Stage) -> None:
    start = stage.start(**_POD | {"image": "sha256:" + "0a" * 32}, annotations=_CRIO)
    assert start.identity.image == "web:1"


def test_a_process_below_the_containers_cgroup_is_the_containers(stage: _Stage) -> None:
    stage.nested = True
    assert stage.start(**_POD).cgroup == ProcessCgroup(CgroupId(1 << 40), "/pods/c1", nested=True)


def test_a_sandboxs_labels_are_in_its_annotations(stage: _Stage) -> None:
    identity = stage.start(annotations=_SANDBOX).identity
    assert (identity.labels, identity.sandbox) == ((("app", "web"),), True)
    assert stage.asked == []


def test_a_container_in_no_pod_is_one(stage: _Stage) -> None:
    identity = stage.start(name="box", annotations={"io.container.manager": "libpod"}).identity
    assert (identity.namespace, identity.pod_name, identity.container_name, identity.labels) == ("", "", "box", ())
    assert stage.asked == []


def test_labels_that_cannot_be_had_are_a_refusal(stage: _Stage) -> None:
    stage.labels = None
    error = _refused(lambda: stage.start(**_POD))
    assert isinstance(error, LookupFailed)
    assert error.reason is Reason.NO_LABELS


@pytest.mark.parametrize(
    ("members", "reason", "words"),
    [
        ({"id": ""}, Reason.UNIDENTIFIED, "no container id"),
        ({"pod_name": ""}, Reason.UNIDENTIFIED, "no pod is named"),
        ({"pod_namespace": ""}, Reason.UNIDENTIFIED, "no pod is named"),
        ({"pod_namespace": "", "pod_name": ""}, Reason.UNIDENTIFIED, "no pod is named"),
        ({"cgroups_path": ""}, Reason.NO_CGROUP, "no cgroup is named"),
        ({"cgroups_path": "/pods/c2"}, Reason.NO_CGROUP, "cgroup /pods/c2 is not there"),
        ({"cgroups_path": "/" * MAX_PATH}, Reason.INVALID, "cgroups_path is longer than 4095 characters"),
        ({"id": "x" * (MAX_ID + 1)}, Reason.INVALID, "id is longer than 256 characters"),
        ({"id": "c\n1"}, Reason.INVALID, r"'c\n1': id has an unprintable character"),
        ({"pod_uid": "x" * (MAX_NAME + 1)}, Reason.INVALID, "pod_uid is longer than 253 characters"),
        ({"annotations": _CRIO, "pod_namespace": "kube-system"}, Reason.INVALID, "its namespace is kube-system"),
        ({"annotations": _CRIO, "pod_name": "db-0"}, Reason.INVALID, "its pod name is db-0"),
        ({"annotations": _CRIO, "pod_uid": "u2"}, Reason.INVALID, "its pod uid is u2"),
        ({"annotations": _CRIO, "name": "side"}, Reason.INVALID, "its name is side"),
        (
            {"annotations": {"io.kubernetes.cri.container-type": "pod"}},
            Reason.INVALID,
            "annotation io.kubernetes.cri.container-type",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(stage: _Stage, members: dict[str, Any], reason: Reason, words: str) -> None:
    error = _refused(lambda: stage.start(**(_POD | members)))
    assert error.reason is reason
    assert words in str(error)


@given(
    st.dictionaries(st.sampled_from(("id", "pod_name", "pod_namespace", "pod_uid", "name")), st.text(max_size=9)),
    st.dictionaries(st.sampled_from((*_SANDBOX, "k")), st.sampled_from(("shop", "sandbox", "c1", "{}")) | st.text()),
)
def test_any_message_is_a_start_or_a_refusal(members: dict[str, str], annotations: dict[str, str]) -> None:
    try:
        start = _Stage().start(**members, annotations=annotations)
    except HookError as error:
        error.detail.encode()
    else:
        assert bool(start.identity.namespace) == bool(start.identity.pod_name)
