# SPDX-License-Identifier: Apache-2.0
"""Whose container it is, by each runtime's annotations; and that a pod's author cannot make it another's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.annotations import OUTSIDE, AnnotatedIdentity, Kind, Runtime, identify
from agent.hooks.errors import AnnotationError, HookError, Reason, SpecError
from agent.hooks.limits import MAX_NAME
from agent.workload.identity import ContainerId, ContainerIdentity, PodUid

_UID = "6d0b5a2e-0c4c-4f4e-9d2a-111111111111"
_CONTAINERD = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-uid": _UID,
    "io.kubernetes.cri.sandbox-id": "s1",
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.image-name": "registry/web:1",
}
_POD = {
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.uid": _UID,
    "io.kubernetes.container.name": "main",
}
_CRIO = _POD | {
    "io.kubernetes.cri-o.ContainerID": "c1",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.cri-o.SandboxID": "s1",
    "io.kubernetes.cri-o.SandboxName": f"k8s_web-0_shop_{_UID}_0",
    "io.kubernetes.cri-o.ImageName": "registry/web:1",
    "io.kubernetes.cri-o.Labels": json.dumps(_POD),
}
_SANDBOX = _CRIO | {
    "io.kubernetes.cri-o.ContainerType": "sandbox",
    "io.kubernetes.cri-o.Labels": '{"app": "web", "tier": "1"}',
}
_WEB = AnnotatedIdentity("shop", "web-0", _UID, "main", "registry/web:1", "s1", Kind.CONTAINER, None)
_VICTIM = {"io.kubernetes.pod.namespace": "kube-system"}
_CRI_VICTIM = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-namespace": "kube-system"}


def _without(annotations: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if not key.endswith(keys)}


def _refused(annotations: dict[str, str], runtime: Runtime) -> HookError:
    with pytest.raises(HookError) as caught:
        identify(annotations, runtime, "c1")
    return caught.value


@pytest.mark.parametrize("runtime", [Runtime.CONTAINERD, Runtime.AUTO])
def test_containerd_tells_all_but_the_labels(runtime: Runtime) -> None:
    assert identify(_CONTAINERD, runtime, "c1") == _WEB


@pytest.mark.parametrize("runtime", [Runtime.CRIO, Runtime.AUTO])
def test_crio_tells_all_but_the_pods_labels(runtime: Runtime) -> None:
    """A container's Labels annotation has the container's labels."""
    assert identify(_CRIO, runtime, "c1") == _WEB


def test_crio_tells_a_sandboxs_labels() -> None:
    who = identify(_SANDBOX, Runtime.CRIO, "c1")
    assert (who.kind, who.labels) == (Kind.SANDBOX, (("app", "web"), ("tier", "1")))


def test_containerd_tells_a_sandbox() -> None:
    sandbox = _without(_CONTAINERD, "container-name", "image-name") | {"io.kubernetes.cri.container-type": "sandbox"}
    who = identify(sandbox, Runtime.CONTAINERD, "s1")
    assert (who.kind, who.container_name, who.pod_name, who.labels) == (Kind.SANDBOX, "", "web-0", None)


@pytest.mark.parametrize("runtime", [Runtime.PODMAN, Runtime.AUTO])
def test_podman_tells_what_it_was_told(runtime: Runtime) -> None:
    assert identify(_POD, runtime, "c1") == AnnotatedIdentity("shop", "web-0", _UID, "main", "", "", Kind.CONTAINER, ())
    labelled = _POD | {"io.kubernetes.cri-o.Labels": '{"app": "web"}', "io.kubernetes.cri-o.ImageName": "i"}
    who = identify(labelled, runtime, "c1")
    assert (who.labels, who.image) == ((("app", "web"),), "i")


@pytest.mark.parametrize("runtime", Runtime)
@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"io.podman.annotations.autoremove": "FALSE", "io.container.manager": "libpod"},
        {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "podman's own pod"},
    ],
)
def test_a_container_without_a_pod_is_outside(annotations: dict[str, str], runtime: Runtime) -> None:
    assert identify(annotations, runtime, "c1") is OUTSIDE
    assert OUTSIDE.labels == ()


@pytest.mark.parametrize(
    ("runtime", "annotations"),
    [(Runtime.CONTAINERD, _CRIO), (Runtime.CRIO, _CONTAINERD), (Runtime.PODMAN, _CONTAINERD)],
)
def test_a_named_runtimes_keys_alone_count(runtime: Runtime, annotations: dict[str, str]) -> None:
    assert identify(annotations, runtime, "c1") is OUTSIDE


def test_without_a_kubelet_crios_own_name_of_the_sandbox_counts() -> None:
    who = identify(_without(_CRIO, *_POD), Runtime.CRIO, "c1")
    assert (who.namespace, who.pod_name, who.pod_uid) == ("shop", "web-0", _UID)


@pytest.mark.parametrize("name", ["web-0", "k8s_a_b", "k8s_a_b_c_d_e", "docker_web-0_kube-system_u_0", ""])
def test_a_sandbox_name_of_another_form_says_nothing(name: str) -> None:
    assert identify(_CRIO | {"io.kubernetes.cri-o.SandboxName": name}, Runtime.CRIO, "c1") == _WEB


def test_an_image_without_a_name_has_the_one_that_was_asked_for() -> None:
    named = _CRIO | {"io.kubernetes.cri-o.ImageName": "", "io.kubernetes.cri-o.Image": "web"}
    assert identify(named, Runtime.CRIO, "c1").image == "web"


def test_an_image_that_is_told_by_its_id_has_the_name_that_was_asked_for() -> None:
    identifier = "0a" * 32
    named = _CRIO | {"io.kubernetes.cri-o.ImageName": identifier, "io.kubernetes.cri-o.Image": "web:1"}
    assert identify(named, Runtime.CRIO, "c1").image == "web:1"
    unnamed = named | {"io.kubernetes.cri-o.Image": f"sha256:{identifier}"}
    assert identify(unnamed, Runtime.CRIO, "c1").image == identifier


@pytest.mark.parametrize(
    ("annotations", "runtime"),
    [
        (_CONTAINERD | _VICTIM, Runtime.CONTAINERD),
        (_CRIO | _CRI_VICTIM, Runtime.CRIO),
        (_CRIO | _CRI_VICTIM, Runtime.AUTO),
        (_CRIO | {"io.kubernetes.cri-o.Namespace": "kube-system"}, Runtime.CRIO),
        (_CRIO | {"io.kubernetes.cri-o.KubeName": "x", "io.kubernetes.cri-o.ContainerName": "x"}, Runtime.CRIO),
        (_POD | _CRI_VICTIM, Runtime.PODMAN),
    ],
)
def test_what_a_pods_author_can_write_changes_nothing(annotations: dict[str, str], runtime: Runtime) -> None:
    who = identify(annotations, runtime, "c1")
    assert (who.namespace, who.pod_name, who.container_name) == ("shop", "web-0", "main")


@pytest.mark.parametrize(
    "written",
    [
        {"io.kubernetes.cri-o.Namespace": "kube-system"},
        {"io.kubernetes.cri-o.KubeName": "other"},
        {"io.kubernetes.cri-o.SandboxName": "k8s_other_kube-system_u_0"},
    ],
)
def test_what_a_pods_author_can_write_into_a_sandbox_changes_nothing(written: dict[str, str]) -> None:
    who = identify(_SANDBOX | written, Runtime.CRIO, "c1")
    assert (who.namespace, who.pod_name) == ("shop", "web-0")


def test_a_sandbox_without_a_kubelet_is_told_by_crios_keys() -> None:
    keys = {"io.kubernetes.cri-o.Namespace": "shop", "io.kubernetes.cri-o.KubeName": "web-0"}
    who = identify(_without(_SANDBOX, *_POD) | keys, Runtime.CRIO, "c1")
    assert (who.namespace, who.pod_name) == ("shop", "web-0")


_FORGED = _without(_CRIO, "SandboxName") | {"io.kubernetes.cri-o.ContainerID": "guessed"}


@pytest.mark.parametrize(
    ("annotations", "what"),
    [
        (_CONTAINERD | _VICTIM | {"io.kubernetes.pod.name": "web-0"}, "namespace"),
        (_POD | _CRI_VICTIM | {"io.kubernetes.cri.sandbox-name": "web-0"}, "namespace"),
        (_CONTAINERD | _FORGED | _VICTIM, "namespace"),
        (_CONTAINERD | _FORGED | {"io.kubernetes.pod.name": "db-0"}, "pod_name"),
        (_CONTAINERD | _FORGED | {"io.kubernetes.pod.uid": "other"}, "pod_uid"),
        (_CONTAINERD | _FORGED | {"io.kubernetes.cri-o.SandboxID": "s2"}, "sandbox_id"),
        (
            _CONTAINERD
            | _FORGED
            | {"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.Labels": '{"app": "db"}'},
            "kind",
        ),
    ],
)
def test_families_that_contradict_each_other_are_refused(annotations: dict[str, str], what: str) -> None:
    error = _refused(annotations, Runtime.AUTO)
    assert error.reason is Reason.INVALID
    assert f"contradict each other in {what}: " in str(error)


def test_families_that_agree_are_one_and_labels_are_asked_for() -> None:
    forged = _CONTAINERD | _FORGED | {"io.kubernetes.cri-o.Labels": '{"app": "db"}'}
    assert identify(forged, Runtime.AUTO, "c1") == _WEB


def test_a_sandboxs_labels_are_not_believed_where_two_families_tell_of_it() -> None:
    forged = {"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.Labels": '{"app": "db"}'}
    who = identify(_CONTAINERD | _FORGED | forged | {"io.kubernetes.cri.container-type": "sandbox"}, Runtime.AUTO, "c1")
    assert (who.kind, who.labels) == (Kind.SANDBOX, None)


def test_the_kubelets_labels_and_crios_sandbox_must_agree() -> None:
    """Without a kubelet the first may be an annotation of the pod's author."""
    for key, value in {"namespace": "kube-system", "name": "db-0", "uid": "u"}.items():
        error = _refused(_CRIO | {f"io.kubernetes.pod.{key}": value}, Runtime.CRIO)
        assert isinstance(error, AnnotationError)
        assert (error.reason, error.key) == (Reason.INVALID, "io.kubernetes.cri-o.SandboxName")


