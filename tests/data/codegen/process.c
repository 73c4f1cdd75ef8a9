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
	struct pg_string *sb = pg_string_of(call->context, PG_SLOT_BINARY);
	struct pg_string *sp = pg_string_of(call->context, PG_SLOT_PARENT);

	if (!(sb && sp))
		return 0;
	if (((call->policies[0] & 0x1ULL) && ((call->policies[0] & 0x2ULL)) && ((!(({ __u32 v_ = pg_ns_tgid(); v_ == 1U || v_ == 2U; })) && pg_outside_lineage(1, 77ULL))) && (!(({ __u32 v_ = pg_ns_inum(3); v_ == 4026531803U; }))) && (pg_ns_changed(0x24)) && ((pg_caps(0, 1) & 0x200000ULL) != 0) && (pg_caps_unchanged(2, 0x1ULL, 0)))) {
		pg_read_binary(sb);
		pg_fill(call, PG_SLOT_BINARY);
	}
	if (((call->policies[0] & 0x1ULL) && ((call->policies[0] & 0x2ULL)) && ((!(({ __u32 v_ = pg_ns_tgid(); v_ == 1U || v_ == 2U; })) && pg_outside_lineage(1, 77ULL))) && (!(({ __u32 v_ = pg_ns_inum(3); v_ == 4026531803U; }))) && (pg_ns_changed(0x24)) && ((pg_caps(0, 1) & 0x200000ULL) != 0) && (pg_caps_unchanged(2, 0x1ULL, 0)))) {
		pg_read_parent_binary(sp);
		pg_fill(call, PG_SLOT_PARENT);
	}
	if ((call->policies[0] & 0x1ULL)) {
		if (((call->policies[0] & 0x2ULL)) && ((!(({ __u32 v_ = pg_ns_tgid(); v_ == 1U || v_ == 2U; })) && pg_outside_lineage(1, 77ULL))) && (!(({ __u32 v_ = pg_ns_inum(3); v_ == 4026531803U; }))) && (pg_ns_changed(0x24)) && ((pg_caps(0, 1) & 0x200000ULL) != 0) && (pg_caps_unchanged(2, 0x1ULL, 0)) && ((((pg_is_whole(sb, 13) && ((pg_word(sb, 0) == 0x6e69622f7273752fULL && (pg_word(sb, 1) & 0xffffffffffULL) == 0x6c7275632fULL)))) || pg_in_lineage(0, 77ULL))) && ((!(({ const struct pg_string *t = pg_tail(sp, 3); t && (((pg_word(t, 0) & 0xffffffULL) == 0x68732fULL)); }))))) {
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

int pg_enter_7_0(struct pg_sys_enter *ctx)
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
