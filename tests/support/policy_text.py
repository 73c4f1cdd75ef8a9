# SPDX-License-Identifier: Apache-2.0
"""Policies as texts and values, for tests of the reader."""

import json
from typing import Any

import pytest

from agent.policy.errors import PolicyError, PolicyErrors
from agent.policy.model import Hook, Policy, Selector
from agent.policy.reader import parse_policies


def policy_text(kind: str = "TracingPolicy", **spec: Any) -> bytes:
    """A policy named `x`, in JSON."""
    document = {
        "apiVersion": "cilium.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": spec,
    }
    return json.dumps(document).encode()


def kprobe_text(**kprobe: Any) -> bytes:
    """A policy with one kprobe, on openat unless another `call` is given."""
    return policy_text(kprobes=[{"call": "openat", **kprobe}])


def read_policy(**spec: Any) -> Policy:
    """The cluster-wide policy of a specification."""
    (policy,) = parse_policies(policy_text(**spec), "f")
    return policy


def read_hook(**kprobe: Any) -> Hook:
    """The hook of one kprobe."""
    (hook,) = read_policy(kprobes=[{"call": "openat", **kprobe}]).hooks
    return hook


def read_selector(selector: dict[str, Any], **kprobe: Any) -> Selector:
    """The selector of one kprobe."""
    return read_hook(selectors=[selector], **kprobe).selectors[0]


def errors_of(text: bytes) -> tuple[PolicyError, ...]:
    """The faults of a text that must have some."""
    with pytest.raises(PolicyErrors) as caught:
        parse_policies(text, "f")
    return caught.value.errors
