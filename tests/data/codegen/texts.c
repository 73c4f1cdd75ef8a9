PG_INLINE int pg_rules_openat(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error, refused;
	struct pg_string *s0 = pg_string(0);
	struct pg_string *s1 = pg_string(1);
	struct pg_string *s2 = pg_string(2);

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_call(args);
	if (!(call && s0 && s1 && s2))
		return 0;
	if ((p[0] & 0x1ULL)) {
		pg_read_fd_path(s0, (__s32)call->args[0]);
		pg_filled(call, 0, PG_TEXT_FD | 0);
	}
	if ((p[0] & 0x1ULL)) {
		error = pg_read_user_string(s1, call->args[1]);
		pg_filled(call, 1, PG_TEXT_STRING | 1);
		if (pg_unreadable(error, call->args[1], when) && pg_defer(call, 7ULL))
			return 0;
	}
	if ((p[0] & 0x1ULL)) {
		error = pg_read_user_bytes(s2, call->args[2], pg_arg_u64(call, 3));
		pg_filled(call, 2, PG_TEXT_BYTES | 2);
		if (pg_unreadable(error, call->args[2], when) && pg_defer(call, 7ULL))
			return 0;
	}
	if (p[0] & 0x1ULL) {
		if (((pg_has_head(s0, 5) && (((pg_word(s0, 0) & 0xffffffffffULL) == 0x2f6374652fULL)))) && ((pg_is_whole(s1, 0) && (1)) || (pg_is_whole(s1, 6) && (((pg_word(s1, 0) & 0xffffffffffffULL) == 0x647773736170ULL) || ((pg_word(s1, 0) & 0xffffffffffffULL) == 0x776f64616873ULL))) || (pg_is_whole(s1, 8) && ((pg_word(s1, 0) == 0x3837363534333231ULL))))) {
			pg_want_signals(call, 0x100ULL);
			pg_hit(call, 100, 0, 0);
		} else if ((!((pg_is_whole(s1, 3) && (((pg_word(s1, 0) & 0xffffffULL) == 0x636261ULL))))) && (({ const struct pg_string *t = pg_tail(s2, 3); t && (((pg_word(t, 0) & 0xffffffULL) == 0x777675ULL) || ((pg_word(t, 0) & 0xffffffULL) == 0x7a7978ULL)); }) || ({ const struct pg_string *t = pg_tail(s2, 9); t && ((pg_word(t, 0) == 0x3837363534333231ULL && (pg_word(t, 1) & 0xffULL) == 0x39ULL)); }))) {
			pg_want_signals(call, 0x100ULL);
			pg_hit(call, 100, 0, 1);
		}
	}
	refused = pg_send_signals(call);
	if (!call->hits)
		return 0;
	if (!(call->slots & 0x1)) {
		pg_read_fd_path(s0, (__s32)call->args[0]);
		pg_filled(call, 0, PG_TEXT_FD | 0);
	}
	if (!(call->slots & 0x2)) {
		error = pg_read_user_string(s1, call->args[1]);
		pg_filled(call, 1, PG_TEXT_STRING | 1);
	}
	if (!(call->slots & 0x4)) {
		error = pg_read_user_bytes(s2, call->args[2], pg_arg_u64(call, 3));
		pg_filled(call, 2, PG_TEXT_BYTES | 2);
	}
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1, refused);
	return 0;
}

int pg_enter_openat(struct pg_sys_enter *ctx)
{
	return pg_rules_openat(ctx->args, PG_AT_ENTRY);
}

int pg_exit_openat(struct pg_sys_exit *ctx)
{
	__u64 args[6];

	if (!pg_resume(7ULL, args))
		return 0;
	return pg_rules_openat(args, PG_AT_EXIT);
}
