/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files as their process sees them: the path from the process's root, whatever mounts are on the way, and in `mode` the
 * inode's i_mode. Flags: PG_STRING_DELETED for a path whose last name is gone, PG_STRING_OUTSIDE for one that does not
 * lead to the process's root, PG_STRING_CUT_HEAD for one that is deeper than PG_PATH_DEPTH: its root's side is missing.
 */
#ifndef PG_LIB_PATH_H
#define PG_LIB_PATH_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "lib/pseudo.h"
#include "lib/walk.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_EBADF 9 /* include/uapi/asm-generic/errno-base.h */

PG_INLINE long pg_walk_finish(struct pg_string *work, struct pg_string *out, __u32 flags)
{
	__u32 start = pg_once(work->len) & (2 * PG_STRING_MAX - 1);
	__u32 len = PG_STRING_MAX - start;

	pg_opaque(len);
	len &= 0x1fff;
	if (len > PG_STRING_MAX)
		len = PG_STRING_MAX;
	out->flags = flags;
	if (!len) {
		out->data[0] = '/';
		out->len = 1;
		return 0;
	}
	bpf_probe_read_kernel(out->data, len, &work->data[start & (PG_STRING_MAX - 1)]);
	out->len = len;
	return 0;
}

/* What the end of a walk says of its text. */
PG_INLINE __u32 pg_walk_flags(int end)
{
	if (end == PG_WALK_CUT)
		pg_count(PG_COUNT_PATH_TOO_DEEP);
	return end == PG_WALK_ROOT ? 0 : end == PG_WALK_LOST ? PG_STRING_OUTSIDE : PG_STRING_CUT_HEAD;
}

/*
 * What a copied dentry says of itself, 0 or 1. Without branches: the verifier would follow the walk behind them on each
 * way.
 *
 * d_unlinked() of include/linux/dcache.h.
 */
PG_INLINE __u64 pg_is_deleted(const struct dentry *dentry, const struct dentry *copy)
{
	return (pg_is_set((__u64)pg_once(copy->d_hash.pprev)) ^ 1) &
	       pg_is_set((__u64)pg_once(copy->d_parent) ^ (__u64)dentry);
}

/* Whether a dentry is in no directory, and names itself. top: of its mount. */
PG_INLINE __u64 pg_is_pseudo(const struct dentry *dentry, const struct dentry *copy, const struct dentry *top)
{
	const struct dentry_operations *operations = pg_once(copy->d_op);
	__u64 names = 0;

	bpf_probe_read_kernel(&names, sizeof(names), &operations->d_dname);
	return (pg_is_set((__u64)pg_once(copy->d_parent) ^ (__u64)dentry) ^ 1) & pg_is_set((__u64)dentry ^ (__u64)top) &
	       pg_is_set(names);
}

/* From where the walk in a work area is. mounted: a constant. */
PG_INLINE long pg_walk(struct pg_string *work, struct pg_string *out, int mounted)
{
	const struct dentry *dentry = pg_once(pg_walk_of(work)->dentry), *copy = pg_dentry_copy(work);
	const struct dentry *top = mounted ? pg_once(pg_mount_copy(work)->mnt.mnt_root) : NULL;
	const struct inode *inode;
	umode_t mode = 0;
	__u32 flags;
	__u64 i;

	if (bpf_probe_read_kernel(pg_dentry_copy(work), PG_DENTRY_BYTES, dentry))
		return pg_no_value(out, -PG_EFAULT);
	inode = copy->d_inode;
	pg_read(mode, &inode->i_mode);
	out->mode = mode;
	pg_once(work->len) = PG_STRING_MAX;
	if (pg_is_pseudo(dentry, copy, top))
		return pg_walk_finish(work, out, pg_put_pseudo(work, copy));
	flags = PG_STRING_DELETED * pg_is_deleted(dentry, copy);
	for (i = 0; i < PG_PATH_DEPTH; i++)
		if (!pg_walk_up(work, mounted))
			break;
	return pg_walk_finish(work, out, flags | pg_walk_flags(pg_walk_end(work, mounted)));
}

/* As seen from the root of `task`. */
PG_INLINE long pg_read_path(struct pg_string *out, const struct task_struct *task, const struct path *path)
{
	struct pg_string *work = pg_beside(out, PG_SLOT_WORK);
	const struct fs_struct *fs = NULL;
	struct pg_walk *walk;

	if (!work)
		return pg_no_value(out, -PG_EFAULT);
	walk = pg_walk_of(work);
	pg_read(walk->dentry, &path->dentry);
	pg_read(walk->mnt, &path->mnt);
	pg_read(fs, &task->fs);
	pg_read(walk->root_dentry, &fs->root.dentry);
	pg_read(walk->root_mnt, &fs->root.mnt);
	pg_copy_mount(work, pg_once(walk->mnt), 1);
	return pg_walk(work, out, 1);
}

