# SPDX-License-Identifier: Apache-2.0
"""Policy documents as text. JSON is YAML too, and needs no quoting rules of our own. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

# One call for each of the footprint's policies, so that as many hook points are attached. A descriptor is the first
# argument of each.
FD_CALLS = (
    "lseek",
    "fstatfs",
    "fsync",
    "fchmod",
    "fchown",
    "ftruncate",
    "flock",
    "fdatasync",
    "fchdir",
    "dup",
    "fallocate",
    "fadvise64",
    "readahead",
    "syncfs",
    "getdents64",
    "fgetxattr",
    "flistxattr",
    "inotify_rm_watch",
    "listen",
    "shutdown",
)


def policy_text(name: str, namespace: str, values: Iterable[int], action: str, call: str = "lseek") -> str:
    """A TracingPolicyNamespaced that acts when the call's first argument, a descriptor, is one of `values`."""
    return filter_policy(name, namespace, call, "int", "Equal", map(str, values), action)


def filter_policy(
    name: str, namespace: str, call: str, kind: str, operator: str, values: Iterable[str], action: str
) -> str:
    """A TracingPolicyNamespaced that acts when the call's first argument, of type `kind`, meets the operator."""
    selector: dict[str, Any] = {
        "matchArgs": [{"index": 0, "operator": operator, "values": list(values)}],
        "matchActions": [{"action": action}],
    }
    hook = {
        "call": f"__x64_sys_{call}",
        "syscall": True,
        "args": [{"index": 0, "type": kind}],
        "selectors": [selector],
    }
    document = {
        "apiVersion": "cilium.io/v1alpha1",
        "kind": "TracingPolicyNamespaced",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"kprobes": [hook]},
    }
    return json.dumps(document, indent=1) + "\n"


def join_policies(texts: Iterable[str]) -> str:
    """One file of many documents."""
    return "---\n".join(texts)


def unmatched_policies(count: int, namespace: str) -> str:
    """`count` policies on lseek, each with another descriptor that no process has."""
    numbers = range(count)
    return join_policies(policy_text(f"never-{n}", namespace, [1_000_000 + n], "Post") for n in numbers)
