/* SPDX-License-Identifier: Apache-2.0 */
/* One call of the agent on its unix socket, within a deadline. */
#ifndef PODGATE_HOOK_AGENT_H
#define PODGATE_HOOK_AGENT_H

#include <stdbool.h>
#include <stddef.h>

#include "hook/deadline.h"
#include "hook/text.h"

struct agent_call {
	const char *socket;
	const char *stage;
	const char *runtime;
	char *state;
	size_t state_length;
};

/* True when the agent says that it is done; else `reason` says what came instead. */
bool agent_call(const struct agent_call *call, const struct deadline *deadline, struct text *reason);

#endif
