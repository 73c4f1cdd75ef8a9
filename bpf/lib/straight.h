/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Comparing and choosing without branches, for the bodies of loops. The verifier follows each branch of each round on
 * its own, and keeps 8,192 of them in mind at most, over all the loops of a program (BPF_COMPLEXITY_LIMIT_JMP_SEQ of
 * kernel/bpf/verifier.c). A round with one way in and one way out costs its instructions once.
 *
 * What is called `first`, `wanted` and the like is 0 or 1, and neither the compiler nor the verifier knows which.
 */
#ifndef PG_LIB_STRAIGHT_H
#define PG_LIB_STRAIGHT_H

#include "lib/kernel.h"

/* 1 when any bit is set. */
PG_INLINE __u64 pg_is_set(__u64 x)
{
	pg_opaque(x);
	x |= -x;
	pg_opaque(x);
	x >>= 63;
	pg_opaque(x);
	return x;
}

/* 1 for a result below zero. */
PG_INLINE __u64 pg_is_error(long result)
{
	__u64 error = (__u64)result >> 63;

	pg_opaque(error);
	return error;
}

PG_INLINE __u64 pg_choose(__u64 first, __u64 a, __u64 b)
{
	return b ^ ((a ^ b) * first);
}

/* The smaller one of two numbers below 1 << 63. */
PG_INLINE __u64 pg_least(__u64 a, __u64 b)
{
	__u64 less = (a - b) >> 63;

	pg_opaque(less);
	return pg_choose(less, a, b);
}

#endif
