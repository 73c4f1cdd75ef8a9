/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The failure rule's file: which treatment a container gets that the agent did not bind. rthook/failure.py reads the
 * same grammar, with the same words for its faults.
 *
 *   default open|closed|quarantine        for every namespace that no line names, and for containers without one
 *   namespace NAME open|closed|quarantine
 *   pattern GLOB open|closed|quarantine   * and ?; the first line that matches counts
 *   exempt NAME                           always open
 *
 * exempt > namespace > pattern > default. A line that does not read is a fault: it is ignored, and the default becomes
 * closed.
 */
#ifndef PODGATE_HOOK_RULE_H
#define PODGATE_HOOK_RULE_H

#include <stdbool.h>
#include <stddef.h>

#include "hook/treatment.h"

/* More than a thousand namespaces with lines of their own are a configuration gone wrong; so many take 1 ms. */
#define RULE_MAX_LINES 1024
#define RULE_MAX_BYTES (64 << 10)
#define RULE_MAX_NAME 253 /* DNS-1123, a subdomain */
/* Exempt when the file has no line that says what is: without its pods a node does not come back. */
#define RULE_EXEMPT "kube-system"

/* What the file says, as it was read. */
struct rule_text {
	const char *bytes;
	size_t length;
	bool absent;	   /* there is no file: everything is open */
	const char *fault; /* of reading it, or NULL */
};

/* Of which namespace the treatment is wanted. */
enum rule_asked {
	RULE_NAMESPACE,	   /* the one that is named */
	RULE_NO_NAMESPACE, /* the container has none */
	RULE_NOT_KNOWN, /* it could not be read: the strictest treatment of the file; so is a name that can be none */
};

/* line: 0 for the file as a whole. */
typedef void rule_report(void *context, unsigned int line, const char *what);

struct rule_question {
	enum rule_asked asked;
	const char *namespace;
	size_t namespace_length;
	rule_report *report; /* gets every fault; NULL for nobody */
	void *context;
};

enum rule_source {
	RULE_BY_DEFAULT,
	RULE_BY_LINE,
	RULE_BY_BUILT_IN,  /* exempt, and the file has no exempt line */
	RULE_BY_STRICTEST, /* the namespace is not known */
	RULE_BY_FAULT,	   /* the default, which is closed because of a fault */
	RULE_BY_ABSENCE,
};

struct rule {
	enum treatment treatment;
	enum rule_source source;
	unsigned int line; /* RULE_BY_LINE: which */
	unsigned int faults, first_fault_line;
	const char *first_fault;
};

bool rule_is_name(const char *bytes, size_t length);
void rule_evaluate(struct rule *rule, const struct rule_text *text, const struct rule_question *question);

#endif
