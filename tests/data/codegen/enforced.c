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

	flags = pg_settle(call, 0, 0, &signals);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 0, 0);
	return 0;
}

int pg_enter_7_0(struct pg_sys_enter *ctx)
{
	__u64 p[1] = {};
	struct pg_call *call;
	__u32 workload = 0;

	pg_enforce();
	if (!pg_select(p, &workload, 0x0, 0))
		return 0;
	if (!(0))
		return 0;
	call = pg_begin();
	if (!call)
		return 0;
	call->workload = workload;
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
	struct pg_call *call = pg_resume(7, 3, 0, 0, 0);
	int when = PG_AT_EXIT;

	pg_enforce();
	if (!call)
		return 0;
	call->ret = ctx->ret;
	if (!pg_select(p, &workload, 0x0, 0)) {
		pg_release(call);
		return 0;
	}
	call->workload = workload;
	if (call->first <= 0 || call->again)
		pg_rules_7_0((void *)ctx, call, when);
	pg_release(call);
	return 0;
}
