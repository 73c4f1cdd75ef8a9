/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODGATE_HOOK_OPTIONS_H
#define PODGATE_HOOK_OPTIONS_H

#include <stdbool.h>

#include "hook/state.h"
#include "hook/text.h"

/* Leaves room for what is put behind a path, and for two of them in a message. */
#define MAX_PATH 255
/* kubelet waits two minutes for a runtime; a hook that waits for more than one is lost to its caller. */
#define MAX_DEADLINE_MS 60000

struct options {
	const char *stage; /* NULL with `explain`, `help` and `version` */
	bool is_poststop;
	bool is_in_container; /* createContainer: the hook's own cgroup is the container's */
	const char *runtime_name;
	enum runtime runtime;
	const char *agent_socket;
	const char *failure_rule;
	char *pin_dir;
	const char *spool;
	unsigned int deadline_ms;
	const char *explain; /* a namespace, empty for none; NULL when not asked for */
	bool help, version;
};

extern const char options_help[];

/* False, and `fault` says what is wrong. */
bool options_parse(struct options *options, int argc, char **argv, struct text *fault);

#endif
