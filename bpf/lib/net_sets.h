/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Many ports and networks: the conditions of bpf/lib/net_match.h, with values that are in the map ranges. */
#ifndef PG_LIB_NET_SETS_H
#define PG_LIB_NET_SETS_H

#include "lib/net_match.h"
#include "lib/sets.h"

/* side: a constant. */
PG_INLINE int pg_net_port_in_set(const struct pg_string *string, int side, __u32 set)
{
	const struct pg_net *net = pg_net_seen(string);

	return pg_net_knows(string, side == PG_NET_SOURCE ? PG_NET_SPORT : PG_NET_DPORT) &&
	       pg_in_range_set(set, side == PG_NET_SOURCE ? net->sport : net->dport);
}

/* side, family (the networks'): constants. As pg_net_addr_in. */
PG_INLINE int pg_net_addr_in_set(const struct pg_string *string, int side, __u32 family, __u32 set)
{
	const __u64 *address = pg_net_address(string, side);

	if (!pg_net_knows(string, side == PG_NET_SOURCE ? PG_NET_SADDR : PG_NET_DADDR))
		return 0;
	if (family == PG_AF_INET)
		return !address[0] && (__u32)address[1] == PG_NET_MAPPED && pg_in_ranges(set, 32, address[1] >> 32, 0);
	return pg_net_seen(string)->family == PG_AF_INET6 && pg_in_ranges(set, 128, address[0], address[1]);
}

#endif
