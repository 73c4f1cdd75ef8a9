# SPDX-License-Identifier: Apache-2.0
"""The fields of each kind of mapping in a policy: those of the field table, and those that only a document has."""

from agent.policy.fields import Schema, schema_of
from agent.policy.spec import METADATA as _METADATA
from agent.policy.spec import STRUCTS

DOCUMENT = Schema("a policy", frozenset({"apiVersion", "kind", "metadata", "spec", "status"}))

# Labels and annotations are the user's; the rest is written by the API server.
_SERVERS = frozenset(
    {
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
METADATA = Schema(_METADATA.title, _METADATA.names | _SERVERS)


def _table(name: str) -> Schema:
    return schema_of(STRUCTS[name])


SPEC = _table("TracingPolicySpec")
LIST = _table("ListSpec")
ENFORCER = _table("EnforcerSpec")
OPTION = _table("OptionSpec")

KPROBE = _table("KProbeSpec")
KPROBE_IGNORE = _table("KProbeIgnore")
TRACEPOINT = _table("TracepointSpec")
UPROBE = _table("UProbeSpec")
UPROBE_IGNORE = _table("UProbeIgnore")
USDT = _table("UsdtSpec")
LSM_HOOK = _table("LsmHookSpec")

ARG = _table("KProbeArg")
DATA = _table("DataArg")
RETURN_ARG = _table("ReturnArg")

SELECTOR = _table("KProbeSelector")
SELECTOR_MACRO = _table("SelectorMacro")
MATCH_ARG = _table("ArgSelector")
MATCH_PID = _table("PIDSelector")
MATCH_BINARY = _table("BinarySelector")
MATCH_PARENT_BINARY = _table("ParentBinarySelector")
MATCH_NAMESPACE = _table("NamespaceSelector")
MATCH_NAMESPACE_CHANGE = _table("NamespaceChangesSelector")
MATCH_CAPABILITY = _table("CapabilitiesSelector")
MATCH_CAPABILITY_CHANGE = _table("CapabilityChangesSelector")
ACTION = _table("ActionSelector")

WORKLOADS = _table("WorkloadSelector")
LABEL_SELECTOR = _table("LabelSelector")
HOST_SELECTOR = _table("HostSelector")
EXPRESSION = _table("LabelSelectorRequirement")
