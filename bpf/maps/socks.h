/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * socks: LRU_HASH, address of a struct sock -> struct pg_owner: whose it is, as TrackSock found it.
 *
 * A struct sock is freed, and its memory becomes another socket. An entry goes with UntrackSock and, of a TCP socket,
 * when it is closed for good (pg_forget_closed of bpf/lib/socks.h); what is left over gives itself away: a socket that
 * belongs to a file has that file's inode number, and one that does not (yet, or any more) has the addresses and ports
 * that were seen last. The least used entries make room for new ones.
 *
 * owners: PERCPU_ARRAY of struct pg_owner, two for each context: whose the call at hand is, and the one that is being
 * written. The first has sock 0 when the call is that of the process that runs.
 */
#ifndef PG_MAPS_SOCKS_H
#define PG_MAPS_SOCKS_H

#include "lib/kernel.h"
#include "maps/strings.h"

/*
 * sock stands where a copy begins: an element that was recycled for another key under a reader gives itself away to one
 * that looks at sock last.
 */
struct pg_owner {
	__u64 sock;   /* its own key; 0: nobody */
	__u64 inode;  /* number of the inode of the socket's file; 0: it had none */
	__u64 tuple;  /* a hash of addresses and ports */
	__u64 record; /* the key in bindings under which its policies are found; 0: the host's */
	__u64 cgroup;
	__u64 process; /* address of the struct signal_struct that all its threads have, whichever of them end */
	__u64 start;   /* of the process, ns since boot: a reused pid or address gives itself away */
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 reserved;
	char comm[16];
};
_Static_assert(sizeof(struct pg_owner) == 88, "socks value");

/* Whose the call of a context is. */
PG_INLINE struct pg_owner *pg_owner_of(__u32 context)
{
	return pg_lookup(owners, &context);
}

PG_INLINE struct pg_owner *pg_owner_draft(__u32 context)
{
	__u32 index = PG_CONTEXTS + context;

	return pg_lookup(owners, &index);
}

#endif
