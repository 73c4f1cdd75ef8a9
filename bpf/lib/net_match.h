/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Conditions on what bpf/lib/net.h and bpf/lib/sockaddr.h have read. What is not known is nowhere, and equal to
 * nothing. Sides: of a socket address there is the source only.
 */
#ifndef PG_LIB_NET_MATCH_H
#define PG_LIB_NET_MATCH_H

#include "lib/net.h"

#define PG_NET_SOURCE 0
#define PG_NET_DESTINATION 1

#define PG_NET_NONE (~0ULL)	 /* no protocol, family or state has this number */
#define PG_NET_MAPPED 0xffff0000 /* bytes 8 to 11 of an address of IPv4 among those of IPv6, as a number */

PG_INLINE const struct pg_net *pg_net_seen(const struct pg_string *string)
{
	return (const struct pg_net *)string->data;
}

PG_INLINE int pg_net_knows(const struct pg_string *string, __u8 known)
{
	return !(string->flags & PG_STRING_UNREADABLE) && pg_net_seen(string)->known & known;
}

PG_INLINE const __u64 *pg_net_address(const struct pg_string *string, int side)
{
	const struct pg_net *net = pg_net_seen(string);

	return (const __u64 *)(side == PG_NET_SOURCE ? net->saddr : net->daddr);
}

/*
 * Whether an address is in a network. side, family (the network's): constants. first, second, and the masks: the
 * network's 16 bytes as they are in memory, two words; of IPv4 four bytes, which are the lower half of the first word.
 * A socket of IPv6 can have an address of IPv4 (::ffff:a.b.c.d): that one is in networks of both kinds.
 */
PG_INLINE int pg_net_addr_in(const struct pg_string *string, int side, __u32 family, __u64 first, __u64 second,
			     __u64 first_mask, __u64 second_mask)
{
	const __u64 *address = pg_net_address(string, side);

	if (!pg_net_knows(string, side == PG_NET_SOURCE ? PG_NET_SADDR : PG_NET_DADDR))
		return 0;
	if (family == PG_AF_INET)
		return !address[0] && (__u32)address[1] == PG_NET_MAPPED &&
		       !((__u32)(address[1] >> 32 ^ first) & (__u32)first_mask);
	return pg_net_seen(string)->family == PG_AF_INET6 && !((address[0] ^ first) & first_mask) &&
	       !((address[1] ^ second) & second_mask);
}

/* Both included. side: a constant. */
PG_INLINE int pg_net_port_in(const struct pg_string *string, int side, __u32 first, __u32 last)
{
	const struct pg_net *net = pg_net_seen(string);
	__u32 port = side == PG_NET_SOURCE ? net->sport : net->dport;

	return pg_net_knows(string, side == PG_NET_SOURCE ? PG_NET_SPORT : PG_NET_DPORT) && port >= first &&
	       port <= last;
}

PG_INLINE __u64 pg_net_protocol(const struct pg_string *string)
{
	return pg_net_knows(string, PG_NET_TYPE | PG_NET_PROTOCOL) ? pg_net_seen(string)->protocol : PG_NET_NONE;
}

/* Of a sockaddr_un too. */
PG_INLINE __u64 pg_net_family(const struct pg_string *string)
{
	return string->flags & PG_STRING_UNREADABLE ? PG_NET_NONE : string->mode & 0xffff;
}

PG_INLINE __u64 pg_net_state(const struct pg_string *string)
{
	return pg_net_knows(string, PG_NET_TYPE) ? pg_net_seen(string)->state : PG_NET_NONE;
}

#endif
