/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODGATE_HOOK_CGROUP_H
#define PODGATE_HOOK_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "hook/text.h"

/*
 * The id of a process's cgroup, which is the inode number of its cgroup v2 directory, and never the root's; false, and
 * `why` says so, when it cannot be told. `pid` is in the initial pid namespace, or nothing is told.
 */
bool cgroup_of_process(uint32_t pid, uint64_t *id, struct text *why);

#endif
