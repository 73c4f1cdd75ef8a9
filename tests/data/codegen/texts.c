PG_INLINE struct pg_event *pg_record_7_0(struct pg_sys_enter *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	struct pg_string *s0 = pg_string_of(call->context, 0);
	struct pg_string *s1 = pg_string_of(call->context, 1);
	struct pg_string *s2 = pg_string_of(call->context, 2);
	struct pg_string *sb = pg_string_of(call->context, PG_SLOT_BINARY);
	struct pg_string *sp = pg_string_of(call->context, PG_SLOT_PARENT);

	if (!(event && sb && sp && s0 && s1 && s2))
		return NULL;
	pg_event_head(event, call->workload, when == PG_AT_ENTRY ? 0 : PG_EVENT_DEFERRED);
	if (!pg_is_filled(call, PG_SLOT_BINARY))
		pg_read_binary(sb);
	pg_item_text(event, PG_ID_BINARY, sb, 0);
	if (pg_is_filled(call, PG_SLOT_PARENT))
		pg_item_text(event, PG_ID_PARENT, sp, 0);
	if (flags & PG_HIT_KERNEL_STACK)
		pg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);
	if (flags & PG_HIT_USER_STACK)
		pg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);
	if (call->values & 0x1ULL) {
		if (!pg_is_filled(call, 0)) {
			n = (__s64)(__s32)call->in[0];
			error = 0;
			if (error)
				pg_unknown(s0);
			else
				error = (pg_read_fd_path(s0, (__s32)n), 0);
			pg_fill(call, 0);
		}
		pg_item_text(event, 16, s0, 0);
	}
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, 1)) {
			n = (__u64)call->in[1];
			error = 0;
			if (error)
				pg_unknown(s1);
			else
				error = pg_read_user_string(s1, n);
			pg_fill(call, 1);
			later |= pg_unreadable(error, n, 0);
		}
		pg_item_text(event, 18, s1, 0);
	}
	if (call->values & 0x4ULL) {
		if (!pg_is_filled(call, 2)) {
			n = (__u64)call->in[2];
			error = 0;
			size = (__u64)(__u16)call->in[3];
			if (error)
				pg_unknown(s2);
			else
				error = pg_read_user_bytes(s2, n, size);
			pg_fill(call, 2);
			later |= pg_unreadable(error, n, 0);
		}
		pg_item_text(event, 19, s2, 0);
	}
	if (call->values & 0x8ULL) {
		pg_item_number(event, 17, (__s64)((__s64)(__s32)call->in[0]), 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_0(struct pg_sys_enter *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;
	struct pg_string *s0 = pg_string_of(call->context, 0);
	struct pg_string *s1 = pg_string_of(call->context, 1);
	struct pg_string *s2 = pg_string_of(call->context, 2);

	if (!(s0 && s1 && s2))
		return 0;
	if (((call->policies[0] & 0x1ULL) && 1)) {
		n = (__s64)(__s32)call->in[0];
		error = 0;
		if (error)
			pg_unknown(s0);
		else
			error = (pg_read_fd_path(s0, (__s32)n), 0);
		pg_fill(call, 0);
	}
	if (((call->policies[0] & 0x1ULL) && 1)) {
		n = (__u64)call->in[1];
		error = 0;
		if (error)
			pg_unknown(s1);
		else
			error = pg_read_user_string(s1, n);
		pg_fill(call, 1);
		later |= pg_unreadable(error, n, when == PG_AT_ENTRY);
	}
	if (((call->policies[0] & 0x1ULL) && 1)) {
		n = (__u64)call->in[2];
		error = 0;
		size = (__u64)(__u16)call->in[3];
		if (error)
			pg_unknown(s2);
		else
			error = pg_read_user_bytes(s2, n, size);
		pg_fill(call, 2);
		later |= pg_unreadable(error, n, when == PG_AT_ENTRY);
	}
	if (later && pg_defer(call, 7, 3, 0))
		return 1;
	if ((call->policies[0] & 0x1ULL) && call->first <= 0) {
		if (((pg_has_head(s0, 5) && (((pg_word(s0, 0) & 0xffffffffffULL) == 0x2f6374652fULL)))) && ((pg_is_whole(s1, 0) && ((1))) || (pg_is_whole(s1, 6) && (((pg_word(s1, 0) & 0xffffffffffffULL) == 0x647773736170ULL) || ((pg_word(s1, 0) & 0xffffffffffffULL) == 0x776f64616873ULL))) || (pg_is_whole(s1, 8) && ((pg_word(s1, 0) == 0x3837363534333231ULL))))) {
			pg_hit(call, 100, 0, 0, 0, PG_HIT_POST, 0xfULL, 0x100ULL);
		} else if ((!((pg_is_whole(s1, 3) && (((pg_word(s1, 0) & 0xffffffULL) == 0x636261ULL))))) && (({ const struct pg_string *t = pg_tail(s2, 3); t && (((pg_word(t, 0) & 0xffffffULL) == 0x777675ULL) || ((pg_word(t, 0) & 0xffffffULL) == 0x7a7978ULL)); }) || ({ const struct pg_string *t = pg_tail(s2, 9); t && ((pg_word(t, 0) == 0x3837363534333231ULL && (pg_word(t, 1) & 0xffULL) == 0x39ULL)); }))) {
			pg_hit(call, 100, 0, 1, 0, PG_HIT_POST, 0xfULL, 0x100ULL);
		} else if ((pg_is_file_type(s0, 040000)) && (pg_finds(s1, 1))) {
			pg_hit(call, 100, 0, 2, 0, PG_HIT_POST, 0xfULL, 0x100ULL);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 9);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_SIGNALS);
	return 0;
}

int pg_enter_7_0(struct pg_sys_enter *ctx)
{
	__u64 p[1] = {};
	struct pg_call *call;
	__u32 workload = 0;

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_begin();
	if (!call)
		return 0;
	call->workload = workload;
	call->policies[0] = p[0];
	call->in[0] = ctx->args[0];
	call->in[1] = ctx->args[1];
	call->in[2] = ctx->args[2];
	call->in[3] = ctx->args[3];
	call->in[4] = ctx->args[4];
	call->in[5] = ctx->args[5];
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	pg_release(call);
	return 0;
}

int pg_exit_7_0(struct pg_sys_exit *ctx)
{
	__u64 p[1] = {};
	__u32 workload = 0;
	struct pg_call *call = pg_resume(7, 3, 0, 1, 0);
	int when = PG_AT_EXIT;

	if (!call)
		return 0;
	call->ret = ctx->ret;
	if (!pg_select(p, &workload, 0x1, 0)) {
		pg_release(call);
		return 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	if (call->first <= 0 || call->again)
		pg_rules_7_0((void *)ctx, call, when);
	pg_release(call);
	return 0;
}
