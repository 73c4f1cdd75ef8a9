// SPDX-License-Identifier: Apache-2.0
#include "hook/rulefile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* One byte more than is read: so a file that is too long is seen. */
static char bytes[RULE_MAX_BYTES + 1];
static char fault_bytes[128];

static void describe_refusal(struct rule_text *text, int error)
{
	struct text words = TEXT(fault_bytes);

	text->absent = error == ENOENT;
	if (text->absent) {
		text->fault = "there is no such file";
		return;
	}
	words.size--; /* for the NUL */
	text_add(&words, "cannot be read: ");
	text_add_error(&words, error);
	fault_bytes[words.length] = 0;
	text->fault = fault_bytes;
}

/* 0, or an errno. */
static int read_whole(struct rule_text *text, int fd)
{
	ssize_t got;

	while (text->length < sizeof(bytes)) {
		got = read(fd, bytes + text->length, sizeof(bytes) - text->length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? errno : 0;
		text->length += (size_t)got;
	}
	return 0;
}

static int read_regular(struct rule_text *text, int fd)
{
	struct stat status;

	if (fstat(fd, &status))
		return errno;
	return S_ISREG(status.st_mode) ? read_whole(text, fd) : EINVAL;
}

void rulefile_read(struct rule_text *text, const char *path)
{
	/* Non-blocking for the case that it is a pipe. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), error;

	*text = (struct rule_text){.bytes = bytes};
	if (fd < 0) {
		describe_refusal(text, errno);
		return;
	}
	error = read_regular(text, fd);
	if (error)
		describe_refusal(text, error);
	close(fd);
}

const char *treatment_name(enum treatment treatment)
{
	static const char *const names[] = {
		[TREATMENT_OPEN] = "open",
		[TREATMENT_QUARANTINE] = "quarantine",
		[TREATMENT_CLOSED] = "closed",
	};

	return names[treatment];
}

void rulefile_describe(const struct rule *rule, struct text *words)
{
	static const char *const sources[] = {
		[RULE_BY_DEFAULT] = "the default",
		[RULE_BY_BUILT_IN] = "exempt, built in",
		[RULE_BY_STRICTEST] = "the namespace is not known: the strictest of the file",
		[RULE_BY_FAULT] = "the default, because the file has faults",
		[RULE_BY_ABSENCE] = "there is no such file",
	};

	text_add(words, treatment_name(rule->treatment));
	text_add(words, " (");
	if (rule->source == RULE_BY_LINE) {
		text_add(words, "line ");
		text_add_number(words, rule->line);
	} else {
		text_add(words, sources[rule->source]);
	}
	text_add(words, ")");
}

void rulefile_describe_fault(unsigned int line, const char *what, struct text *words)
{
	if (line) {
		text_add(words, "line ");
		text_add_number(words, line);
		text_add(words, ": ");
	}
	text_add(words, what);
}
