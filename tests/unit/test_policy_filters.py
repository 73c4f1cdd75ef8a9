# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of filters on processes, of workloads and of macros."""

from typing import Any

import pytest

from agent.policy.model import (
    BinaryFilter,
    CapabilityChangeFilter,
    CapabilityFilter,
    CapabilityType,
    LabelOperator,
    LabelSelector,
    NamespaceChangeFilter,
    NamespaceFilter,
    NamespaceType,
    Operator,
    PidFilter,
    Requirement,
    Selector,
    WorkloadSelector,
)
from tests.support.policy_text import errors_of, kprobe_text, policy_text, read_policy, read_selector

_IN, _NOT_IN = Operator.IN, Operator.NOT_IN


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"label": "a"}, Selector(label="a")),
        ({"matchPIDs": [{"operator": "In", "values": [1, 2]}]}, Selector(pids=(PidFilter(_IN, (1, 2)),))),
        (
            {"matchPIDs": [{"operator": "NotIn", "values": [0], "isNamespacePID": True, "followForks": True}]},
            Selector(pids=(PidFilter(_NOT_IN, (0,), True, True),)),
        ),
        (
            {
                "matchBinaries": [
                    {"operator": "NotPrefix", "values": ["/usr/", "é"]},
                    {"operator": "In", "values": ["/a"]},
                ]
            },
            Selector(
                binaries=(
                    BinaryFilter(Operator.NOT_PREFIX, (b"/usr/", "é".encode())),
                    BinaryFilter(_IN, (b"/a",)),
                )
            ),
        ),
        (
            {
                "matchBinaries": [{"operator": "In", "values": ["/a"], "followChildren": True}],
                "matchParentBinaries": [{"operator": "Postfix", "values": ["sh"]}],
            },
            Selector(
                binaries=(BinaryFilter(_IN, (b"/a",), True),),
                parent_binaries=(BinaryFilter(Operator.POSTFIX, (b"sh",)),),
            ),
        ),
        (
            {"matchNamespaces": [{"namespace": "PidForChildren", "operator": "NotIn", "values": ["host_ns", "0x10"]}]},
            Selector(namespaces=(NamespaceFilter(NamespaceType.PID_FOR_CHILDREN, _NOT_IN, (16,), True),)),
        ),
        (
            {"matchNamespaceChanges": [{"operator": "In", "values": ["Mnt", "Uts", "Mnt"]}]},
            Selector(namespace_changes=(NamespaceChangeFilter(_IN, (NamespaceType.MNT, NamespaceType.UTS)),)),
        ),
        (
            {"matchCapabilities": [{"operator": "In", "values": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]}]},
            Selector(capabilities=(CapabilityFilter(CapabilityType.EFFECTIVE, _IN, 1 | 1 << 40),)),
        ),
        (
            {
                "matchCapabilityChanges": [
                    {"type": "Permitted", "operator": "NotIn", "values": ["CAP_BPF"], "isNamespaceCapability": True}
                ]
            },
            Selector(capability_changes=(CapabilityChangeFilter(CapabilityType.PERMITTED, _NOT_IN, 1 << 39, True),)),
        ),
        (
            {"matchWorkloads": {"hostSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}},
            Selector(
                workloads=(WorkloadSelector(LabelSelector((Requirement("a", LabelOperator.IN, ("b",)),)), None, True),)
            ),
        ),
    ],
)
def test_filters(selector: dict[str, Any], expected: Selector) -> None:
    assert read_selector(selector) == expected


def test_macros_are_written_out() -> None:
    macros = {
        "kids": {"matchPIDs": [{"operator": "In", "values": [1]}], "matchArgs": [{"operator": "GT", "values": ["1"]}]},
        "here": {"matchWorkloads": {"hostSelector": {}}, "matchActions": [{"action": "NoPost"}], "label": "m"},
    }
    kprobe = {
        "call": "openat",
        "args": [{"index": 0, "type": "int"}],
        "selectors": [
            {"macros": ["kids", "here"], "matchBinaries": [{"operator": "In", "values": ["/a"]}], "matchPIDs": []},
            {"macros": []},
        ],
    }
    first, second = read_policy(selectorsMacros=macros, kprobes=[kprobe]).hooks[0].selectors
    assert (first.pids, first.binaries) == ((PidFilter(_IN, (1,)),), (BinaryFilter(_IN, (b"/a",)),))
    assert (first.label, len(first.args), len(first.workloads), first.posts) == ("m", 1, 1, False)
    assert second == Selector()


def test_fault_in_a_macro_is_reported_where_the_macro_is() -> None:
    macros = {"m": {"matchArgs": [{"index": 5, "operator": "Equal", "values": ["1"]}]}}
    text = policy_text(selectorsMacros=macros, kprobes=[{"call": "openat", "selectors": [{"macros": ["m"]}]}])
    (error,) = errors_of(text)
    assert error.what == "matchArgs names argument 5, which the hook does not declare"
    assert text[error.column - 1 :].startswith(b'"index": 5')


def test_host_cannot_be_selected_in_a_namespace() -> None:
    kprobe = {"call": "openat", "selectors": [{"matchWorkloads": {"hostSelector": {}}}]}
    (error,) = errors_of(policy_text("TracingPolicyNamespaced", kprobes=[kprobe]))
    assert error.what == "a TracingPolicyNamespaced applies to its namespace and never to the host"


@pytest.mark.parametrize("workloads", [{}, {"podSelector": None}])
def test_workload_filter_must_say_something(workloads: dict[str, Any]) -> None:
    (error,) = errors_of(kprobe_text(selectors=[{"matchWorkloads": workloads}]))
    assert error.what == "matchWorkloads selects nothing"
