/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Text and bytes, into a slot of bpf/maps/strings.h. What every reader of bpf/lib promises: it gives 0, or a negative
 * errno and a slot that is flagged as unreadable; it never faults; of what does not fit, the slot says that it is cut.
 *
 * mode, where it is not the mode of a file: of bytes, how many there were to read, as far as 32 bits go.
 *
 * Some texts come with facts: a structure of a constant size that stands right behind the text, is reported with it
 * and takes no part in comparisons. It is there when the text is unreadable as well.
 */
#ifndef PG_LIB_BUFFERS_H
#define PG_LIB_BUFFERS_H

#include "lib/kernel.h"
#include "lib/straight.h"
#include "maps/strings.h"

#define PG_EFAULT 14 /* include/uapi/asm-generic/errno-base.h */

#define PG_MAX_U32 0xffffffffULL
#define PG_SEGMENTS 256 /* of an array: what is behind them is cut; IOV_MAX is 1,024 */
#define PG_PIECE 255	/* bytes of a segment that are read at once: what the slot's room leaves behind any offset */
#define PG_PIECES (PG_SEGMENTS + PG_STRING_MAX / PG_PIECE + 1)

/* A slot without a value. */
PG_INLINE long pg_no_value(struct pg_string *out, long error)
{
	out->len = 0;
	out->flags = PG_STRING_UNREADABLE;
	out->mode = 0;
	return error;
}

/* Puts facts behind the text. size: a constant, PG_STRING_ROOM - PG_STRING_MAX at most. */
PG_INLINE void pg_put_facts(struct pg_string *out, const void *facts, __u32 size)
{
	__u32 at = pg_once(out->len);

	pg_opaque(at);
	at &= 0x1fff;
	if (at > PG_STRING_MAX)
		at = PG_STRING_MAX;
	bpf_probe_read_kernel(&out->data[at], size, facts);
}

PG_INLINE long pg_text_read(struct pg_string *out, long n, __u32 cut)
{
	if (n < 1)
		return pg_no_value(out, n ?: -PG_EFAULT);
	out->len = n - 1;
	out->flags = cut;
	out->mode = 0;
	return 0;
}

PG_INLINE long pg_read_kernel_string(struct pg_string *out, __u64 address)
{
	long n = bpf_probe_read_kernel_str(out->data, PG_STRING_MAX + 1, (const void *)address);

	return pg_text_read(out, n, n > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0);
}

/* A size in bytes that the verifier knows to be PG_STRING_MAX at most. */
PG_INLINE __u32 pg_bounded(__u64 size)
{
	__u64 n = size > PG_STRING_MAX ? PG_STRING_MAX : size;

	pg_opaque(n);
	n &= 0x1fff;
	if (n > PG_STRING_MAX)
		n = PG_STRING_MAX;
	return n;
}

/* The text in an array of `size` bytes, which need not end with a NUL. */
PG_INLINE long pg_read_kernel_array(struct pg_string *out, __u64 address, __u64 size)
{
	long n = bpf_probe_read_kernel_str(out->data, pg_bounded(size) + 1, (const void *)address);

	return pg_text_read(out, n, n > PG_STRING_MAX && size > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0);
}

PG_INLINE long pg_read_user_array(struct pg_string *out, __u64 address, __u64 size)
{
	long n = bpf_probe_read_user_str(out->data, pg_bounded(size) + 1, (const void *)address);

	return pg_text_read(out, n, n > PG_STRING_MAX && size > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0);
}

PG_INLINE long pg_read_kernel_bytes(struct pg_string *out, __u64 address, __u64 size)
{
	__u32 n = pg_bounded(size);
	long error = bpf_probe_read_kernel(out->data, n, (const void *)address);

	if (error)
		return pg_no_value(out, error);
	out->len = n;
	out->flags = size > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0;
	out->mode = size > PG_MAX_U32 ? PG_MAX_U32 : size;
	return 0;
}

/* Where the reading of an array is, in a work area: in map memory the verifier does not follow values. */
struct pg_segments {
	__u64 base; /* what is to be read of the present one: struct iovec */
	__u64 size;
	__u64 next; /* address of the next struct iovec */
	__u64 left; /* how many there are from there on */
	__u64 error;
};

/*
 * The next segment, when the present one has been read. room: bytes in the slot. in_user: the array, a constant. Gives
 * 0 at the end, when there is no room, and after memory that could not be read.
 */
