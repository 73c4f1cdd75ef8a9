# SPDX-License-Identifier: Apache-2.0
"""The fields of the `cilium.io/v1alpha1` custom resources, and which of them are supported.

Every field of the resource is named here, so that what is not supported is told from what does not exist.
"""

from agent.policy.fields import Absent, Schema


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DOCUMENT = Schema("a policy", frozenset({"apiVersion", "kind", "metadata", "spec"}), {}, frozenset({"status"}))

METADATA = Schema(
    "metadata",
    frozenset({"name", "namespace"}),
    {},
    # Labels and annotations are the user's; the rest is written by the API server.
    frozenset(
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
    ),
)

SPEC = Schema(
    "spec",
    frozenset({"kprobes", "podSelector"}),
    {
        "containerSelector": Absent.NULL,
        "enforcers": Absent.LIST,
        "fentries": Absent.LIST,
        "hostSelector": Absent.NULL,
        "lists": Absent.LIST,
        "loader": Absent.BOOLEAN,
        "lsmhooks": Absent.LIST,
        "nodeSelector": Absent.NULL,
        "options": Absent.LIST,
        "selectorsMacros": Absent.MAPPING,
        "tracepoints": Absent.LIST,
        "uprobes": Absent.LIST,
        "usdts": Absent.LIST,
    },
)

KPROBE = Schema(
    "a kprobe",
    frozenset({"call", "syscall", "return", "args", "selectors"}),
    {
        "data": Absent.LIST,
        "ignore": Absent.MAPPING,
        "message": Absent.STRING,
        "returnArg": Absent.MAPPING,
        "returnArgAction": Absent.STRING,
        "tags": Absent.LIST,
    },
)

ARG = Schema(
    "an argument",
    frozenset({"index", "type", "sizeArgIndex"}),
    {
        "btfType": Absent.STRING,
        "btfTypeModule": Absent.STRING,
        "label": Absent.STRING,
        "maxData": Absent.BOOLEAN,
        "resolve": Absent.STRING,
        "returnCopy": Absent.BOOLEAN,
        "source": Absent.STRING,
    },
)

SELECTOR = Schema(
    "a selector",
    frozenset({"matchArgs", "matchActions"}),
    {
        "label": Absent.STRING,
        "macros": Absent.LIST,
        "matchBinaries": Absent.LIST,
        "matchCapabilities": Absent.LIST,
        "matchCapabilityChanges": Absent.LIST,
        "matchData": Absent.LIST,
        "matchNamespaceChanges": Absent.LIST,
        "matchNamespaces": Absent.LIST,
        "matchPIDs": Absent.LIST,
        "matchParentBinaries": Absent.LIST,
        "matchReturnActions": Absent.LIST,
        "matchReturnArgs": Absent.LIST,
        "matchWorkloads": Absent.LIST,
    },
)

MATCH_ARG = Schema("a matchArgs item", frozenset({"index", "operator", "values"}), {"args": Absent.LIST})

ACTION = Schema(
    "an action",
    frozenset({"action", "argSig"}),
    {
        "argError": Absent.NUMBER,
        "argFd": Absent.NUMBER,
        "argFqdn": Absent.STRING,
        "argIndex": Absent.NUMBER,
        "argName": Absent.NUMBER,
        "argNewAddr": Absent.NUMBER,
        "argNewOffset": Absent.NUMBER,
        "argNewSymbol": Absent.STRING,
        "argRegs": Absent.LIST,
        "argSock": Absent.NUMBER,
        "argUrl": Absent.STRING,
        "argValue": Absent.NUMBER,
        "imaHash": Absent.BOOLEAN,
        "kernelStackTrace": Absent.BOOLEAN,
        "rateLimit": Absent.STRING,
        "rateLimitScope": Absent.STRING,
        "userStackTrace": Absent.BOOLEAN,
    },
)

LABEL_SELECTOR = Schema("a label selector", frozenset({"matchLabels", "matchExpressions"}), {})

EXPRESSION = Schema("a label expression", frozenset({"key", "operator", "values"}), {})

# The names of the resource that have a meaning there and none here yet.
UNSUPPORTED_ARG_TYPES = _words(
    """
    auto sint8 int8 uint8 sint16 int16 uint16 uint32 sint32 int32 uint64 sint64 int64 char_iovec skb sock sockaddr
    socket sockaddr_un file filename path nop bpf_attr perf_event bpf_map user_namespace capability kiocb iov_iter
    cred const_buf load_info module syscall64 kernel_cap_t cap_inheritable cap_permitted cap_effective linux_binprm
    data_loc net_device bpf_cmd dentry bpf_prog
    """
)

UNSUPPORTED_OPERATORS = _words(
    """
    In NotIn InMap NotInMap SAddr DAddr SPort DPort Protocol NotSPort NotDPort SPortPriv NotSportPriv DPortPriv
    NotDPortPriv NotSAddr NotDAddr NotPrefix NotPostfix Family State CapabilitiesGained InRange NotInRange SubString
    SubStringIgnCase CelExpr FileType NotFileType
    """
)

UNSUPPORTED_ACTIONS = _words(
    """
    Override GetUrl DnsLookup TrackSock UntrackSock NotifyEnforcer CleanupEnforcerNotification Set FollowFD
    UnfollowFD CopyFD
    """
)
