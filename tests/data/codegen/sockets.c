PG_INLINE struct pg_event *pg_record_7_0(struct bpf_raw_tracepoint_args *ctx, struct pg_call *call, __u32 flags, int when)
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
		pg_item_number(event, 16, (__u64)((__u64)call->in[0]), 0);
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

	if ((call->policies[0] & 0x4ULL)) {
		if (((((__u64)((__u64)call->in[0]) == 2ULL)))) {
			pg_hit(call, 102, 0, 0, 2, PG_HIT_POST, 0x1ULL, 0x100ULL);
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
	call = pg_begin();
	if (!call)
		return 0;
	call->workload = workload;
	call->policies[0] = p[0];
	call->in[0] = ctx->args[1];
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	call->place = pg_place(7ULL, 0, 1);
	pg_once(call->slot) = 11;
	pg_tail_call(ctx, slots_raw, pg_once(call->slot));
	pg_release(call);
	return 0;
}

PG_INLINE struct pg_event *pg_record_7_1(struct bpf_raw_tracepoint_args *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	struct pg_owner *owner = pg_owner_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	struct pg_string *s0 = pg_string_of(call->context, 0);
	struct pg_string *sb = pg_string_of(call->context, PG_SLOT_BINARY);
	struct pg_string *sp = pg_string_of(call->context, PG_SLOT_PARENT);

	if (!(event && owner && sb && sp && s0))
		return NULL;
	pg_event_head(event, call->workload, when == PG_AT_ENTRY ? 0 : PG_EVENT_DEFERRED);
	pg_event_subject(event, owner);
	if (!pg_is_filled(call, PG_SLOT_BINARY))
		pg_read_subject_binary(sb, owner);
	pg_item_text(event, PG_ID_BINARY, sb, 0);
	if (pg_is_filled(call, PG_SLOT_PARENT))
		pg_item_text(event, PG_ID_PARENT, sp, 0);
	if (flags & PG_HIT_KERNEL_STACK)
		pg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);
	if (flags & PG_HIT_USER_STACK && !pg_is_foreign(owner))
		pg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);
	if (call->values & 0x1ULL) {
		pg_item_number(event, 16, (__u64)((__u64)call->in[0]), 0);
	}
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, 0)) {
			n = (__u64)call->in[1];
			error = 0;
			if (error)
				pg_unknown(s0);
			else
				error = pg_read_sock(s0, n);
			pg_fill(call, 0);
		}
		pg_item_text(event, 17, s0, 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_1(struct bpf_raw_tracepoint_args *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	struct pg_owner *owner = pg_owner_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;
	struct task_struct *task;
	__u64 start;
	__u32 tgid;
	struct pg_string *s0 = pg_string_of(call->context, 0);

	if (!(s0 && owner))
		return 0;
	task = pg_subject_task(owner);
	tgid = pg_subject_tgid(owner);
	start = pg_subject_start(owner);
	if ((call->policies[0] & 0x3ULL)) {
		n = (__u64)call->in[1];
		error = 0;
		if (error)
			pg_unknown(s0);
		else
			error = pg_read_sock(s0, n);
		pg_fill(call, 0);
	}
	if ((call->policies[0] & 0x1ULL)) {
		if (((((__u64)((__u64)call->in[0]) == 1ULL)))) {
			struct pg_hit *hit = pg_hit(call, 100, 0, 0, 0, 0, 0x3ULL, 0x0ULL);
			n = (__u64)call->in[1];
			error = 0;
			if (!error) pg_track_hit(call, hit, (const struct sock *)n);
		}
	}
	if ((call->policies[0] & 0x2ULL)) {
		if ((({ __u32 v_ = tgid; v_ == 7U; }))) {
			struct pg_hit *hit = pg_hit(call, 101, 0, 0, 1, PG_HIT_POST | PG_HIT_USER_STACK, 0x3ULL, 0x100ULL);
			pg_limit_subject(hit, owner, PG_RATE_THREAD, pg_hash(pg_hash_text(PG_HASH_BEGIN, s0), (__u64)((__u64)call->in[0])), 1000000000ULL);
		}
	}
	flags = pg_settle_subject(call, owner, 2, PG_HIT_SIGNALS | PG_HIT_LIMITED, &signals);
	pg_send_if(call, signals, 9);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_1(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 2, PG_HIT_SIGNALS | PG_HIT_LIMITED);
	return 0;
}

int pg_enter_7_1(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_call *call = pg_continue(pg_place(7ULL, 0, 1));
	__u64 p[1] = {};
	struct pg_owner *owner;
	__u32 workload = 0;
	long error = 0;
	__u64 n = 0;

	if (!call) {
		return 0;
	}
	call->in[0] = ctx->args[1];
	call->in[1] = ctx->args[2];
	owner = pg_owner_of(call->context);
	if (!owner) {
		pg_release(call);
		return 0;
	}
	owner->sock = 0;
	n = (__u64)call->in[1];
	error = 0;
	if (!error)
		pg_find_owner(owner, (const struct sock *)n);
	if (!pg_select_subject(p, &workload, 0x1, owner)) {
		p[0] = 0;
		workload = 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	if (pg_rules_7_1(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	pg_release(call);
	return 0;
}
