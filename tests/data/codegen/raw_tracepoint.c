PG_INLINE struct pg_event *pg_record_7_0(struct bpf_raw_tracepoint_args *ctx, struct pg_call *call, __u32 flags, int when)
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
				error = pg_read_binprm(s0, n);
			pg_fill(call, 0);
		}
		pg_item_text(event, 17, s0, 0);
	}
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, PG_SLOTS + 0)) {
			n = (__u64)call->in[1];
			error = 0;
			error = error ?: pg_load(&n, n + 24LL, 8, 0, 0);
			error = error ?: pg_load(&n, n + 8LL, 8, 0, 0);
			error = error ?: pg_load(&n, n + 0LL, 4, 1, 0);
			pg_keep_number(call, 0, n, error);
		}
		pg_item_number(event, 16, (__s64)call->number[0], !pg_is_known(call, 0));
	}
	return event;
}

PG_INLINE int pg_rules_7_0(struct bpf_raw_tracepoint_args *ctx, struct pg_call *call, int when)
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
			error = pg_read_binprm(s0, n);
		pg_fill(call, 0);
	}
	if ((call->policies[0] & 0x1ULL)) {
		if (((pg_has_head(s0, 5) && (((pg_word(s0, 0) & 0xffffffffffULL) == 0x2f6e69622fULL))))) {
			pg_hit(call, 100, 0, 0, 0, PG_HIT_POST, 0x3ULL, 0x100ULL);
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

int pg_enter_7_0(struct bpf_raw_tracepoint_args *ctx)
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
	call->in[0] = ctx->args[2];
	call->in[1] = ctx->args[0];
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	pg_release(call);
	return 0;
}
