#include "lib/syscall.h"

PG_INLINE int pg_rules_openat(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error;
	struct pg_string *s0 = pg_string(0);
	struct pg_string *s1 = pg_string(1);

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x20ULL)))
		return 0;
	call = pg_call(args);
	if (!(call && s0 && s1))
		return 0;
	if (p[0] & 0x20ULL) {
		if (((pg_arg_s32(call, 2) & 3LL))) {
			error = 0;
			pg_hit(call, 100, 0, 0, error);
		}
	}
	if (!call->hits)
		return 0;
	pg_read_fd_path(s0, (__s32)call->args[0]);
	pg_filled(call, 0, PG_TEXT_FD | 0);
	error = pg_read_user_string(s1, call->args[1]);
	pg_filled(call, 1, PG_TEXT_STRING | 1);
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1);
	return 0;
}

int pg_enter_openat(struct pg_sys_enter *ctx)
{
	return pg_rules_openat(ctx->args, PG_AT_ENTRY);
}
