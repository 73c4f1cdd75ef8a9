PG_INLINE struct pg_event *pg_record_7_0(struct pg_trampoline *ctx, struct pg_call *call, __u32 flags, int when)
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
		if (!pg_is_filled(call, 0)) {
			n = (__u64)call->in[0];
			error = 0;
			if (error)
				pg_unknown(s0);
			else
				error = pg_read_sock(s0, n);
			pg_fill(call, 0);
		}
		pg_item_text(event, 16, s0, 0);
	}
	return event;
}

PG_INLINE int pg_rules_7_0(struct pg_trampoline *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	struct pg_owner *owner = pg_owner_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;

	if (!(owner))
		return 0;
	if ((call->policies[0] & 0x1ULL)) {
		if (1) {
			pg_await(call, 0, 0);
		}
	}
	flags = pg_settle_subject(call, owner, 1, 0, &signals);
	if (call->awaiting)
		call->values |= 0x1ULL;
	if (!(flags & PG_HIT_POST) && !call->awaiting)
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, 0);
	call->kept = 1;
	return 0;
}

PG_INLINE void pg_late_7_0(struct pg_trampoline *ctx, struct pg_call *call, __u32 flags, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	struct pg_owner *owner = pg_owner_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	struct pg_string *s1 = pg_string_of(call->context, 1);

	if (!(event && owner && s1))
		return;
	if (flags & PG_HIT_KERNEL_STACK)
		pg_item_stack(event, PG_ID_KERNEL_STACK, ctx, 0);
	if (flags & PG_HIT_USER_STACK && !pg_is_foreign(owner))
		pg_item_stack(event, PG_ID_USER_STACK, ctx, BPF_F_USER_STACK);
	if (call->values & 0x2ULL) {
		if (!pg_is_filled(call, 1)) {
			n = (__u64)call->ret;
			error = 0;
			if (error)
				pg_unknown(s1);
			else
				error = pg_read_sock(s1, n);
			pg_fill(call, 1);
		}
		pg_item_text(event, 17, s1, 0);
	}
	event->flags |= PG_EVENT_RETURN;
	pg_send_hits(call, event, 1, 0);
}

PG_INLINE void pg_returns_7_0(struct pg_trampoline *ctx, struct pg_call *call, int when)
{
	struct pg_event *event = pg_event_of(call->context);
	struct pg_owner *owner = pg_owner_of(call->context);
	__u64 n = 0, size = 0;
	long error = 0, before = 0;
	int later = 0;
	__u64 signals = 0;
	__u32 flags;

	if (!(owner))
		return;
	if (!call->kept) {
		call->values = 0x1ULL;
		if (!pg_record_7_0(ctx, call, 0, when))
			return;
	}
	call->hits = 0;
	call->values = 0;
	if (call->awaiting & 0x1ULL) {
		struct pg_hit *hit = pg_hit(call, 100, 0, call->waiting[0] & ~PG_WAITING_LIMITED, 0, PG_HIT_POST, 0x2ULL, 0x0ULL);
		n = (__u64)call->ret;
		error = 0;
		if (!error && n) pg_track_hit(call, hit, (const struct sock *)n);
	}
	flags = pg_settle_subject(call, owner, 1, 0, &signals);
	if (flags & PG_HIT_POST)
		pg_late_7_0(ctx, call, flags, when);
}

int pg_enter_7_0(struct pg_trampoline *ctx)
{
	struct pg_call *call = pg_begin();
	__u64 p[1] = {};
	struct pg_owner *owner;
	__u32 workload = 0;
	long error = 0;
	__u64 n = 0;

	if (!call) {
		return 0;
	}
	call->in[0] = pg_argument(ctx, 0);
	owner = pg_owner_of(call->context);
	if (!owner) {
		pg_release(call);
		return 0;
	}
	owner->sock = 0;
	n = (__u64)call->in[0];
	error = 0;
	if (!error)
		pg_find_owner(owner, (const struct sock *)n);
	if (!pg_select_subject(p, &workload, 0x1, owner)) {
		p[0] = 0;
		workload = 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	if (call->awaiting)
		pg_keep_return(call, call->kept ? pg_event_of(call->context) : NULL, (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = (__u64)ctx, .attachment = 7, .chunk = 0}, 3);
	pg_release(call);
	return 0;
}

int pg_exit_7_0(struct pg_trampoline *ctx)
{
	__u64 p[1] = {};
	struct pg_owner *owner;
	__u32 workload = 0;
	long error = 0;
	__u64 n = 0;
	struct pg_call *call = pg_resume(7, 3, (__u64)ctx, 0, 1);
	int when = PG_AT_EXIT;

	if (!call)
		return 0;
	call->ret = (__s64)pg_result(ctx);
	owner = pg_owner_of(call->context);
	if (!owner) {
		pg_release(call);
		return 0;
	}
	owner->sock = 0;
	n = (__u64)call->in[0];
	error = 0;
	if (!error)
		pg_find_owner(owner, (const struct sock *)n);
	if (!pg_select_subject(p, &workload, 0x1, owner)) {
		p[0] = 0;
		workload = 0;
	}
	call->workload = workload;
	call->policies[0] = p[0];
	if (call->first <= 0 || call->again)
		pg_rules_7_0((void *)ctx, call, when);
	else {
		struct pg_return_key key = (struct pg_return_key){.pid_tgid = bpf_get_current_pid_tgid(), .frame = (__u64)ctx, .attachment = 7, .chunk = 0};

		pg_take_return(call, &key);
	}
	if (call->awaiting)
		pg_returns_7_0((void *)ctx, call, when);
	pg_release(call);
	return 0;
}
