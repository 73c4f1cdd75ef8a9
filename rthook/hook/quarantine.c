// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* getdents64 */
#include "hook/quarantine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The agent's names in its directory in bpffs; a generation is such a directory. */
#define PROGRAM "/quarantine"
#define LINKS "/links"
#define PREVIOUS "-previous"

struct run {
	const char *pin_dir;
	const struct quarantine *quarantine;
	struct text *why;
	unsigned int bound; /* generations */
	bool unready;	    /* one has links, and no program */
};

static bool fail(struct run *run, const char *what, int error)
{
	text_add(run->why, what);
	text_add(run->why, ": ");
	text_add_error(run->why, error);
	return false;
}

static long bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* The program's descriptor, or a negative errno. */
static int open_program(const char *path)
{
	union bpf_attr attr;
	long fd;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = (uintptr_t)path;
	fd = bpf(BPF_OBJ_GET, &attr);
	return fd < 0 ? -errno : (int)fd;
}

/* 0, or a negative errno: the call's or the program's own. */
static int run_program(int fd, const struct quarantine *quarantine)
{
	uint64_t args[] = {quarantine->cgroup_id, quarantine->pid};
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (uint32_t)fd;
	attr.test.ctx_in = (uintptr_t)args;
	attr.test.ctx_size_in = sizeof(args);
	if (bpf(BPF_PROG_TEST_RUN, &attr))
		return -errno;
	return (int32_t)attr.test.retval;
}

/* Puts pieces together, with a NUL behind them; false when they are longer than a path may be. */
static bool join(char path[PATH_MAX], const char *first, const char *second, const char *third)
{
	struct text text = {.bytes = path, .size = PATH_MAX - 1};

	text_add(&text, first);
	text_add(&text, second);
	text_add(&text, third);
	path[text.length] = 0;
	return text.length < text.size;
}

/* Calls `visit` for each directory in one; 0, or what it gave, or an errno. */
static int each_entry(const char *directory, int (*visit)(void *context, const struct dirent64 *entry), void *context)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
	_Alignas(struct dirent64) char entries[4096];
	const struct dirent64 *entry;
	ssize_t got = 0, at;

	if (fd < 0)
		return errno;
	while (!result && (got = getdents64(fd, entries, sizeof(entries))) > 0)
		for (at = 0; !result && at < got; at += entry->d_reclen) {
			entry = (const struct dirent64 *)(entries + at);
			if (entry->d_name[0] != '.')
				result = visit(context, entry);
		}
	if (got < 0)
		result = errno;
	close(fd);
	return result;
}

static int stop_at_any(void *context, const struct dirent64 *entry)
{
	(void)context;
	(void)entry;
	return EEXIST;
}

/*
 * What enforces in a generation are its links. Without the program it is on its way in, with rules that are not all in
 * force, or on its way out: another one has to answer. A starting agent takes over what was bound in earlier ones until
 * its program was there.
 */
static bool has_links(const char *directory)
{
	char path[PATH_MAX];
	int found;

	if (!join(path, directory, LINKS, ""))
		return true;
	found = each_entry(path, stop_at_any, NULL);
	return found && found != ENOENT;
}

static bool run_generation(struct run *run, const char *directory)
{
	char path[PATH_MAX];
	int fd, result;

	if (!join(path, directory, PROGRAM, ""))
		return fail(run, directory, ENAMETOOLONG);
	fd = open_program(path);
	if (fd == -ENOENT) {
		run->unready |= has_links(directory);
		return true;
	}
	if (fd < 0)
		return fail(run, path, -fd);
	result = run_program(fd, run->quarantine);
	close(fd);
	if (result)
		return fail(run, path, result < 0 ? -result : EBADMSG);
	run->bound++;
	return true;
}

/* 0, or ECANCELED once `why` has been said. */
static int run_entry(void *context, const struct dirent64 *entry)
{
	struct run *run = context;
	char previous[PATH_MAX], path[PATH_MAX];

	if (entry->d_type != DT_DIR)
		return 0;
	if (!join(previous, run->pin_dir, PREVIOUS, "/") || !join(path, previous, entry->d_name, "")) {
		fail(run, entry->d_name, ENAMETOOLONG);
		return ECANCELED;
	}
	return run_generation(run, path) ? 0 : ECANCELED;
}

static bool run_previous(struct run *run)
{
	char path[PATH_MAX];
	int error;

	if (!join(path, run->pin_dir, PREVIOUS, ""))
		return fail(run, run->pin_dir, ENAMETOOLONG);
	error = each_entry(path, run_entry, run);
	if (!error || error == ENOENT)
		return true;
	return error == ECANCELED ? false : fail(run, path, error);
}

bool quarantine_run(const char *pin_dir, const struct quarantine *quarantine, struct text *why)
{
	struct run run = {.pin_dir = pin_dir, .quarantine = quarantine, .why = why};

	/* A starting agent moves the first of these to the others: once more, so that its own one is not missed. */
	if (!run_generation(&run, pin_dir) || !run_previous(&run) || !run_generation(&run, pin_dir))
		return false;
	if (!run.bound) {
		text_add(why, pin_dir);
		text_add(why,
			 run.unready ? ": an agent starts or stops there" : ": no agent's programs are pinned there");
	}
	return run.bound;
}
