/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decisions that the hook took without the agent, one JSON object a line; the agent collects them.
 */
#ifndef PODGATE_HOOK_SPOOL_H
#define PODGATE_HOOK_SPOOL_H

#include <stdbool.h>

#include "hook/state.h"
#include "hook/text.h"

/* Some 3,000 decisions. It lies in memory (/run), and nobody may fill that by starting containers. */
#define SPOOL_MAX_BYTES (1 << 20)

/* Two paths of 255 bytes, a message of the agent's of 300, and the words around them. */
#define MAX_REASON 2048

struct decision {
	const char *stage;
	const struct state *state;
	const char *treatment;
	const char *outcome;
	const struct text *reason;
};

/* False when it is not written, and `why` says why. */
bool spool_append(const char *path, const struct decision *decision, struct text *why);

#endif
