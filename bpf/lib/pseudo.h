/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The names of files that are in no directory: pipes, sockets, namespaces and the kernel's anonymous inodes, in the
 * words of their d_dname functions, as the links of /proc/PID/fd have them. Memory files have a name of their own, with
 * a slash in front; the kernel calls them deleted.
 */
#ifndef PG_LIB_PSEUDO_H
#define PG_LIB_PSEUDO_H

#include "lib/walk.h"

/* include/uapi/linux/magic.h */
#define PG_MAGIC_PIPE 0x50495045
#define PG_MAGIC_SOCKET 0x534f434b
#define PG_MAGIC_ANON_INODE 0x09041934
#define PG_MAGIC_NAMESPACE 0x6e736673
#define PG_MAGIC_PID 0x50494446

#define PG_DIGITS 20	/* of a number of 64 bits */
#define PG_NAME_ROOM 32 /* "pid_for_children" */

/* Up to eight characters as a number, the last ones of those given. */
#define pg_characters(a, b, c, d, e, f, g, h)                                                                          \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | (__u64)(f) << 40 |    \
	 (__u64)(g) << 48 | (__u64)(h) << 56)

/* Puts n bytes of kernel memory in front of the text, NAME_MAX at most. */
PG_INLINE void pg_put(struct pg_string *work, const void *from, __u32 n)
{
	__u32 start = pg_once(work->len);

	pg_opaque(n);
	n &= 0xff;
	start -= n;
	pg_opaque(start);
	start &= PG_STRING_MAX - 1;
	bpf_probe_read_kernel(&work->data[start], n, from);
	pg_once(work->len) = start;
}

/* Puts the last n of eight characters in front of the text; what was written before it is further back. */
PG_INLINE void pg_put_word(struct pg_string *work, __u64 word, __u32 n)
{
	__u32 start = pg_once(work->len) - sizeof(word);

	pg_opaque(start);
	start &= PG_STRING_MAX - 1;
	bpf_probe_read_kernel(&work->data[start], sizeof(word), &word);
	pg_once(work->len) = start + sizeof(word) - n;
}

/* ":[number]" */
PG_INLINE void pg_put_number(struct pg_string *work, __u64 number)
{
	int i;

	pg_put_word(work, pg_characters(0, 0, 0, 0, 0, 0, 0, ']'), 1);
	for (i = 0; i < PG_DIGITS; i++) {
		pg_put_word(work, ('0' + number % 10) << 56, 1);
		number /= 10;
		if (!number)
			break;
	}
	pg_put_word(work, pg_characters(0, 0, 0, 0, 0, 0, ':', '['), 2);
}

/* "mnt" of "mnt:[number]": what the file's namespace is called (ns_dname of fs/nsfs.c). */
PG_INLINE void pg_put_namespace(struct pg_string *work, const struct inode *inode)
{
	const struct proc_ns_operations *operations = NULL;
	const struct ns_common *namespace = NULL;
	const char *name = NULL;
	long n;

	pg_read(namespace, &inode->i_private);
	pg_read(operations, &namespace->ops);
	pg_read(name, &operations->name);
	n = bpf_probe_read_kernel_str(&work->data[PG_STRING_MAX], PG_NAME_ROOM, name);
	if (n > 1)
		pg_put(work, name, n - 1);
}

/*
 * The name of a file that is its own parent, from the copy of its dentry, which is lost. Gives the flags that the text
 * is to have.
 */
PG_INLINE __u32 pg_put_pseudo(struct pg_string *work, const struct dentry *copy)
{
	const struct super_block *super = copy->d_sb;
	const struct inode *inode = copy->d_inode;
	unsigned long magic = 0, number = 0;

	pg_read(magic, &super->s_magic);
	pg_read(number, &inode->i_ino);
	if (magic == PG_MAGIC_ANON_INODE || magic == PG_MAGIC_PID) {
		if (magic == PG_MAGIC_PID)
			pg_put_word(work, pg_characters(0, '[', 'p', 'i', 'd', 'f', 'd', ']'), 7);
		else
			pg_put(work, copy->d_name.name, copy->d_name.len);
		pg_put_word(work, pg_characters(0, '_', 'i', 'n', 'o', 'd', 'e', ':'), 7);
		pg_put_word(work, pg_characters(0, 0, 0, 0, 'a', 'n', 'o', 'n'), 4);
		return 0;
	}
	if (magic != PG_MAGIC_PIPE && magic != PG_MAGIC_SOCKET && magic != PG_MAGIC_NAMESPACE) {
		pg_put(work, copy->d_name.name, copy->d_name.len);
		pg_put_word(work, pg_characters(0, 0, 0, 0, 0, 0, 0, '/'), 1);
		return PG_STRING_DELETED;
	}
	pg_put_number(work, number);
	if (magic == PG_MAGIC_PIPE)
		pg_put_word(work, pg_characters(0, 0, 0, 0, 'p', 'i', 'p', 'e'), 4);
	else if (magic == PG_MAGIC_SOCKET)
		pg_put_word(work, pg_characters(0, 0, 's', 'o', 'c', 'k', 'e', 't'), 6);
	else
		pg_put_namespace(work, inode);
	return 0;
}

#endif
