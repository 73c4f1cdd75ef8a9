PG_INLINE struct pg_event *pg_record_7_0(struct pt_regs *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	struct pg_string *sb = pg_string_of(call->context, PG_SLOT_BINARY);
	struct pg_string *sp = pg_string_of(call->context, PG_SLOT_PARENT);

	if (!(event && sb && sp))
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
		if (!pg_is_filled(call, PG_SLOTS + 0)) {
			n = (__u64)call->in[0];
			error = 0;
			error = error ?: pg_load(&n, n + -20LL, 4, 1, 1);
			pg_keep_number(call, 0, n, error);
			later |= pg_unreadable(error, (__u64)call->in[0], 0);
		}
		pg_item_number(event, 16, (__s64)call->number[0], !pg_is_known(call, 0));
	}
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, PG_SLOTS + 1)) {
			n = ((__u64)(__u32)call->in[1] + (__u64)call->in[2] * 8);
			error = 0;
			error = error ?: pg_load(&n, n + 16LL, 1, 0, 1);
			pg_keep_number(call, 1, n, error);
			later |= pg_unreadable(error, ((__u64)(__u32)call->in[1] + (__u64)call->in[2] * 8), 0);
		}
		pg_item_number(event, 17, (__u64)call->number[1], !pg_is_known(call, 1));
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

	if (((call->policies[0] & 0x1ULL) && 1)) {
		n = (__u64)call->in[0];
		error = 0;
		error = error ?: pg_load(&n, n + -20LL, 4, 1, 1);
		pg_keep_number(call, 0, n, error);
		later |= pg_unreadable(error, (__u64)call->in[0], 0);
	}
	if ((call->policies[0] & 0x1ULL)) {
		if ((pg_is_known(call, 0) && (((__s64)call->number[0] == 7LL)))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, 0, 0, PG_HIT_POST | PG_HIT_SET, 0x3ULL, 0x0ULL);
			n = (__u64)call->in[0];
			error = 0;
			n += -20LL;
			if (!error) pg_set(hit, n, 41U);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SET, &signals);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_SET);
	return 0;
}

int pg_enter_7_0(struct pt_regs *ctx)
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
	call->in[0] = (__u64)pg_context_u64(ctx, 40);
	call->in[1] = (__u64)(__u32)pg_context_u64(ctx, 8);
	call->in[2] = (__u64)pg_context_u64(ctx, 16);
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	pg_release(call);
	return 0;
}
