#include "lib/syscall.h"

PG_INLINE int pg_rules_write(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error;
	struct pg_string *s0 = pg_string(0);
	struct pg_string *s1 = pg_string(1);

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x8000000000000000ULL)))
		return 0;
	call = pg_call(args);
	if (!(call && s0 && s1))
		return 0;
	if ((p[0] & 0x8000000000000000ULL)) {
		pg_read_fd_path(s0, (__s32)call->args[0]);
		pg_filled(call, 0, PG_TEXT_FD | 0);
	}
	if ((p[0] & 0x8000000000000000ULL)) {
		error = pg_read_user_bytes(s1, call->args[1], call->args[2]);
		pg_filled(call, 1, PG_TEXT_BYTES | 1);
		if (pg_unreadable(error, call->args[1], when)) {
			pg_defer(call, 42ULL);
			return 0;
		}
	}
	if (p[0] & 0x8000000000000000ULL) {
		if (((pg_has_head(s1, 5) && (((pg_word(s1, 0) & 0xffffffffffULL) == 0x2f20544547ULL)))) && (({ const struct pg_string *t = pg_tail(s0, 4); t && (((pg_word(t, 0) & 0xffffffffULL) == 0x676f6c2eULL)); }))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 0, error);
		}
	}
	if (!call->hits)
		return 0;
	if (!(call->slots & 0x1)) {
		pg_read_fd_path(s0, (__s32)call->args[0]);
		pg_filled(call, 0, PG_TEXT_FD | 0);
	}
	if (!(call->slots & 0x2)) {
		error = pg_read_user_bytes(s1, call->args[1], call->args[2]);
		pg_filled(call, 1, PG_TEXT_BYTES | 1);
	}
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1);
	return 0;
}

int pg_enter_write(struct pg_sys_enter *ctx)
{
	return pg_rules_write(ctx->args, PG_AT_ENTRY);
}

int pg_exit_write(struct pg_sys_exit *ctx)
{
	__u64 args[6];

	if (!pg_resume(42ULL, args))
		return 0;
	return pg_rules_write(args, PG_AT_EXIT);
}
