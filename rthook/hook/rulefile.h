/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODGATE_HOOK_RULEFILE_H
#define PODGATE_HOOK_RULEFILE_H

#include "hook/rule.h"
#include "hook/text.h"

/*
 * Reads the file into a buffer that the next call uses again. No file is `absent`, one that cannot be read is as one
 * with a fault in it.
 */
void rulefile_read(struct rule_text *text, const char *path);
const char *treatment_name(enum treatment treatment);
/* "closed (line 3)" */
void rulefile_describe(const struct rule *rule, struct text *words);
/* "line 3: no treatment: …" */
void rulefile_describe_fault(unsigned int line, const char *what, struct text *words);

#endif
