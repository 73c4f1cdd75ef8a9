// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE /* strerrorname_np, strerrordesc_np: they are not translated */
#include "hook/text.h"

#include <string.h>

#include "hook/utf8.h"

void text_add_bytes(struct text *text, const char *bytes, size_t length)
{
	size_t left = text->size - text->length;

	if (length > left)
		length = left;
	memcpy(text->bytes + text->length, bytes, length);
	text->length += length;
}

void text_add(struct text *text, const char *words)
{
	text_add_bytes(text, words, strlen(words));
}

void text_add_number(struct text *text, unsigned long long number)
{
	char digits[20]; /* of 2^64 - 1 */
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	text_add_bytes(text, digits + at, sizeof(digits) - at);
}

void text_add_error(struct text *text, int error)
{
	const char *name = strerrorname_np(error), *words = strerrordesc_np(error);

	if (!name || !words) {
		text_add(text, "errno ");
		text_add_number(text, (unsigned int)error);
		return;
	}
	text_add(text, name);
	text_add(text, " (");
	text_add(text, words);
	text_add(text, ")");
}

/* An escape is left out whole when it does not fit. */
static void add_whole(struct text *text, const char *bytes, size_t length)
{
	if (length <= text->size - text->length)
		text_add_bytes(text, bytes, length);
	else
		text->size = text->length;
}

static void add_unicode_escape(struct text *text, unsigned int unit)
{
	static const char hex[] = "0123456789abcdef";
	char escape[6] = {'\\', 'u', '0', '0', hex[unit >> 4], hex[unit & 15]};

	add_whole(text, escape, sizeof(escape));
}

static void add_ascii(struct text *text, char byte)
{
	if (byte == '"' || byte == '\\')
		add_whole(text, (char[]){'\\', byte}, 2);
	else if ((unsigned char)byte < 0x20 || byte == 0x7f)
		add_unicode_escape(text, (unsigned char)byte);
	else
		add_whole(text, &byte, 1);
}

void text_add_escaped(struct text *text, const char *bytes, size_t length)
{
	const unsigned char *at = (const unsigned char *)bytes, *end = at + length;
	size_t step;

	for (; at < end; at += step) {
		step = utf8_length(at, end);
		if (step == 1) {
			add_ascii(text, (char)*at);
		} else if (step == 2 && *at == 0xc2 && at[1] < 0xa0) {
			add_unicode_escape(text, at[1]);
		} else if (step) {
			add_whole(text, (const char *)at, step);
		} else {
			add_whole(text, "\\ufffd", 6);
			step = 1;
		}
	}
}

bool text_equals(const char *bytes, size_t length, const char *words)
{
	return strlen(words) == length && !memcmp(bytes, words, length);
}
