/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Binding a container to every filtered policy without the agent: by running the program that the agent has pinned for
 * it, in each generation of its pins.
 */
#ifndef PODGATE_HOOK_QUARANTINE_H
#define PODGATE_HOOK_QUARANTINE_H

#include <stdbool.h>
#include <stdint.h>

#include "hook/text.h"

/* What the program gets as its arguments. */
struct quarantine {
	uint64_t cgroup_id; /* 0: that of the hook's own process */
	uint64_t pid;	    /* of the held init process; 0: the hook's parent */
};

/* False, and `why` says so, when the container could not be bound in a generation, or when there is none. */
bool quarantine_run(const char *pin_dir, const struct quarantine *quarantine, struct text *why);

#endif
