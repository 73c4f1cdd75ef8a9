/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * deferred: HASH, pid_tgid -> struct pg_deferred: calls that are checked at their exit.
 * exec_text: HASH, pid_tgid -> struct pg_exec_text: the path of such an execve, as the kernel copied it.
 * awaited: HASH, struct pg_return_key with chunk 0 -> struct pg_awaited: calls whose return some rule waits for.
 * returns: HASH, struct pg_return_key -> struct pg_return: which rules of a chunk, and what their event has so far.
 * exec_awaited: HASH, pid_tgid -> struct pg_exec_awaited: of them execves by a thread that is not its group's leader.
 * An entry whose thread died before the exit is taken out by the agent.
 */
#ifndef PG_MAPS_DEFERRED_H
#define PG_MAPS_DEFERRED_H

#include "lib/kernel.h"
#include "maps/call.h"

struct pg_deferred {
	__u64 in[PG_INPUTS];
	__u32 attachment; /* what another one left is not taken for this one's */
	__u32 generation; /* of its rules: when they have changed, all of them check the call */
	__u32 chunk;	  /* the first that has not checked it */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_deferred) == 112, "deferred value");

struct pg_exec_text {
	char data[4096]; /* PATH_MAX */
};
_Static_assert(sizeof(struct pg_exec_text) == 4096, "exec_text value");

#define PG_ALL_CHUNKS 0xffff
#define PG_MAX_CHUNKS 31 /* MAX_CHUNKS of agent/policy/plan.py */
#define PG_RETURN_DATA 8192

struct pg_return_key {
	__u64 pid_tgid;
	__u64 frame; /* of a uprobe: where the return address stands; a function can call itself */
	__u32 attachment;
	__u32 chunk;
};
_Static_assert(sizeof(struct pg_return_key) == 24, "returns key");

struct pg_awaited {
	__u64 in[PG_INPUTS];
	__u32 generation;
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_awaited) == 104, "awaited value");

struct pg_exec_awaited {
	__u32 attachment;
	__u32 chunks; /* how many at most have kept something */
};
_Static_assert(sizeof(struct pg_exec_awaited) == 8, "exec_awaited value");

struct pg_return {
	__u64 rules; /* bit n: rule n of the chunk */
	__u16 waiting[PG_MAX_HITS];
	__u64 hash[PG_MAX_HITS];
	__u32 size; /* of the event so far; 0: it is too large to be kept */
	__u32 reserved;
	char event[PG_RETURN_DATA];
};
_Static_assert(sizeof(struct pg_return) == 16 + 10 * PG_MAX_HITS + PG_RETURN_DATA, "returns value");

#endif
