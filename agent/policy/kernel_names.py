# SPDX-License-Identifier: Apache-2.0
"""Names that a policy may write for the kernel's numbers."""

from collections.abc import Mapping
from types import MappingProxyType

from agent.policy.spec_words import CAPABILITIES as _CAPABILITIES


def _numbered(first: int, names: str) -> dict[str, int]:
    return {name: first + offset for offset, name in enumerate(names.split())}


def _frozen(numbers: dict[str, int]) -> Mapping[str, int]:
    return MappingProxyType(numbers)


# The numbers of capabilities, which are their bits in a set.
CAPABILITIES = _frozen({name: number for number, name in enumerate(_CAPABILITIES)})

# S_IFMT bits of a mode: include/uapi/linux/stat.h.
FILE_TYPES = _frozen(
    {
        "reg": 0o100000,
        "dir": 0o040000,
        "lnk": 0o120000,
        "blk": 0o060000,
        "chr": 0o020000,
        "fifo": 0o010000,
        "sock": 0o140000,
        "regular": 0o100000,
        "link": 0o120000,
        "block": 0o060000,
        "char": 0o020000,
        "pipe": 0o010000,
        "socket": 0o140000,
    }
)

# include/uapi/linux/in.h. MPTCP's is the only one above 255.
PROTOCOLS = _frozen(
    {
        "IPPROTO_IP": 0,
        "IPPROTO_ICMP": 1,
        "IPPROTO_IGMP": 2,
        "IPPROTO_IPIP": 4,
        "IPPROTO_TCP": 6,
        "IPPROTO_EGP": 8,
        "IPPROTO_PUP": 12,
        "IPPROTO_UDP": 17,
        "IPPROTO_IDP": 22,
        "IPPROTO_TP": 29,
        "IPPROTO_DCCP": 33,
        "IPPROTO_IPV6": 41,
        "IPPROTO_RSVP": 46,
        "IPPROTO_GRE": 47,
        "IPPROTO_ESP": 50,
        "IPPROTO_AH": 51,
        "IPPROTO_ICMPV6": 58,
        "IPPROTO_MTP": 92,
        "IPPROTO_BEETPH": 94,
        "IPPROTO_ENCAP": 98,
        "IPPROTO_PIM": 103,
        "IPPROTO_COMP": 108,
        "IPPROTO_L2TP": 115,
        "IPPROTO_SCTP": 132,
        "IPPROTO_UDPLITE": 136,
        "IPPROTO_MPLS": 137,
        "IPPROTO_ETHERNET": 143,
        "IPPROTO_SMC": 256,
        "IPPROTO_RAW": 255,
        "IPPROTO_MPTCP": 262,
    }
)

# include/linux/socket.h; AF_LOCAL and AF_ROUTE are other names of AF_UNIX and AF_NETLINK.
FAMILIES = _frozen(
    _numbered(
        0,
        """
        AF_UNSPEC AF_UNIX AF_INET AF_AX25 AF_IPX AF_APPLETALK AF_NETROM AF_BRIDGE AF_ATMPVC AF_X25 AF_INET6 AF_ROSE
        AF_DECNET AF_NETBEUI AF_SECURITY AF_KEY AF_NETLINK AF_PACKET AF_ASH AF_ECONET AF_ATMSVC AF_RDS AF_SNA AF_IRDA
        AF_PPPOX AF_WANPIPE AF_LLC AF_IB AF_MPLS AF_CAN AF_TIPC AF_BLUETOOTH AF_IUCV AF_RXRPC AF_ISDN AF_PHONET
        AF_IEEE802154 AF_CAIF AF_ALG AF_NFC AF_VSOCK AF_KCM AF_QIPCRTR AF_SMC AF_XDP AF_MCTP
        """,
    )
    | {"AF_LOCAL": 1, "AF_ROUTE": 16}
)

# include/net/tcp_states.h.
STATES = _frozen(
    _numbered(
        1,
        """
        TCP_ESTABLISHED TCP_SYN_SENT TCP_SYN_RECV TCP_FIN_WAIT1 TCP_FIN_WAIT2 TCP_TIME_WAIT TCP_CLOSE TCP_CLOSE_WAIT
        TCP_LAST_ACK TCP_LISTEN TCP_CLOSING TCP_NEW_SYN_RECV
        """,
    )
)
