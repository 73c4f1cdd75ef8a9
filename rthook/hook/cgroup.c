// SPDX-License-Identifier: Apache-2.0
#include "hook/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* PROC_PID_INIT_INO of include/linux/proc_ns.h: the number of the initial pid namespace. */
#define INITIAL_PID_NAMESPACE 0xEFFFFFFC
/* Some 15 hierarchies, each with a path of PATH_MAX at most. */
#define MAX_CGROUP_FILE (64 << 10)

static const char deleted[] = " (deleted)";

static bool fail(struct text *why, const char *what, int error)
{
	text_add(why, what);
	if (error) {
		text_add(why, ": ");
		text_add_error(why, error);
	}
	return false;
}

static bool check_pid_namespace(struct text *why)
{
	struct stat status;

	if (stat("/proc/self/ns/pid", &status))
		return fail(why, "/proc/self/ns/pid", errno);
	if (status.st_ino != INITIAL_PID_NAMESPACE)
		return fail(why, "the hook is not in the initial pid namespace, the kernel has other numbers", 0);
	return true;
}

/* The whole file with a NUL behind it. */
static bool read_file(const char *path, char *bytes, size_t size, struct text *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
	size_t length = 0;
	ssize_t got = 0;

	if (fd < 0)
		return fail(why, path, errno);
	while (length < size - 1 && (got = read(fd, bytes + length, size - 1 - length)) > 0)
		length += (size_t)got;
	if (got < 0)
		error = errno;
	close(fd);
	bytes[length] = 0;
	if (error)
		return fail(why, path, error);
	return length < size - 1 || fail(why, "the process's list of cgroups is too long", 0);
}

/* The path of the line 0::PATH (cgroups(7)), cut from `bytes`; NULL when there is none. */
static char *find_path(char *bytes)
{
	char *line = bytes, *end;

	while (strncmp(line, "0::", 3)) {
		line = strchr(line, '\n');
		if (!line++)
			return NULL;
	}
	end = strchr(line, '\n');
	if (end)
		*end = 0;
	return line + 3;
}

static bool ends_with(const char *words, const char *end)
{
	size_t length = strlen(words), wanted = strlen(end);

	return length >= wanted && !strcmp(words + length - wanted, end);
}

/* A path out of the hook's cgroup namespace begins with /.. (cgroup_namespaces(7)). */
static bool check_path(const char *path, struct text *why)
{
	if (!strcmp(path, "/"))
		return fail(why, "the process is in the root cgroup", 0);
	if (path[0] != '/' || !strncmp(path, "/..", 3))
		return fail(why, "the process's cgroup is not within the hook's cgroup namespace", 0);
	if (ends_with(path, deleted))
		return fail(why, "the process's cgroup is removed", 0);
	return true;
}

static const char *find_root(void)
{
	static const char *const points[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
	struct statfs status;
	size_t i;

	for (i = 0; i < sizeof(points) / sizeof(*points); i++)
		if (!statfs(points[i], &status) && status.f_type == CGROUP2_SUPER_MAGIC)
			return points[i];
	return NULL;
}

static bool stat_directory(const char *path, uint64_t *id, struct text *why)
{
	const char *root = find_root();
	char bytes[PATH_MAX];
	struct text full = {.bytes = bytes, .size = sizeof(bytes) - 1};
	struct stat status;

	if (!root)
		return fail(why, "no cgroup v2 hierarchy at /sys/fs/cgroup or /sys/fs/cgroup/unified", 0);
	text_add(&full, root);
	text_add(&full, path);
	if (full.length == full.size)
		return fail(why, "the cgroup's path", ENAMETOOLONG);
	bytes[full.length] = 0;
	if (stat(bytes, &status))
		return fail(why, bytes, errno);
	*id = status.st_ino;
	return true;
}

bool cgroup_of_process(uint32_t pid, uint64_t *id, struct text *why)
{
	static char list[MAX_CGROUP_FILE];
	char bytes[sizeof("/proc/4294967295/cgroup")];
	struct text file = {.bytes = bytes, .size = sizeof(bytes) - 1};
	const char *path;

	if (!pid)
		return fail(why, "the state tells no pid", 0);
	if (!check_pid_namespace(why))
		return false;
	text_add(&file, "/proc/");
	text_add_number(&file, pid);
	text_add(&file, "/cgroup");
	bytes[file.length] = 0;
	if (!read_file(bytes, list, sizeof(list), why))
		return false;
	path = find_path(list);
	if (!path)
		return fail(why, "the process is in no cgroup v2", 0);
	return check_path(path, why) && stat_directory(path, id, why);
}
