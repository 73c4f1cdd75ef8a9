// SPDX-License-Identifier: Apache-2.0
#include "hook/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* All that can be in it, each byte as an escape of six, and the keys. */
#define MAX_LINE (6 * (MAX_ID + MAX_NAMESPACE + MAX_REASON) + 512)

static void add_time(struct text *line)
{
	struct timespec now;
	long ms;

	clock_gettime(CLOCK_REALTIME, &now);
	ms = now.tv_nsec / 1000000;
	text_add_number(line, (unsigned long long)now.tv_sec);
	text_add(line, ms < 10 ? ".00" : ms < 100 ? ".0" : ".");
	text_add_number(line, (unsigned long long)ms);
}

/* A member with a text, or null without one. */
static void add_member(struct text *line, const char *key, const char *bytes, size_t length)
{
	text_add(line, ",\"");
	text_add(line, key);
	if (!bytes) {
		text_add(line, "\":null");
		return;
	}
	text_add(line, "\":\"");
	text_add_escaped(line, bytes, length);
	text_add(line, "\"");
}

static void add_words(struct text *line, const char *key, const char *words)
{
	text_add(line, ",\"");
	text_add(line, key);
	text_add(line, "\":\"");
	text_add(line, words);
	text_add(line, "\"");
}

static void describe(struct text *line, const struct decision *decision)
{
	const struct state *state = decision->state;

	text_add(line, "{\"ts\":");
	add_time(line);
	add_words(line, "stage", decision->stage);
	add_member(line, "container_id", state->has_id ? state->id : NULL, state->id_length);
	add_member(line, "namespace", state->fault ? NULL : state->namespace, state->namespace_length);
	add_words(line, "treatment", decision->treatment);
	add_member(line, "reason", decision->reason->bytes, decision->reason->length);
	add_words(line, "outcome", decision->outcome);
	text_add(line, "}\n");
}

static bool fail(struct text *why, const char *path, int error)
{
	text_add(why, path);
	text_add(why, ": ");
	text_add_error(why, error);
	return false;
}

/* In one write: with O_APPEND, lines of calls at the same time do not mix. */
static bool append(int fd, const struct text *line, const char *path, struct text *why)
{
	struct stat status;
	ssize_t written;

	if (fstat(fd, &status))
		return fail(why, path, errno);
	if (!S_ISREG(status.st_mode))
		return fail(why, path, EINVAL);
	if ((unsigned long long)status.st_size + line->length > SPOOL_MAX_BYTES) {
		text_add(why, path);
		text_add(why, ": it has 1 MiB, the agent has not collected it");
		return false;
	}
	written = write(fd, line->bytes, line->length);
	if (written == (ssize_t)line->length)
		return true;
	return fail(why, path, written < 0 ? errno : ENOSPC);
}

/* The kernel's log, which a full disk does not hold up. */
static void tell_kernel(const struct text *line)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	ssize_t written;

	if (fd < 0)
		return;
	written = write(fd, line->bytes, line->length);
	(void)written; /* there is nobody else to tell */
	close(fd);
}

bool spool_append(const char *path, const struct decision *decision, struct text *why)
{
	static char bytes[MAX_LINE];
	struct text line = TEXT(bytes);
	bool done;
	int fd;

	describe(&line, decision);
	/* Neither a link that somebody put there nor a pipe without a reader. */
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	if (fd < 0) {
		fail(why, path, errno);
		tell_kernel(&line);
		return false;
	}
	done = append(fd, &line, path, why);
	close(fd);
	if (!done)
		tell_kernel(&line);
	return done;
}
