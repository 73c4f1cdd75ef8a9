# SPDX-License-Identifier: Apache-2.0
"""Repositories of images: the forms that authors and runtimes write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.workload.images import choose_image, parse_repository, qualify_repository

_DIGEST = "sha256:" + "0a" * 32
_HEX = "0a" * 32
_NGINX = "docker.io/library/nginx"


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("nginx", _NGINX),
        ("nginx:1.27", _NGINX),
        (f"nginx@{_DIGEST}", _NGINX),
        (f"nginx:1.27@{_DIGEST}", _NGINX),
        ("library/nginx:1.27", _NGINX),
        ("docker.io/nginx", _NGINX),
        ("docker.io/library/nginx:1.27", _NGINX),
        ("index.docker.io/library/nginx", _NGINX),
        ("Docker.IO/nginx", _NGINX),
        (f"docker-pullable://nginx@{_DIGEST}", _NGINX),
        ("docker://nginx:1", _NGINX),
        ("team/app:2", "docker.io/team/app"),
        ("a/b/c:2", "docker.io/a/b/c"),
        ("registry:5000/team/app", "registry:5000/team/app"),
        ("registry:5000/team/app:2", "registry:5000/team/app"),
        (f"registry:5000/app:2@{_DIGEST}", "registry:5000/app"),
        (f"registry.example:5000/app@{_DIGEST}", "registry.example:5000/app"),
        ("registry:5000", "docker.io/library/registry"),
        ("ghcr.io/org/app:v1", "ghcr.io/org/app"),
        ("GHCR.io/org/app:v1", "ghcr.io/org/app"),
        ("REGISTRY/app", "REGISTRY/app"),
        ("REGISTRY:5000/app", "registry:5000/app"),
        ("localhost/sample:2", "localhost/sample"),
        ("localhost:5000/library/nginx", "localhost:5000/library/nginx"),
        ("quay.io/nginx", "quay.io/nginx"),
    ],
)
def test_repository_is_the_name_without_tag_and_digest_fully_qualified(image: str, repository: str) -> None:
    assert parse_repository(image) == repository
    assert qualify_repository(repository) == repository


@pytest.mark.parametrize(
    "image",
    [
        "",
        _DIGEST,
        _HEX,
        "sha256:",
        "sha256:0a1b",
        "sha512:" + _HEX * 2,
        f"docker://{_DIGEST}",
        f"@{_DIGEST}",
        ":1.27",
        "registry:5000/",
        "registry/:1",
        "/nginx",
        "two words",
        "[::1]:5000/app",
        "x" * 513,
    ],
)
def test_an_id_and_what_is_no_name_have_no_repository(image: str) -> None:
    assert parse_repository(image) == ""


def test_63_digits_are_a_name() -> None:
    assert parse_repository(_HEX[1:]) == f"docker.io/library/{_HEX[1:]}"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ((), ""),
        (("", ""), ""),
        (("nginx:1", "redis:2"), "nginx:1"),
        (("", "redis:2"), "redis:2"),
        ((_DIGEST, "redis:2"), "redis:2"),
        ((_HEX, "", "registry:5000/app@" + _DIGEST), "registry:5000/app@" + _DIGEST),
        (("", _DIGEST, _HEX), _DIGEST),
    ],
)
def test_a_name_comes_before_an_id(names: tuple[str, ...], chosen: str) -> None:
    assert choose_image(names) == chosen


_COMPONENT = st.from_regex(r"[a-z0-9]{1,8}(?:[-_.][a-z0-9]{1,4})?", fullmatch=True)


@given(
    st.sampled_from(("", "localhost/", "registry:5000/", "ghcr.io/", "docker.io/")),
    st.lists(_COMPONENT, min_size=1, max_size=3),
    st.sampled_from(("", ":1", ":v1.2_3-x")),
    st.sampled_from(("", f"@{_DIGEST}")),
)
def test_tag_and_digest_change_nothing(registry: str, path: list[str], tag: str, digest: str) -> None:
    name = registry + "/".join(path)
    assert parse_repository(name + tag + digest) == qualify_repository(name)


@given(st.text(max_size=100) | st.text("sha256:/@0aA. ", max_size=100))
def test_any_text_is_a_qualified_repository_or_nothing(text: str) -> None:
    found = parse_repository(text)
    assert found == "" or (qualify_repository(found) == found and "/" in found)
