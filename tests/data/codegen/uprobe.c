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
		pg_item_number(event, 16, (__s64)((__u64)call->in[0]), 0);
	}
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, 0)) {
			n = (__u64)call->in[1];
			error = 0;
			if (error)
				pg_unknown(s0);
			else
				error = pg_read_user_string(s0, n);
			pg_fill(call, 0);
			later |= pg_unreadable(error, n, 0);
		}
		pg_item_text(event, 17, s0, 0);
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

	if ((call->policies[0] & 0x1ULL)) {
		if (1) {
			pg_await(call, 0, 0);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SIGNALS, &signals);
	if (call->awaiting)
		call->values |= 0x3ULL;
	if (!(flags & PG_HIT_POST) && !call->awaiting)
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_SIGNALS);
	call->kept = 1;
	return 0;
}

PG_INLINE void pg_late_7_0(struct pt_regs *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;

	if (!(event))
		return;
	if (flags & PG_HIT_KERNEL_STACK)
		pg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);
	if (flags & PG_HIT_USER_STACK)
		pg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);
	if (call->values & 0x4ULL) {
		pg_item_number(event, 18, (__s64)((__u64)call->ret), 0);
	}
	event->flags |= PG_EVENT_RETURN;
	pg_send_hits(call, event, 1, PG_HIT_SIGNALS);
}

PG_INLINE void pg_returns_7_0(struct pt_regs *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;

	if (!call->kept) {
		call->values = 0x3ULL;
		if (!pg_record_7_0(ctx, call, 0, when))
			return;
	}
	call->hits = 0;
	call->values = 0;
	if (call->awaiting & 0x1ULL) {
		if (((((__s64)((__u64)call->ret) > 100LL)))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, call->waiting[0] & ~PG_WAITING_LIMITED, 0, PG_HIT_POST | PG_HIT_AT_RETURN, 0x4ULL, 0x100ULL);
			hit->return_selector = 0;
			pg_limit_late(call, 0, hit);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 9);
	if (flags & PG_HIT_POST)
		pg_late_7_0(ctx, call, flags, when);
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
	call->in[0] = ctx->di;
	call->in[1] = ctx->si;
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	if (call->awaiting)
		pg_keep_return(call, call->kept ? pg_event_of(call->context) : NULL, (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = ctx->sp, .attachment = 7, .chunk = 0}, 3);
	pg_release(call);
	return 0;
}

int pg_exit_7_0(struct pt_regs *ctx)
{
	__u64 p[1] = {};
	__u32 workload = 0;
	struct pg_call *call = pg_resume(7, 3, ctx->sp - 8, 0, 1);
	int when = PG_AT_EXIT;

	if (!call)
		return 0;
	call->ret = (__s64)ctx->ax;
	if (!pg_select(p, &workload, 0x1, 0)) {
		pg_release(call);
		return 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	if (call->first <= 0 || call->again)
		pg_rules_7_0((void *)ctx, call, when);
	else {
		struct pg_return_key key = (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = ctx->sp - 8, .attachment = 7, .chunk = 0};

		pg_take_return(call, &key);
	}
	if (call->awaiting)
		pg_returns_7_0((void *)ctx, call, when);
	pg_release(call);
	return 0;
}
