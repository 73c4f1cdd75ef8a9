/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernel functions: what programs of their hook points are entered with, and how a call is kept from being made.
 *
 * fentry, fexit, fmod_ret and LSM programs get the arguments from the trampoline that is patched into the function
 * (arch_prepare_bpf_trampoline of arch/x86/net/bpf_jit_comp.c): one word each. The trampoline's frame lies at the same
 * address at both ends of a call.
 */
#ifndef PG_LIB_FUNCTION_H
#define PG_LIB_FUNCTION_H

#include "lib/rules.h"
#include "maps/deferred.h"

#define PG_EAGAIN 11	  /* include/uapi/asm-generic/errno-base.h */
#define PG_MAX_ERRNO 4095 /* include/linux/err.h */

struct pg_trampoline {
	__u64 args[12];
};

/* The n-th argument of a function, whatever its type. Not for LSM programs, which read their context. */
PG_INLINE __u64 pg_argument(struct pg_trampoline *ctx, __u32 n)
{
	__u64 value = 0;

	bpf_get_func_arg(ctx, n, &value);
	return value;
}

/* What the function returned; at fexit. */
PG_INLINE __u64 pg_result(struct pg_trampoline *ctx)
{
	__u64 value = 0;

	bpf_get_func_ret(ctx, &value);
	return value;
}

/*
 * A register of the process whose system call's function is entered. Its argument is their address, and of that the
 * verifier knows the type: the load is one instruction, which is written as one so that nothing makes a call of it.
 */
#define pg_call_register(ctx, member)                                                                                  \
	({                                                                                                             \
		__u64 value_, registers_ = (ctx)->args[0];                                                             \
                                                                                                                       \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                                                                  \
			     : "=r"(value_)                                                                            \
			     : "r"(registers_), "i"(offsetof(struct pt_regs, member)));                                \
		value_;                                                                                                \
	})

/* The same at a kprobe, where an address is a number. */
#define pg_probed_call_register(ctx, member)                                                                           \
	({                                                                                                             \
		__u64 value_ = 0;                                                                                      \
                                                                                                                       \
		bpf_probe_read_kernel(&value_, sizeof(value_),                                                         \
				      (const char *)(ctx)->di + offsetof(struct pt_regs, member));                     \
		value_;                                                                                                \
	})

/* Addresses of processes are those below the gap in the middle (Documentation/arch/x86/x86_64/mm.rst). */
PG_INLINE int pg_is_user_address(__u64 address)
{
	return !(address >> 63);
}

/* A text behind a pointer of which nobody says whose memory it points into. */
PG_INLINE long pg_read_any_string(struct pg_string *out, __u64 address)
{
	return pg_is_user_address(address) ? pg_read_user_string(out, address) : pg_read_kernel_string(out, address);
}

PG_INLINE long pg_read_any_bytes(struct pg_string *out, __u64 address, __u64 size)
{
	if (pg_is_user_address(address))
		return pg_read_user_bytes(out, address, size);
	return pg_read_kernel_bytes(out, address, size);
}

/*
 * What a call gives instead of being made: 0 when it is made. Of an LSM program the verifier wants to see that the
 * result is a negative errno or 0, and keeps bounds over a subtraction, not over a negation.
 */
PG_INLINE long pg_verdict(const struct pg_call *call)
{
	__u64 error = -(__s64)pg_once(call->override);
	long verdict;

	pg_opaque(error);
	if (error > PG_MAX_ERRNO)
		error = 0;
	asm volatile("%0 = 0\n"
		     "%0 -= %1"
		     : "=&r"(verdict)
		     : "r"(error));
	return verdict;
}

/*
 * overrides: PERCPU_ARRAY[1] of struct pg_override: what the rules of a kprobe ask for, until the program behind them
 * has done it. Of those that call bpf_override_return none may call others (bpf_prog_map_compatible of
 * kernel/bpf/core.c), so it is another program on the same kprobe, and nothing comes between the two on a processor.
 */
struct pg_override {
	__s32 error; /* a negative errno; 0: nothing is asked for */
	__u32 attachment;
};
_Static_assert(sizeof(struct pg_override) == 8, "overrides value");

/* A verdict of 0 asks for nothing, also where an earlier one was not taken up. */
PG_INLINE void pg_ask_override(__u32 attachment, long verdict)
{
	__u32 zero = 0;
	struct pg_override *wanted = pg_lookup(overrides, &zero);

	if (!wanted)
		return;
	wanted->attachment = attachment;
	wanted->error = (__s32)verdict;
}

/* A call that is not made never ends: nothing waits for its exit. */
PG_INLINE void pg_drop_deferred(void)
{
	__u64 key = bpf_get_current_pid_tgid();

	pg_delete(deferred, &key);
}

/* A call that could not be checked for want of a context is not made when a policy could have asked for that. */
PG_INLINE long pg_unchecked(__u64 enforced)
{
	return enforced ? -PG_EAGAIN : 0;
}

#endif
