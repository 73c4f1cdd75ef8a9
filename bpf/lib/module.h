/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernel modules. The text is the module's name; the facts behind it are struct pg_module_facts. For kernels that have
 * modules: others do not describe these structures.
 */
#ifndef PG_LIB_MODULE_H
#define PG_LIB_MODULE_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "maps/strings.h"

/* Whether the module's signature was found to be good. */
#define PG_SIGNATURE_UNKNOWN 0
#define PG_SIGNATURE_GOOD 1
#define PG_SIGNATURE_NONE 2

struct pg_module_facts {
	__u64 taints; /* bit n: TAINT_* n of include/linux/panic.h */
	__u32 signature;
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_module_facts) == 16, "pg_module_facts");

#ifndef PODGATE_LACKS_module
/* struct module. */
PG_INLINE long pg_read_module(struct pg_string *out, __u64 address)
{
	const struct module *module = (const struct module *)address;
	struct pg_module_facts facts = {};
	long error = pg_read_kernel_array(out, (__u64)&module->name, sizeof(module->name));

	pg_read(facts.taints, &module->taints);
	pg_put_facts(out, &facts, sizeof(facts));
	return error;
}
#endif

#endif
