# SPDX-License-Identifier: Apache-2.0
"""The repository in the name of an image, so that two ways of writing the same one are equal.

Theory of operation. A pod's author writes `nginx:1.27`, a runtime tells that, or `docker.io/library/nginx:1.27`, or
the same with a digest, or only the image's id; a policy's author writes any of the first forms without tag and digest.
Both sides are brought to the fully qualified form, and compared there:

    registry[:port]/path[:tag][@algorithm:digest]  →  registry[:port]/path

The first part is a registry when it could be a host's name: with a dot, a port, a capital, or `localhost`. Without one
it is Docker Hub's, where a name of one part is in `library`. A host's name is compared in small letters, as DNS does,
unless the capital alone says that it is one. A colon before the last slash belongs to a port, after it to a tag.

Source: the grammar and the normalisation of github.com/distribution/reference.
"""

import re
from collections.abc import Iterable

from agent.policy.values import is_repository

HUB = "docker.io"
_HUB_ALIAS = "index.docker.io"
_OFFICIAL = "library"
# An image's id: with the digest's algorithm, or cri-o's 64 digits alone, which the grammar forbids as a name.
_ID = re.compile(r"sha(?:256|384|512):[0-9a-f]*|[0-9a-f]{64}")


def parse_repository(image: str) -> str:
    """The fully qualified repository of an image's name; empty for an id and for what is no name."""
    # kubelets and cri-dockerd write `docker://` and `docker-pullable://` before it.
    name = image.rpartition("://")[2].partition("@")[0]
    if _ID.fullmatch(name):
        return ""
    path, slash, last = name.rpartition("/")
    name = f"{path}{slash}{last.partition(':')[0]}"
    return qualify_repository(name) if is_repository(name) else ""


def qualify_repository(name: str) -> str:
    """The fully qualified form of a repository's name, which has no tag and no digest."""
    registry, slash, path = name.partition("/")
    if not slash or not _is_registry(registry):
        registry, path = HUB, name
    if _is_registry(registry.lower()):
        registry = registry.lower()
    if registry in (HUB, _HUB_ALIAS):
        registry, path = HUB, path if "/" in path else f"{_OFFICIAL}/{path}"
    return f"{registry}/{path}"


def _is_registry(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost" or part != part.lower()


def choose_image(names: Iterable[str]) -> str:
    """The first name that says a repository, else the first that says anything; empty when none does."""
    told = [name for name in names if name]
    return next(filter(parse_repository, told), told[0] if told else "")
