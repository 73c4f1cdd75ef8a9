# SPDX-License-Identifier: Apache-2.0
"""Label selectors with the rules of Kubernetes, of pods and of containers."""

from dataclasses import replace

import pytest

from agent.policy.model import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement
from agent.workload.identity import ContainerId, ContainerIdentity, PodUid, freeze_labels
from agent.workload.selector import ContainerLabels, container_labels, is_selected, selectable_labels

_WEB = freeze_labels({"app": "web", "empty": ""})
_NGINX = "docker.io/library/nginx"
_CONTAINER = ContainerIdentity(ContainerId("c"), "main", "shop", "web-0", PodUid("u"), _WEB, "nginx:1.27")


def _selector(key: str, operator: LabelOperator, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, operator, values),))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (LabelSelector(), True),
        (_selector("app", LabelOperator.IN, "api", "web"), True),
        (_selector("app", LabelOperator.IN, "api"), False),
        (_selector("absent", LabelOperator.IN, "web"), False),
        (_selector("empty", LabelOperator.IN, ""), True),
        (_selector("absent", LabelOperator.IN, ""), False),
        (_selector("app", LabelOperator.NOT_IN, "web"), False),
        (_selector("app", LabelOperator.NOT_IN, "api"), True),
        (_selector("absent", LabelOperator.NOT_IN, "web"), True),
        (_selector("absent", LabelOperator.NOT_IN, ""), True),
        (_selector("app", LabelOperator.EXISTS), True),
        (_selector("empty", LabelOperator.EXISTS), True),
        (_selector("absent", LabelOperator.EXISTS), False),
        (_selector("app", LabelOperator.DOES_NOT_EXIST), False),
        (_selector("empty", LabelOperator.DOES_NOT_EXIST), False),
        (_selector("absent", LabelOperator.DOES_NOT_EXIST), True),
        (_selector(NAMESPACE_LABEL, LabelOperator.IN, "shop"), True),
        (_selector(NAMESPACE_LABEL, LabelOperator.NOT_IN, "shop"), False),
    ],
)
def test_requirement_holds_as_in_kubernetes(selector: LabelSelector, expected: bool) -> None:
    assert is_selected(selector, selectable_labels("shop", _WEB)) is expected


def test_all_requirements_must_hold() -> None:
    both = LabelSelector((Requirement("app", LabelOperator.EXISTS), Requirement("absent", LabelOperator.EXISTS)))
    assert not is_selected(both, dict(_WEB))


@pytest.mark.parametrize(
    ("name", "image", "known", "unknown"),
    [
        ("main", "nginx:1.27", {"name": "main", "repo": _NGINX}, set()),
        ("", "nginx@sha256:0a", {"repo": _NGINX}, {"name"}),
        ("main", "", {"name": "main"}, {"repo"}),
        ("main", "sha256:" + "0a" * 32, {"name": "main"}, {"repo"}),
        ("", "", {}, {"name", "repo"}),
    ],
)
def test_a_container_has_a_name_and_a_repository_or_they_are_unknown(
    name: str, image: str, known: dict[str, str], unknown: set[str]
) -> None:
    identity = replace(_CONTAINER, container_name=name, image=image)
    assert container_labels(identity) == ContainerLabels(known, frozenset(unknown))


@pytest.mark.parametrize("change", [{"sandbox": True}, {"namespace": "", "pod_name": "", "pod_uid": ""}])
def test_what_is_no_container_of_a_pod_has_what_is_told_and_nothing_else(change: dict[str, object]) -> None:
    unnamed = replace(_CONTAINER, container_name="", image="", **change)  # type: ignore[arg-type]
    assert container_labels(unnamed) == ContainerLabels({}, frozenset())
    named = replace(_CONTAINER, **change)  # type: ignore[arg-type]
    assert container_labels(named) == ContainerLabels({"name": "main", "repo": _NGINX}, frozenset())


@pytest.mark.parametrize(
    ("operator", "named", "other", "unknown", "absent"),
    [
        (LabelOperator.IN, True, False, True, False),
        (LabelOperator.NOT_IN, False, True, True, True),
        (LabelOperator.EXISTS, True, True, True, False),
        (LabelOperator.DOES_NOT_EXIST, False, False, False, True),
    ],
)
def test_an_unknown_name_is_selected_unless_no_name_would_be(
    operator: LabelOperator, named: bool, other: bool, unknown: bool, absent: bool
) -> None:
    selector = _selector("name", operator, *(("main",) if operator.value in ("In", "NotIn") else ()))
    key = frozenset({"name"})
    assert is_selected(selector, {"name": "main"}) is named
    assert is_selected(selector, {"name": "sidecar"}) is other
    assert is_selected(selector, {}, key) is unknown
    assert is_selected(selector, {}) is absent


def test_what_is_known_decides_where_it_can() -> None:
    """The name is another one: then the repository does not matter."""
    both = LabelSelector(
        (Requirement("name", LabelOperator.IN, ("main",)), Requirement("repo", LabelOperator.IN, (_NGINX,)))
    )
    assert is_selected(both, {"name": "main"}, frozenset({"repo"}))
    assert not is_selected(both, {"name": "sidecar"}, frozenset({"repo"}))
