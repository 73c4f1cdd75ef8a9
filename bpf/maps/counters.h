/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * counters: PERCPU_ARRAY, index enum pg_counter, value u64.
 * errors: HASH, key struct pg_error_site, value u64: helpers that failed, by file, line and errno.
 */
#ifndef PG_MAPS_COUNTERS_H
#define PG_MAPS_COUNTERS_H

#include "lib/kernel.h"

/* The same order as agent/kernel/layout.py; a test compares them. */
enum pg_counter {
	PG_COUNT_EVENTS_LOST,	 /* the ring was full */
	PG_COUNT_DEFERRED,	 /* an argument was not resident at entry: checked at the exit */
	PG_COUNT_UNREADABLE,	 /* not readable at the exit either */
	PG_COUNT_PATH_TOO_DEEP,	 /* more than PG_PATH_DEPTH components */
	PG_COUNT_INHERIT_FAILED, /* a child cgroup has no binding: the map is full */
	PG_COUNT_STALE_BINDING,	 /* a binding changed under the reader twice */
	PG_COUNT_ORPHAN,	 /* a child cgroup whose container is not bound any more */
	PG_COUNT_SIGNAL_FAILED,	 /* bpf_send_signal refused: not enforced */
	PG_COUNT_ARMED,		 /* entrypoints seen at their execve */
	PG_COUNT_UNANNOUNCED,	 /* containers whose first execve no hook had announced */
	PG_COUNT_UNWATCHED,	 /* cgroups of containers that could not be noted: unannounced ones go unseen */
	PG_COUNT_HELD,		 /* processes stopped at their execve */
	PG_COUNT_NOTICE_LOST,	 /* the agent's ring was full */
	PG_COUNT_LINEAGE_FULL,	 /* a process has no record in lineage: the map is full */
	PG_COUNT_NO_CONTEXT,	 /* a call came in the middle of too many others on its CPU: not checked */
	PG_COUNT_RETURN_LOST,	 /* a return that a rule waits for could not be noted */
	PG_COUNT_DATA_LOST,	 /* the ring had no room for all that maxData asks for: the value is cut */
	PG_COUNTERS
};

struct pg_error_site {
	__u32 site; /* PG_FILE << 16 | line */
	__s32 error;
};
_Static_assert(sizeof(struct pg_error_site) == 8, "errors key");

PG_INLINE void pg_count(__u32 index)
{
	__u64 *value = pg_lookup(counters, &index);

	if (value)
		__sync_fetch_and_add(value, 1);
}

PG_INLINE void pg_error_at(__u32 site, long error)
{
	struct pg_error_site key = {.site = site, .error = (__s32)error};
	__u64 *value = pg_lookup(errors, &key);
	__u64 one = 1;

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		pg_update(errors, &key, &one, BPF_NOEXIST);
}

/* Counts a failed helper where it stands and gives its result. PG_FILE: each file's number in agent/kernel/layout.py.
 */
#define pg_failed(result) pg_error_at((PG_FILE << 16) | __LINE__, result)

#endif
