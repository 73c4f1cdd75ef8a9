PG_INLINE int pg_rules_execve(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error, refused;
	struct pg_string *s0 = pg_string(0);

	if (!pg_select(p, &workload, 0x1, 1))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_call(args);
	if (!(call && s0))
		return 0;
	if ((p[0] & 0x1ULL)) {
		error = when == PG_AT_EXEC ? pg_read_exec_string(s0) : pg_read_user_string(s0, call->args[0]);
		pg_filled(call, 0, PG_TEXT_STRING | 0);
		if (pg_unreadable(error, call->args[0], when) && pg_defer(call, 7ULL))
			return 0;
	}
	if (p[0] & 0x1ULL) {
		if (((pg_is_whole(s0, 7) && (((pg_word(s0, 0) & 0xffffffffffffffULL) == 0x68732f6e69622fULL))))) {
			pg_want_signals(call, 0x100ULL);
			pg_hit(call, 100, 0, 0);
		}
	}
	refused = pg_send_signals(call);
	if (!call->hits)
		return 0;
	if (!(call->slots & 0x1)) {
		error = when == PG_AT_EXEC ? pg_read_exec_string(s0) : pg_read_user_string(s0, call->args[0]);
		pg_filled(call, 0, PG_TEXT_STRING | 0);
	}
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1, refused);
	return 0;
}

int pg_enter_execve(struct pg_sys_enter *ctx)
{
	return pg_rules_execve(ctx->args, PG_AT_ENTRY);
}

int pg_exit_execve(struct pg_sys_exit *ctx)
{
	__u64 args[6];

	if (!pg_resume(7ULL, args))
		return 0;
	return pg_rules_execve(args, ctx->ret == 0 ? PG_AT_EXEC : PG_AT_EXIT);
}
