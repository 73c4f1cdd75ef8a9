/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * deferred: HASH, pid_tgid -> struct pg_deferred: calls that are checked at their exit.
 * exec_text: HASH, pid_tgid -> struct pg_exec_text: the path of such an execve, as the kernel copied it.
 * An entry whose thread died before the exit is taken out by the agent.
 */
#ifndef PG_MAPS_DEFERRED_H
#define PG_MAPS_DEFERRED_H

#include "lib/kernel.h"

struct pg_deferred {
	__u64 args[6];
	__u64 hook; /* serial of the attachment: what another one left is not taken for this one's */
};
_Static_assert(sizeof(struct pg_deferred) == 56, "deferred value");

struct pg_exec_text {
	char data[4096]; /* PATH_MAX */
};
_Static_assert(sizeof(struct pg_exec_text) == 4096, "exec_text value");

#endif
