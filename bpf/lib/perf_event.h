/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * struct perf_event. The text is the name of the tracepoint, or of the function that a probe is on; events of other
 * kinds have none. The facts behind it are struct pg_perf_facts.
 */
#ifndef PG_LIB_PERF_EVENT_H
#define PG_LIB_PERF_EVENT_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "maps/strings.h"

#define PG_PERF_NAME 128 /* of a function: KSYM_NAME_LEN before Linux 6.1, and most that are longer begin alike */
#define PG_PMU_NAME 16

struct pg_perf_facts {
	__u32 type; /* enum perf_type_id; from 6 on the number of the PMU */
	__u32 reserved;
	__u64 config;
	__u64 offset; /* of a probe: bytes from the function's begin */
	char pmu[PG_PMU_NAME];
};
_Static_assert(sizeof(struct pg_perf_facts) == 40, "pg_perf_facts");

PG_INLINE long pg_read_perf_event(struct pg_string *out, __u64 address)
{
	const struct perf_event *event = (const struct perf_event *)address;
	const struct trace_event_call *call = NULL;
	const struct tracepoint *tracepoint = NULL;
	const struct pmu *pmu = NULL;
	struct pg_perf_facts facts = {};
	const char *name = NULL;
	long error = pg_read(facts.type, &event->attr.type);
	int flags = 0;

	pg_no_value(out, error);
	pg_read(facts.config, &event->attr.config);
	pg_read(facts.offset, &event->attr.config2);
	pg_read(pmu, &event->pmu);
	pg_read(name, &pmu->name);
	bpf_probe_read_kernel_str(facts.pmu, sizeof(facts.pmu), name);
	name = NULL;
	pg_read(call, &event->tp_event);
	pg_read(flags, &call->flags);
	pg_read(name, &call->name);
	if (flags & TRACE_EVENT_FL_TRACEPOINT) {
		pg_read(tracepoint, &call->tp);
		pg_read(name, &tracepoint->name);
	}
	if (!error)
		out->flags = 0;
	if (!error && name)
		error = pg_read_kernel_array(out, (__u64)name, PG_PERF_NAME);
	pg_put_facts(out, &facts, sizeof(facts));
	return error;
}

#endif
