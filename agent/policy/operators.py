# SPDX-License-Identifier: Apache-2.0
"""Which operators compare an argument of which type."""

from agent.policy.model import ArgType, Operator

# In and NotIn belong to the filters on processes; their place here is taken by Equal and NotEqual.
_OF_PROCESSES = (Operator.IN, Operator.NOT_IN)

_EQUALITY = (Operator.EQUAL, Operator.NOT_EQUAL)
_NUMBER = (
    *_EQUALITY,
    Operator.GT,
    Operator.LT,
    Operator.MASK,
    Operator.IN_RANGE,
    Operator.NOT_IN_RANGE,
    Operator.IN_MAP,
    Operator.NOT_IN_MAP,
    Operator.CEL_EXPR,
)
_TEXT = (
    *_EQUALITY,
    Operator.PREFIX,
    Operator.NOT_PREFIX,
    Operator.POSTFIX,
    Operator.NOT_POSTFIX,
    Operator.SUBSTRING,
    Operator.SUBSTRING_IGNORE_CASE,
)
_FILE = (Operator.FILE_TYPE, Operator.NOT_FILE_TYPE)
PORTS = frozenset({Operator.SPORT, Operator.NOT_SPORT, Operator.DPORT, Operator.NOT_DPORT})
ADDRESSES = frozenset({Operator.SADDR, Operator.NOT_SADDR, Operator.DADDR, Operator.NOT_DADDR})
PRIVILEGED = frozenset({Operator.SPORT_PRIV, Operator.NOT_SPORT_PRIV, Operator.DPORT_PRIV, Operator.NOT_DPORT_PRIV})
_SOURCE_END = (
    Operator.SADDR,
    Operator.NOT_SADDR,
    Operator.SPORT,
    Operator.NOT_SPORT,
    Operator.SPORT_PRIV,
    Operator.NOT_SPORT_PRIV,
)
_DESTINATION_END = (
    Operator.DADDR,
    Operator.NOT_DADDR,
    Operator.DPORT,
    Operator.NOT_DPORT,
    Operator.DPORT_PRIV,
    Operator.NOT_DPORT_PRIV,
)
_SOCKET = (*_SOURCE_END, *_DESTINATION_END, Operator.PROTOCOL, Operator.FAMILY, Operator.STATE)
# A socket address is one end, which the operators call the source.
_ADDRESS = (*_SOURCE_END, Operator.FAMILY)

_SOCKETS = frozenset({ArgType.SOCK, ArgType.SOCKET, ArgType.SKB})


def fitting(arg_type: ArgType) -> tuple[Operator, ...]:
    """The operators for a type, none for a type whose values are only reported.

    For `auto` those that fit any type: which it is turns out on the node.
    """
    if arg_type is ArgType.AUTO:
        return tuple(operator for operator in Operator if operator not in _OF_PROCESSES)
    if arg_type.is_capability_set:
        return (*_NUMBER, Operator.CAPABILITIES_GAINED)
    if arg_type.is_number:
        return _NUMBER
    if arg_type is ArgType.SOCKADDR_UN:
        return (*_TEXT, Operator.FAMILY)
    if arg_type.is_text:
        return (*_TEXT, *_FILE) if arg_type.is_path else _TEXT
    if arg_type in _SOCKETS:
        return _SOCKET
    return _ADDRESS if arg_type is ArgType.SOCKADDR else ()
