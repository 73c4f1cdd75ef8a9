/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An open file's path as its process sees it: from the file's dentry up to the process's root, across mounts, as
 * d_path() of fs/d_path.c does it, without its locks: a rename at the same moment can give a mixture of both names.
 */
#ifndef PG_LIB_PATH_H
#define PG_LIB_PATH_H

#include "lib/kernel.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_PATH_DEPTH 128

struct pg_walk {
	struct dentry *dentry;
	struct vfsmount *mnt;
	struct dentry *root_dentry;
	struct vfsmount *root_mnt;
};

/*
 * Puts "/name" in front of the text, which grows towards the work area's begin. Where it begins is kept in work->len:
 * in map memory the verifier does not follow the value, and the loop's states stay alike. Gives 0 when there is no
 * room.
 */
PG_INLINE int pg_walk_name(struct pg_walk *walk, struct pg_string *work)
{
	const unsigned char *name = NULL;
	__u32 stored = 0, len, start = pg_once(work->len);

	pg_read(name, &walk->dentry->d_name.name);
	pg_read(stored, &walk->dentry->d_name.len);
	len = stored;
	pg_opaque(len);
	len &= 0xff; /* NAME_MAX */
	if (start < len + 1)
		return 0;
	start = start - len - 1;
	pg_opaque(start);
	start &= PG_STRING_MAX - 1;
	work->data[start] = '/';
	bpf_probe_read_kernel(&work->data[start + 1], len, name);
	pg_once(work->len) = start;
	return 1;
}

/* From a mount's root to the directory it is mounted on. Gives 0 at the top of the tree. */
PG_INLINE int pg_walk_mount(struct pg_walk *walk)
{
	struct mount *mount = (struct mount *)((char *)walk->mnt - offsetof(struct mount, mnt));
	struct mount *parent = NULL;

	pg_read(parent, &mount->mnt_parent);
	if (!parent || parent == mount)
		return 0;
	pg_read(walk->dentry, &mount->mnt_mountpoint);
	walk->mnt = &parent->mnt;
	return 1;
}

/* One step up. Gives 1 to go on, 0 at the end, -1 when there is no room. */
PG_INLINE int pg_walk_up(struct pg_walk *walk, struct pg_string *work)
{
	struct dentry *parent = NULL, *mnt_root = NULL;

	if (!walk->dentry || (walk->dentry == walk->root_dentry && walk->mnt == walk->root_mnt))
		return 0;
	pg_read(mnt_root, &walk->mnt->mnt_root);
	if (walk->dentry == mnt_root)
		return pg_walk_mount(walk);
	pg_read(parent, &walk->dentry->d_parent);
	if (!pg_walk_name(walk, work))
		return -1;
	if (parent == walk->dentry) /* a pipe, a socket: its name leads nowhere */
		return 0;
	walk->dentry = parent;
	return 1;
}

PG_INLINE void pg_walk_finish(struct pg_string *work, struct pg_string *out, int more)
{
	__u32 start = pg_once(work->len) & (2 * PG_STRING_MAX - 1);
	__u32 len = PG_STRING_MAX - start;

	pg_opaque(len);
	len &= 0x1fff;
	if (len > PG_STRING_MAX)
		len = PG_STRING_MAX;
	out->flags = more ? PG_STRING_CUT_HEAD : 0;
	if (more)
		pg_count(PG_COUNT_PATH_TOO_DEEP);
	if (!len) {
		out->data[0] = '/';
		out->len = 1;
		return;
	}
	bpf_probe_read_kernel(out->data, len, &work->data[start & (PG_STRING_MAX - 1)]);
	out->len = len;
}

PG_INLINE void pg_read_path(struct pg_string *out, struct task_struct *task, const struct file *file)
{
	struct pg_string *work = pg_string(PG_SLOT_WORK);
	struct pg_walk walk = {};
	struct fs_struct *fs = NULL;
	int i, more = 1;

	out->len = 0;
	out->flags = PG_STRING_UNREADABLE;
	if (!work || !file)
		return;
	work->len = PG_STRING_MAX;
	pg_read(walk.dentry, &file->f_path.dentry);
	pg_read(walk.mnt, &file->f_path.mnt);
	pg_read(fs, &task->fs);
	pg_read(walk.root_dentry, &fs->root.dentry);
	pg_read(walk.root_mnt, &fs->root.mnt);
	for (i = 0; i < PG_PATH_DEPTH && more == 1; i++)
		more = pg_walk_up(&walk, work);
	pg_walk_finish(work, out, more);
}

PG_INLINE void pg_read_binary(struct pg_string *out)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct *mm = NULL;
	struct file *file = NULL;

	pg_read(mm, &task->mm);
	if (mm)
		pg_read(file, &mm->exe_file);
	pg_read_path(out, task, file);
}

PG_INLINE void pg_read_fd_path(struct pg_string *out, __s32 fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **array = NULL, *file = NULL;
	__u32 max = 0;

	pg_read(files, &task->files);
	pg_read(table, &files->fdt);
	pg_read(max, &table->max_fds);
	pg_read(array, &table->fd);
	if (fd >= 0 && (__u32)fd < max)
		pg_read(file, &array[fd]);
	pg_read_path(out, task, file);
}

#endif