@pytest.mark.parametrize(
    ("annotations", "runtime", "missing"),
    [
        (_without(_CONTAINERD, "sandbox-namespace"), Runtime.CONTAINERD, "namespace"),
        (_without(_CONTAINERD, "sandbox-name"), Runtime.CONTAINERD, "name"),
        (_without(_CRIO, "SandboxName", "pod.namespace"), Runtime.CRIO, "namespace"),
        (_without(_SANDBOX, "pod.name"), Runtime.CRIO, "name"),
        (_without(_POD, "pod.name"), Runtime.PODMAN, "name"),
        ({"io.kubernetes.pod.uid": _UID}, Runtime.AUTO, "namespace"),
    ],
)
def test_half_a_pod_is_none(annotations: dict[str, str], runtime: Runtime, missing: str) -> None:
    error = _refused(annotations, runtime)
    assert error.reason is Reason.UNIDENTIFIED
    assert f"the pod's {missing} is missing" in str(error)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("io.kubernetes.cri.sandbox-namespace", "x" * (MAX_NAME + 1), "is longer than 253 characters"),
        ("io.kubernetes.cri.sandbox-name", "x" * (1 << 20), "is longer than 253 characters"),
        ("io.kubernetes.cri.sandbox-name", "web\n0", "has an unprintable character"),
        ("io.kubernetes.cri.container-name", "\ud800", "has an unprintable character"),
        ("io.kubernetes.cri.image-name", "x" * 5000, "is longer than 4096 characters"),
        ("io.kubernetes.cri.container-type", "pod", "is pod, not container or sandbox"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_its_key(key: str, value: str, problem: str) -> None:
    error = _refused(_CONTAINERD | {key: value}, Runtime.CONTAINERD)
    assert isinstance(error, AnnotationError)
    assert (error.reason, error.key, error.problem) == (Reason.INVALID, key, problem)
    assert str(error) == f"annotation {key}: {problem}"


def test_a_value_that_is_not_used_may_be_anything() -> None:
    annotations = _CONTAINERD | {"io.kubernetes.cri-o.Annotations": "x" * (1 << 20), "k": "\ud800"}
    assert identify(annotations, Runtime.AUTO, "c1") == _WEB


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": "1", "a": "2"}', "[" * 100_000])
def test_labels_that_cannot_be_read_are_told(text: str) -> None:
    error = _refused(_SANDBOX | {"io.kubernetes.cri-o.Labels": text}, Runtime.CRIO)
    assert isinstance(error, SpecError)
    assert error.document == "annotation io.kubernetes.cri-o.Labels"


def test_an_identity_is_the_containers() -> None:
    assert _WEB.of_container("c1", (("a", "b"),)) == ContainerIdentity(
        ContainerId("c1"), "main", "shop", "web-0", PodUid(_UID), (("a", "b"),), "registry/web:1"
    )


def test_an_identity_of_a_sandbox_says_so() -> None:
    assert identify(_SANDBOX, Runtime.AUTO, "c1").of_container("c1", ()).sandbox
    assert not OUTSIDE.of_container("c1", ()).sandbox


_ANY_TEXT = st.text(st.characters(categories=None), max_size=30)
_VALUES: Any = st.sampled_from(("shop", "web-0", "container", "sandbox", "c1", "{}", "k8s_a_b_c_d", "")) | _ANY_TEXT


@given(
    st.dictionaries(st.sampled_from((*_CONTAINERD, *_CRIO, "io.kubernetes.cri-o.Namespace")) | _ANY_TEXT, _VALUES),
    st.sampled_from(Runtime),
)
def test_any_annotations_are_an_identity_or_an_error(annotations: dict[str, str], runtime: Runtime) -> None:
    try:
        who = identify(annotations, runtime, "c1")
    except HookError as error:
        str(error).encode()
    else:
        assert bool(who.namespace) == bool(who.pod_name)
        assert f"{who.namespace}{who.pod_name}{who.container_name}{who.image}".isprintable()