/* Each address: of the structure in kernel memory that the name says. */
PG_INLINE long pg_read_path_struct(struct pg_string *out, __u64 address)
{
	return pg_read_path(out, (const struct task_struct *)bpf_get_current_task(), (const struct path *)address);
}

PG_INLINE long pg_read_file_of(struct pg_string *out, const struct task_struct *task, const struct file *file)
{
	return file ? pg_read_path(out, task, &file->f_path) : pg_no_value(out, -PG_EFAULT);
}

PG_INLINE long pg_read_file(struct pg_string *out, __u64 address)
{
	return pg_read_file_of(out, (const struct task_struct *)bpf_get_current_task(), (const struct file *)address);
}

/* A dentry is in a file system, which may be mounted anywhere: the path from that file system's root. */
PG_INLINE long pg_read_dentry(struct pg_string *out, __u64 address)
{
	struct pg_string *work = pg_beside(out, PG_SLOT_WORK);

	if (!work)
		return pg_no_value(out, -PG_EFAULT);
	pg_once(pg_walk_of(work)->dentry) = (const struct dentry *)address;
	return pg_walk(work, out, 0);
}

PG_INLINE long pg_read_kiocb(struct pg_string *out, __u64 address)
{
	const struct kiocb *kiocb = (const struct kiocb *)address;
	const struct file *file = NULL;

	pg_read(file, &kiocb->ki_filp);
	return pg_read_file(out, (__u64)file);
}

/* struct filename: the text that the process gave, as the kernel copied it. */
PG_INLINE long pg_read_filename(struct pg_string *out, __u64 address)
{
	const struct filename *filename = (const struct filename *)address;
	const char *name = NULL;

	pg_read(name, &filename->name);
	return pg_read_kernel_string(out, (__u64)name);
}

/* struct linux_binprm: the file that is executed; where it has none yet, the text that the process gave. */
PG_INLINE long pg_read_binprm(struct pg_string *out, __u64 address)
{
	const struct linux_binprm *bprm = (const struct linux_binprm *)address;
	const struct file *file = NULL;
	const char *name = NULL;

	pg_read(file, &bprm->file);
	if (file)
		return pg_read_file(out, (__u64)file);
	pg_read(name, &bprm->filename);
	return pg_read_kernel_string(out, (__u64)name);
}

PG_INLINE long pg_read_binary_of(struct pg_string *out, const struct task_struct *task)
{
	const struct mm_struct *mm = NULL;
	const struct file *file = NULL;

	pg_read(mm, &task->mm);
	if (mm)
		pg_read(file, &mm->exe_file);
	return pg_read_file_of(out, task, file);
}

PG_INLINE long pg_read_binary(struct pg_string *out)
{
	return pg_read_binary_of(out, (const struct task_struct *)bpf_get_current_task());
}

/* As the parent sees it: it may be outside of the process's container. */
PG_INLINE long pg_read_parent_binary_of(struct pg_string *out, const struct task_struct *task)
{
	const struct task_struct *parent = NULL;

	pg_read(parent, &task->real_parent);
	return parent ? pg_read_binary_of(out, parent) : pg_no_value(out, -PG_EFAULT);
}

PG_INLINE long pg_read_parent_binary(struct pg_string *out)
{
	return pg_read_parent_binary_of(out, (const struct task_struct *)bpf_get_current_task());
}

PG_INLINE const struct file *pg_file_of_fd(__s32 fd)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();
	const struct files_struct *files = NULL;
	const struct fdtable *table = NULL;
	struct file *const *array = NULL;
	const struct file *file = NULL;
	__u32 max = 0;

	pg_read(files, &task->files);
	pg_read(table, &files->fdt);
	pg_read(max, &table->max_fds);
	pg_read(array, &table->fd);
	if (fd >= 0 && (__u32)fd < max)
		pg_read(file, &array[fd]);
	return file;
}

/* A descriptor of the process. */
PG_INLINE long pg_read_fd_path(struct pg_string *out, __s32 fd)
{
	const struct file *file = pg_file_of_fd(fd);

	return file ? pg_read_file(out, (__u64)file) : pg_no_value(out, -PG_EBADF);
}

#endif