PG_INLINE int pg_next_segment(struct pg_segments *at, __u64 room, int in_user)
{
	__u64 left = pg_once(at->left), next = pg_once(at->next);
	__u64 done = pg_is_set(pg_once(at->size)) ^ 1, n = done * sizeof(struct iovec);
	long error;

	if (((pg_is_set(left) ^ 1) & done) | (pg_is_set(room) ^ 1) | pg_once(at->error))
		return 0;
	pg_opaque(n);
	n &= sizeof(struct iovec);
	if (in_user)
		error = bpf_probe_read_user(at, n, (const void *)next);
	else
		error = bpf_probe_read_kernel(at, n, (const void *)next);
	pg_once(at->error) = error;
	pg_once(at->next) = next + n;
	pg_once(at->left) = left - done;
	return 1;
}

/* A piece of the present segment. How much was read stands in out->len. Gives 0 at the end. */
PG_INLINE int pg_read_piece(struct pg_string *out, struct pg_segments *at, int in_user)
{
	__u64 have = pg_once(out->len), room = PG_STRING_MAX - have, size, base, n;
	long error;

	if (!pg_next_segment(at, room, in_user))
		return 0;
	base = pg_once(at->base);
	size = pg_once(at->size);
	n = pg_least(pg_choose(pg_is_set(size / (PG_PIECE + 1)), PG_PIECE, size), room);
	pg_opaque(n);
	n &= PG_PIECE;
	pg_opaque(have);
	have &= PG_STRING_MAX - 1;
	error = bpf_probe_read_user(&out->data[have], n, (const void *)base);
	pg_once(at->error) |= error;
	n *= pg_is_error(error) ^ 1;
	pg_once(at->base) = base + n;
	pg_once(at->size) = size - n;
	pg_once(out->len) = have + n;
	return 1;
}

/*
 * The segments of an array of `count` struct iovec one behind the other. What was read before memory that cannot be
 * read is kept and flagged as cut.
 */
PG_INLINE long pg_read_segments(struct pg_string *out, __u64 address, __u64 count, int in_user)
{
	struct pg_string *work = pg_beside(out, PG_SLOT_WORK);
	struct pg_segments *at;
	long error;
	__u64 i;

	if (!work)
		return pg_no_value(out, -PG_EFAULT);
	at = (struct pg_segments *)work->data;
	pg_once(at->size) = 0;
	pg_once(at->next) = address;
	pg_once(at->left) = count;
	pg_once(at->error) = 0;
	pg_once(out->len) = 0;
	out->mode = 0;
	for (i = 0; i < PG_PIECES; i++)
		if (!pg_read_piece(out, at, in_user))
			break;
	error = pg_once(at->error);
	if (error && !pg_once(out->len))
		return pg_no_value(out, error);
	out->flags = error || pg_once(at->left) || pg_once(at->size) ? PG_STRING_CUT_TAIL : 0;
	return error;
}

PG_INLINE long pg_read_user_iovec(struct pg_string *out, __u64 address, __u64 count)
{
	return pg_read_segments(out, address, count, 1);
}

PG_INLINE long pg_read_kernel_iovec(struct pg_string *out, __u64 address, __u64 count)
{
	return pg_read_segments(out, address, count, 0);
}

/* What of `size` bytes at an address in user memory is readable; mode: the bytes of the whole. */
PG_INLINE long pg_read_iter_user(struct pg_string *out, __u64 address, __u64 size)
{
	long error = pg_read_user_bytes(out, address, size);

	return error && out->len ? 0 : error;
}

/* struct iov_iter: the bytes of its first segment from where it stands. mode: the bytes of all segments. */
PG_INLINE long pg_read_iov_iter(struct pg_string *out, __u64 address)
{
	const struct iov_iter *iter = (const struct iov_iter *)address;
	struct iovec segment = {};
	size_t offset = 0, count = 0;
	__u64 base = 0;
	u8 type = 0;
	long error = pg_read(type, &iter->iter_type);

	if (error)
		return pg_no_value(out, error);
	pg_read(offset, &iter->iov_offset);
	pg_read(count, &iter->count);
	pg_read(base, &iter->ubuf); /* in one union with the arrays' addresses */
	error = -PG_EFAULT;
	if (type == ITER_IOVEC || type == ITER_KVEC) {
		bpf_probe_read_kernel(&segment, sizeof(segment), (const void *)base);
		base = (__u64)segment.iov_base;
		segment.iov_len = segment.iov_len > offset ? segment.iov_len - offset : 0;
	} else {
		segment.iov_len = count;
	}
	if (segment.iov_len > count)
		segment.iov_len = count;
	if (type == ITER_IOVEC || type == ITER_UBUF)
		error = pg_read_iter_user(out, base + offset, segment.iov_len);
	else if (type == ITER_KVEC)
		error = pg_read_kernel_bytes(out, base + offset, segment.iov_len);
	if (error)
		pg_no_value(out, error);
	else if (segment.iov_len < count)
		out->flags |= PG_STRING_CUT_TAIL;
	out->mode = count > PG_MAX_U32 ? PG_MAX_U32 : count;
	return error;
}

#endif
