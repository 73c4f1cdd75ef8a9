# SPDX-License-Identifier: Apache-2.0
"""The words that the custom resources use, in the spelling of their schema."""

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from agent.policy.model import Operator


def words(members: Iterable[Enum]) -> tuple[str, ...]:
    """The values of enumeration members, which are their words in a policy."""
    return tuple(str(member.value) for member in members)


# Spellings that mean the same; `NotSportPriv` is how the resource has always written it.
OPERATOR_SYNONYMS: Mapping[str, Operator] = MappingProxyType(
    {
        "GreaterThan": Operator.GT,
        "LessThan": Operator.LT,
        "NotSportPriv": Operator.NOT_SPORT_PRIV,
        "SubStringIgnoreCase": Operator.SUBSTRING_IGNORE_CASE,
    }
)

# In and NotIn belong to the filters on processes; on arguments the same is said by Equal and NotEqual.
MEMBERSHIP = (Operator.IN, Operator.NOT_IN)
ARG_OPERATORS = (*words(op for op in Operator if op not in MEMBERSHIP), *OPERATOR_SYNONYMS)
BINARY_OPERATORS = words(
    (
        Operator.IN,
        Operator.NOT_IN,
        Operator.PREFIX,
        Operator.NOT_PREFIX,
        Operator.POSTFIX,
        Operator.NOT_POSTFIX,
    )
)
MEMBERSHIP_OPERATORS = words(MEMBERSHIP)
# Those that stand without values: what they compare with is in their name, or every capability.
WITHOUT_VALUES = (
    *words((Operator.SPORT_PRIV, Operator.NOT_SPORT_PRIV, Operator.DPORT_PRIV, Operator.NOT_DPORT_PRIV)),
    "NotSportPriv",
    Operator.CAPABILITIES_GAINED.value,
)

# In the order of their numbers, from 0: include/uapi/linux/capability.h.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

LIST_TYPES = ("syscalls", "generated_syscalls", "generated_ftrace")
OPTION_NAMES = (
    "policy-mode",
    "disable-kprobe-multi",
    "disable-uprobe-multi",
    "override-method",
    "sleepable-preload-size",
)
RETURN_ARG_ACTIONS = ("Post", "TrackSock", "UntrackSock")
