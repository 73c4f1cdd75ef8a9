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
				error = pg_read_sock(s0, n);
			pg_fill(call, 0);
			later |= pg_unreadable(error, n, 0);
		}
		pg_item_text(event, 16, s0, 0);
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
			error = pg_read_sock(s0, n);
		pg_fill(call, 0);
		later |= pg_unreadable(error, n, 0);
	}
	if ((call->policies[0] & 0x1ULL)) {
		if ((pg_net_addr_in_set(s0, PG_NET_SOURCE, PG_AF_INET, 1) || pg_net_addr_in_set(s0, PG_NET_SOURCE, PG_AF_INET6, 2)) && (!(pg_net_addr_in_set(s0, PG_NET_DESTINATION, PG_AF_INET, 1))) && (pg_net_port_in_set(s0, PG_NET_SOURCE, 3)) && (!(pg_net_port_in_set(s0, PG_NET_DESTINATION, 3)))) {
			pg_hit(call, 100, 0, 0, 0, PG_HIT_POST, 0x1ULL, 0x0ULL);
		}
	}
	flags = pg_settle(call, 1, 0, &signals);
	if (!(flags & PG_HIT_POST))
		return 0;
	event = pg_record_7_0(ctx, call, flags, when);
	if (!event)
		return 0;
	pg_send_hits(call, event, 1, 0);
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
	call->in[0] = ctx->args[0];
	if (pg_rules_7_0(ctx, call, PG_AT_ENTRY)) {
		pg_release(call);
		return 0;
	}
	pg_release(call);
	return 0;
}
