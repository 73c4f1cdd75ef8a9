/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a dentry up to the process's root, across mounts, as d_path() of fs/d_path.c does it, without its locks: a
 * rename at the same moment can give a mixture of both names. The text grows from the end of a work area towards its
 * begin.
 *
 * Where it begins is kept in work->len, and where the walk is in the room behind PG_STRING_MAX, beside a copy of what
 * was read of a dentry or a mount: in map memory the verifier does not follow values, and the states of a loop stay
 * alike.
 */
#ifndef PG_LIB_WALK_H
#define PG_LIB_WALK_H

#include "lib/kernel.h"
#include "lib/straight.h"
#include "maps/strings.h"

/* Components and mounts on the way. A path of PATH_MAX bytes can have 2,048; each costs the verifier some 100
 * instructions, and one of 8,192 branches, in every path that a program reads. */
#define PG_PATH_DEPTH 256

/* How a walk ends. */
#define PG_WALK_ROOT 0 /* at the process's root, or of a dentry alone at its file system's */
#define PG_WALK_LOST 1 /* at the top of a tree of mounts, or in a directory outside of what is mounted */
#define PG_WALK_CUT 2  /* before its end: no room, or too many steps */

/* In map memory: members are loaded and stored through pg_once. */
struct pg_walk {
	const struct dentry *dentry;
	const struct vfsmount *mnt;
	const struct dentry *root_dentry;
	const struct vfsmount *root_mnt;
};

/* Of the room behind PG_STRING_MAX: a dentry, a mount, the walk. */
#define PG_MOUNT_AT 128
#define PG_WALK_AT 192
#define PG_MOUNT_MASK 63
_Static_assert(PG_WALK_AT + sizeof(struct pg_walk) <= PG_STRING_ROOM - PG_STRING_MAX, "room for a walk");

#define PG_MAX(a, b) ((a) > (b) ? (a) : (b))
#define pg_end(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))

/* As much of each structure as holds the members that are looked at. */
#define PG_DENTRY_BYTES                                                                                                \
	PG_MAX(PG_MAX(pg_end(struct dentry, d_parent), pg_end(struct dentry, d_name)),                                 \
	       PG_MAX(PG_MAX(pg_end(struct dentry, d_hash), pg_end(struct dentry, d_inode)),                           \
		      PG_MAX(pg_end(struct dentry, d_op), pg_end(struct dentry, d_sb))))
#define PG_MOUNT_BYTES                                                                                                 \
	PG_MAX(PG_MAX(pg_end(struct mount, mnt_parent), pg_end(struct mount, mnt_mountpoint)),                         \
	       pg_end(struct mount, mnt.mnt_root))
_Static_assert(PG_DENTRY_BYTES <= PG_MOUNT_AT, "room for a dentry");
_Static_assert(PG_MOUNT_BYTES <= PG_MOUNT_MASK, "room for a mount");

PG_INLINE struct dentry *pg_dentry_copy(struct pg_string *work)
{
	return (struct dentry *)&work->data[PG_STRING_MAX];
}

PG_INLINE struct mount *pg_mount_copy(struct pg_string *work)
{
	return (struct mount *)&work->data[PG_STRING_MAX + PG_MOUNT_AT];
}

PG_INLINE struct pg_walk *pg_walk_of(struct pg_string *work)
{
	return (struct pg_walk *)&work->data[PG_STRING_MAX + PG_WALK_AT];
}

/* The mount that a vfsmount is in. wanted: 1, or 0 to leave the copy as it is. */
PG_INLINE void pg_copy_mount(struct pg_string *work, const struct vfsmount *mnt, __u64 wanted)
{
	__u64 n = PG_MOUNT_BYTES * wanted;

	pg_opaque(n);
	n &= PG_MOUNT_MASK;
	bpf_probe_read_kernel(pg_mount_copy(work), n, (const char *)mnt - offsetof(struct mount, mnt));
}

/* Where a walk is, read anew. Numbers are 0 or 1. */
struct pg_place {
	const struct dentry *dentry, *parent, *mountpoint;
	const struct vfsmount *mnt, *above;
	__u64 away;  /* from the process's root */
	__u64 below; /* the mount's root */
	__u64 ends;  /* there is nothing above */
	__u32 len;   /* of the name */
};

/* mounted: whether mounts are looked at, a constant. */
PG_INLINE struct pg_place pg_place_of(struct pg_string *work, int mounted)
{
	const struct dentry *copy = pg_dentry_copy(work);
	const struct mount *mount = pg_mount_copy(work);
	const struct pg_walk *walk = pg_walk_of(work);
	struct pg_place at = {.dentry = pg_once(walk->dentry), .away = 1, .below = 1};
	__u64 failed, top = 0;

	if (mounted) {
		at.mnt = pg_once(walk->mnt);
		at.above = &pg_once(mount->mnt_parent)->mnt;
		at.mountpoint = pg_once(mount->mnt_mountpoint);
		at.away = pg_is_set(((__u64)at.dentry ^ (__u64)pg_once(walk->root_dentry)) |
				    ((__u64)at.mnt ^ (__u64)pg_once(walk->root_mnt)));
		at.below = pg_is_set((__u64)at.dentry ^ (__u64)pg_once(mount->mnt.mnt_root));
		top = (at.below | pg_is_set((__u64)at.mnt ^ (__u64)at.above)) ^ 1;
	}
	failed = pg_is_error(bpf_probe_read_kernel(pg_dentry_copy(work), PG_DENTRY_BYTES, at.dentry));
	at.parent = pg_once(copy->d_parent);
	at.ends = top | failed | ((pg_is_set((__u64)at.parent ^ (__u64)at.dentry) | (at.below ^ 1)) ^ 1);
	at.len = pg_once(copy->d_name.len) & 0xff; /* NAME_MAX */
	return at;
}

/*
 * One step up: to the parent, which puts "/name" in front of the text, or from a mount's root to the directory that it
 * is mounted on, which puts nothing there: the slash that it writes is there already. Gives 0 at the end.
 */
PG_INLINE int pg_walk_up(struct pg_string *work, int mounted)
{
	struct pg_place at = pg_place_of(work, mounted);
	struct pg_walk *walk = pg_walk_of(work);
	__u64 len = at.len * at.below, start = (__u64)pg_once(work->len) - len - at.below;

	if ((at.away ^ 1) | at.ends | start >> 63)
		return 0;
	pg_once(work->len) = start;
	pg_opaque(start);
	start &= PG_STRING_MAX - 1; /* PG_STRING_MAX itself, of an empty text: the slash goes where nothing is */
	pg_opaque(len);
	len &= 0xff;
	work->data[start] = '/';
	bpf_probe_read_kernel(&work->data[start + 1], len, pg_once(pg_dentry_copy(work)->d_name.name));
	if (mounted) {
		pg_once(walk->mnt) = (void *)pg_choose(at.below, (__u64)at.mnt, (__u64)at.above);
		pg_copy_mount(work, at.above, at.below ^ 1);
		at.parent = (void *)pg_choose(at.below, (__u64)at.parent, (__u64)at.mountpoint);
	}
	pg_once(walk->dentry) = at.parent;
	return 1;
}

/* Why a walk has ended where it is. */
PG_INLINE int pg_walk_end(struct pg_string *work, int mounted)
{
	struct pg_place at = pg_place_of(work, mounted);

	if (!at.away)
		return PG_WALK_ROOT;
	if (at.ends)
		return mounted ? PG_WALK_LOST : PG_WALK_ROOT;
	return PG_WALK_CUT;
}

#endif
