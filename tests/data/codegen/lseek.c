PG_INLINE int pg_rules_lseek(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error, refused;

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_call(args);
	if (!(call))
		return 0;
	if (p[0] & 0x1ULL) {
		if (((pg_arg_s32(call, 0) == -1LL))) {
			pg_want_signals(call, 0x100ULL);
			pg_hit(call, 100, 0, 0);
		}
	}
	refused = pg_send_signals(call);
	if (!call->hits)
		return 0;
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1, refused);
	return 0;
}

int pg_enter_lseek(struct pg_sys_enter *ctx)
{
	return pg_rules_lseek(ctx->args, PG_AT_ENTRY);
}
