#include "lib/syscall.h"

PG_INLINE int pg_rules_prctl(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error;

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_call(args);
	if (!(call))
		return 0;
	if (p[0] & 0x1ULL) {
		if (((pg_arg_s32(call, 0) == -1LL) || (pg_arg_s32(call, 0) == -2147483648LL) || (pg_arg_s32(call, 0) == 7LL)) && (!((pg_arg_u32(call, 1) == 0ULL) || (pg_arg_u32(call, 1) == 4294967295ULL)))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 0, error);
		} else if (((pg_arg_s64(call, 2) == (-9223372036854775807LL - 1)) || (pg_arg_s64(call, 2) == 9223372036854775807LL)) && ((pg_arg_u64(call, 3) > 9223372036854775808ULL)) && ((pg_arg_u64(call, 4) & 255ULL))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 1, error);
		} else if (((pg_arg_s64(call, 2) < -5LL)) && ((pg_arg_s32(call, 0) & -2147483648LL))) {
			error = 0;
			pg_hit(call, 100, 0, 2, error);
		}
	}
	if (!call->hits)
		return 0;
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1);
	return 0;
}

int pg_enter_prctl(struct pg_sys_enter *ctx)
{
	return pg_rules_prctl(ctx->args, PG_AT_ENTRY);
}
