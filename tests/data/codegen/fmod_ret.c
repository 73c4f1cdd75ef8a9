PG_INLINE struct pg_event *pg_record_7_0(struct pg_trampoline *ctx, struct pg_call *call, __u32 flags, int when)
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
				error = pg_read_file(s0, n);
			pg_fill(call, 0);
		}
		pg_item_text(event, 16, s0, 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_0(struct pg_trampoline *ctx, struct pg_call *call, int when)
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
	if (((call->policies[0] & 0x8ULL) && 1)) {
		n = (__u64)call->in[0];
		error = 0;
		if (error)
			pg_unknown(s0);
		else
			error = pg_read_file(s0, n);
		pg_fill(call, 0);
	}
	if ((call->policies[0] & 0x8ULL)) {
		if (((pg_is_whole(s0, 2) && (((pg_word(s0, 0) & 0xffffULL) == 0x612fULL))))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, 0, 3, PG_HIT_POST | PG_HIT_OVERRIDE, 0x1ULL, 0x100ULL);
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

long pg_enter_7_0(struct pg_trampoline *ctx)
{
	__u64 p[2] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long verdict;

	if (!pg_select(p, &workload, 0x3, 0))
		return 0;
	if (!((p[0] & 0x8ULL) || (p[1] & 0x40ULL)))
		return 0;
	call = pg_begin();
	if (!call) {
		verdict = pg_unchecked((p[0] & 0x8ULL & ~pg_monitored(0)) | (p[1] & 0x40ULL & ~pg_monitored(1)));
		return verdict;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	call->policies[1] = p[1];
	call->in[0] = pg_argument(ctx, 0);
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		verdict = pg_verdict(call);
		pg_release(call);
		return verdict;
	}
	call->place = pg_place(7ULL, 0, 1);
	pg_once(call->slot) = 11;
	pg_tail_call(ctx, slots_7_enter, pg_once(call->slot));
	verdict = pg_verdict(call);
	pg_release(call);
	return verdict;
}

PG_INLINE struct pg_event *pg_record_7_1(struct pg_trampoline *ctx, struct pg_call *call, __u32 flags, int when)
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
				error = pg_read_file(s0, n);
			pg_fill(call, 0);
		}
		pg_item_text(event, 16, s0, 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_1(struct pg_trampoline *ctx, struct pg_call *call, int when)
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
	if (((call->policies[1] & 0x40ULL) && 1)) {
		n = (__u64)call->in[0];
		error = 0;
		if (error)
			pg_unknown(s0);
		else
			error = pg_read_file(s0, n);
		pg_fill(call, 0);
	}
	if ((call->policies[1] & 0x40ULL)) {
		if (((pg_is_whole(s0, 2) && (((pg_word(s0, 0) & 0xffffULL) == 0x622fULL))))) {
			struct pg_hit *hit = pg_hit(call, 101, 0, 0, 70, PG_HIT_POST | PG_HIT_OVERRIDE, 0x1ULL, 0x100ULL);
			hit->override = -1;
		}
	}
	flags = pg_settle(call, 1, PG_HIT_OVERRIDE | PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 9);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_1(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_OVERRIDE | PG_HIT_SIGNALS);
	return 0;
}

long pg_enter_7_1(struct pg_trampoline *ctx)
{
	struct pg_call *call = pg_continue(pg_place(7ULL, 0, 1));
	long verdict;

	if (!call)
		return 0;
	if (pg_rules_7_1(ctx, call, PG_AT_ENTRY)) {
		verdict = pg_verdict(call);
		pg_release(call);
		return verdict;
	}
	verdict = pg_verdict(call);
	pg_release(call);
	return verdict;
}
