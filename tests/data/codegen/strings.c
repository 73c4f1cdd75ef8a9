#include "lib/syscall.h"

PG_INLINE int pg_rules_rename(const __u64 *args, int when)
{
	__u64 p[PG_POLICY_WORDS] = {};
	struct pg_call *call;
	__u32 workload = 0;
	long error;
	struct pg_string *s0 = pg_string(0);
	struct pg_string *s1 = pg_string(1);

	if (!pg_select(p, &workload, 0x1, 0))
		return 0;
	if (!((p[0] & 0x8ULL)))
		return 0;
	call = pg_call(args);
	if (!(call && s0 && s1))
		return 0;
	if ((p[0] & 0x8ULL)) {
		error = pg_read_user_string(s0, call->args[0]);
		pg_filled(call, 0, PG_TEXT_STRING | 0);
		if (pg_unreadable(error, call->args[0], when)) {
			pg_defer(call, 42ULL);
			return 0;
		}
	}
	if ((p[0] & 0x8ULL)) {
		error = pg_read_user_string(s1, call->args[1]);
		pg_filled(call, 1, PG_TEXT_STRING | 1);
		if (pg_unreadable(error, call->args[1], when)) {
			pg_defer(call, 42ULL);
			return 0;
		}
	}
	if (p[0] & 0x8ULL) {
		if (((pg_is_whole(s0, 0) && (1)) || (pg_is_whole(s0, 7) && (((pg_word(s0, 0) & 0xffffffffffffffULL) == 0x37363534333231ULL) || ((pg_word(s0, 0) & 0xffffffffffffffULL) == 0x31323334353637ULL))) || (pg_is_whole(s0, 8) && ((pg_word(s0, 0) == 0x3837363534333231ULL))) || (pg_is_whole(s0, 9) && ((pg_word(s0, 0) == 0x3837363534333231ULL && (pg_word(s0, 1) & 0xffULL) == 0x39ULL))))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 0, error);
		} else if (((pg_has_head(s0, 5) && (((pg_word(s0, 0) & 0xffffffffffULL) == 0x2f6374652fULL))) || (pg_has_head(s0, 16) && ((pg_word(s0, 0) == 0x62696c2f7273752fULL && pg_word(s0, 1) == 0x2f34365f3638782fULL)))) && (!((pg_is_whole(s1, 2) && (((pg_word(s1, 0) & 0xffffULL) == 0x612fULL))) || (pg_is_whole(s1, 3) && (((pg_word(s1, 0) & 0xffffffULL) == 0x62622fULL)))))) {
			error = 0;
			error = pg_signal(9) ?: error;
			pg_hit(call, 100, 0, 1, error);
		} else if ((({ const struct pg_string *t = pg_tail(s1, 3); t && (((pg_word(t, 0) & 0xffffffULL) == 0x6f732eULL)); }) || ({ const struct pg_string *t = pg_tail(s1, 6); t && (((pg_word(t, 0) & 0xffffffffffffULL) == 0x647773736170ULL) || ((pg_word(t, 0) & 0xffffffffffffULL) == 0x776f64616873ULL)); }))) {
			error = 0;
			pg_hit(call, 100, 0, 2, error);
		}
	}
	if (!call->hits)
		return 0;
	if (!(call->slots & 0x1)) {
		error = pg_read_user_string(s0, call->args[0]);
		pg_filled(call, 0, PG_TEXT_STRING | 0);
	}
	if (!(call->slots & 0x2)) {
		error = pg_read_user_string(s1, call->args[1]);
		pg_filled(call, 1, PG_TEXT_STRING | 1);
	}
	pg_report(call, workload, when != PG_AT_ENTRY ? PG_EVENT_DEFERRED : 0, 1);
	return 0;
}

int pg_enter_rename(struct pg_sys_enter *ctx)
{
	return pg_rules_rename(ctx->args, PG_AT_ENTRY);
}

int pg_exit_rename(struct pg_sys_exit *ctx)
{
	__u64 args[6];

	if (!pg_resume(42ULL, args))
		return 0;
	return pg_rules_rename(args, PG_AT_EXIT);
}
