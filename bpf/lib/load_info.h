/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * struct load_info: a module that is being loaded. For kernels that have modules: others do not describe the structure.
 */
#ifndef PG_LIB_LOAD_INFO_H
#define PG_LIB_LOAD_INFO_H

#include "lib/module.h"

PG_INLINE long pg_read_load_info(struct pg_string *out, __u64 address)
{
	const struct load_info *info = (const struct load_info *)address;
	struct pg_module_facts facts = {};
	const struct module *module = NULL;
	const char *name = NULL;
	bool good = 0;
	long error;

	pg_read(name, &info->name);
	pg_read(module, &info->mod);
	if (name)
		error = pg_read_kernel_array(out, (__u64)name, sizeof(module->name));
	else
		error = pg_read_kernel_array(out, (__u64)&module->name, sizeof(module->name));
	if (!pg_read(good, &info->sig_ok))
		facts.signature = good ? PG_SIGNATURE_GOOD : PG_SIGNATURE_NONE;
	pg_read(facts.taints, &module->taints);
	pg_put_facts(out, &facts, sizeof(facts));
	return error;
}

#endif
