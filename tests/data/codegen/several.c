PG_INLINE int pg_rules_lseek(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error;

	if (!pg_select(p, &workload, 0x8003, 0))
		return 0;
	if (!((p[0] & 0x1ULL) || (p[1] & 0x1ULL) || (p[15] & 0x8000000000000000ULL)))
		return 0;
	call = pg_call(args);
	if (!(call))
		return 0;
	if (p[0] & 0x1ULL) {
		if (((pg_arg_s32(call, 0) == -1LL))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 0, error);
		}
	}
	if (p[1] & 0x1ULL) {
		if (((pg_arg_s32(call, 0) == 7LL))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 101, 0, 0, error);
		}
	}
	if (p[15] & 0x8000000000000000ULL) {
		if (((pg_arg_s32(call, 0) == -1LL))) {
			error = 0;
			pg_hit(call, 102, 0, 0, error);
		}
	}
	if (!call->hits)
		return 0;
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 3);
	return 0;
}

int pg_enter_lseek(struct pg_sys_enter *ctx)
{
	return pg_rules_lseek(ctx->args, PG_AT_ENTRY);
}
