PG_INLINE struct pg_event *pg_record_7_0(struct pt_regs *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	struct pg_string *s0 = pg_string_of(call->context, 0);
	struct pg_string *sb = pg_string_of(call->context, PG_SLOT_BINARY);
	struct pg_string *sp = pg_string_of(call->context, PG_SLOT_PARENT);

	if (!(event && sb && sp && s0))
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
			n = (__u64)call->in[0];
			error = 0;
			if (error)
				pg_unknown(s0);
			else
				error = pg_read_user_string(s0, n);
			pg_fill(call, 0);
			later |= pg_unreadable(error, n, 0);
		}
		pg_item_text(event, 16, s0, 0);
	}
	if (call->values & 0x2ULL) {
		pg_item_number(event, 17, (__s64)((__u64)call->in[1]), 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_0(struct pt_regs *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;
	struct pg_string *s0 = pg_string_of(call->context, 0);

	if (!(s0))
		return 0;
	if (((call->policies[0] & 0x1ULL) && 1)) {
		n = (__u64)call->in[0];
		error = 0;
		if (error)
			pg_unknown(s0);
		else
			error = pg_read_user_string(s0, n);
		pg_fill(call, 0);
		later |= pg_unreadable(error, n, when == PG_AT_ENTRY);
	}
	if (later && pg_defer(call, 7, 3, 0))
		return 1;
	if ((call->policies[0] & 0x1ULL) && call->first <= 0) {
		if (((pg_is_whole(s0, 11) && ((pg_word(s0, 0) == 0x6168732f6374652fULL && (pg_word(s0, 1) & 0xffffffULL) == 0x776f64ULL))))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, 0, 0, PG_HIT_POST | PG_HIT_OVERRIDE, 0x3ULL, 0x100ULL);
			hit->override = -1;
		}
	}
	flags = pg_settle(call, 1, PG_HIT_OVERRIDE | PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 9);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_OVERRIDE | PG_HIT_SIGNALS);
	return 0;
}

int pg_enter_7_0(struct pt_regs *ctx)
{
	__u64 p[1] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long verdict;

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x1ULL)))
		return 0;
	call = pg_begin();
	if (!call) {
		verdict = pg_unchecked((p[0] & 0x1ULL & ~pg_monitored(0)));
		pg_ask_override(7, verdict);
		return 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	call->in[0] = pg_probed_call_register(ctx, di);
	call->in[1] = pg_probed_call_register(ctx, si);
	call->in[2] = pg_probed_call_register(ctx, dx);
	call->in[3] = pg_probed_call_register(ctx, r10);
	call->in[4] = pg_probed_call_register(ctx, r8);
	call->in[5] = pg_probed_call_register(ctx, r9);
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		verdict = pg_verdict(call);
		if (verdict)
			pg_drop_deferred();
		pg_release(call);
		pg_ask_override(7, verdict);
		return 0;
	}
	verdict = pg_verdict(call);
	if (verdict)
		pg_drop_deferred();
	pg_release(call);
	pg_ask_override(7, verdict);
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
