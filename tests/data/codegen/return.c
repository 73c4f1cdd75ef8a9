PG_INLINE struct pg_event *pg_record_7_0(struct pg_sys_enter *ctx, struct pg_call *call, __u32 flags, int when)
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
		pg_item_number(event, 16, (__s64)((__s64)(__s32)call->in[0]), 0);
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

	if ((call->policies[0] & 0x1ULL)) {
		if (((((__s64)((__s64)(__s32)call->in[0]) == -1LL)))) {
			pg_hit(call, 100, 0, 0, 0, PG_HIT_AWAITS, 0x0ULL, 0x200ULL);
			pg_await(call, 0, 0);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 10);
	if (call->awaiting)
		call->values |= 0x1ULL;
	if (!(flags & PG_HIT_POST) && !call->awaiting)
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, PG_HIT_SIGNALS);
	call->kept = 1;
	return 0;
}

PG_INLINE void pg_late_7_0(struct pg_sys_enter *ctx, struct pg_call *call, __u32 flags, int when)
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
	if (call->values & 0x2ULL) {
		pg_item_number(event, 17, (__s64)((__s64)call->ret), 0);
	}
	event->flags |= PG_EVENT_RETURN;
	pg_send_hits(call, event, 1, PG_HIT_SIGNALS);
}

PG_INLINE void pg_returns_7_0(struct pg_sys_enter *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;

	if (!call->kept) {
		call->values = 0x1ULL;
		if (!pg_record_7_0(ctx, call, 0, when))
			return;
	}
	call->hits = 0;
	call->values = 0;
	if (call->awaiting & 0x1ULL) {
		if (((((__s64)((__s64)call->ret) == -9LL)))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, call->waiting[0] & ~PG_WAITING_LIMITED, 0, PG_HIT_POST | PG_HIT_AT_RETURN, 0x2ULL, 0x100ULL);
			hit->return_selector = 0;
			pg_limit_late(call, 0, hit);
		}
	}
	flags = pg_settle(call, 1, PG_HIT_SIGNALS, &signals);
	pg_send_if(call, signals, 9);
	if (flags & PG_HIT_POST)
		pg_late_7_0(ctx, call, flags, when);
}

int pg_enter_7_0(struct pg_sys_enter *ctx)
{
	__u64 p[1] = {};
	struct pg_call *call;
	__u32 workload = 0;

	{
		__u64 a0 = ctx->args[0];

		if (!((((((__s64)((__s64)(__s32)a0) == -1LL))))))
			return 0;
	}
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
	if (call->awaiting)
		pg_keep_return(call, call->kept ? pg_event_of(call->context) : NULL, (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = 0, .attachment = 7, .chunk = 0}, 3);
	pg_release(call);
	return 0;
}

int pg_exit_7_0(struct pg_sys_exit *ctx)
{
	__u64 p[1] = {};
	__u32 workload = 0;
	struct pg_call *call = pg_resume(7, 3, 0, 0, 1);
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
	else {
		struct pg_return_key key = (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = 0, .attachment = 7, .chunk = 0};

		pg_take_return(call, &key);
	}
	if (call->awaiting)
		pg_returns_7_0((void *)ctx, call, when);
	pg_release(call);
	return 0;
}
