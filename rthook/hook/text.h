/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts in buffers of fixed size: what does not fit is left out. Here and not stdio, because stdio and strerror bring
 * the C library's locales with them, which are most of a static program.
 */
#ifndef PODGATE_HOOK_TEXT_H
#define PODGATE_HOOK_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
	char *bytes;
	size_t size;
	size_t length;
};

/* An empty text in an array. */
#define TEXT(array) ((struct text){.bytes = (array), .size = sizeof(array)})

void text_add(struct text *text, const char *words);
void text_add_bytes(struct text *text, const char *bytes, size_t length);
void text_add_number(struct text *text, unsigned long long number);
/* "ENOENT (No such file or directory)" */
void text_add_error(struct text *text, int error);
/*
 * As inside a JSON string (RFC 8259, section 7): what is no UTF-8 becomes U+FFFD; control characters, those of the C1
 * set too, are escaped, so that the result is safe on a terminal.
 */
void text_add_escaped(struct text *text, const char *bytes, size_t length);

bool text_equals(const char *bytes, size_t length, const char *words);

#endif
