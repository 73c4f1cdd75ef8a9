/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pull parser of RFC 8259 over a buffer: json_next() gives one token after the other. It allocates nothing, calls
 * itself nowhere, and is strict: UTF-8 and surrogate pairs are checked, nothing may follow the value. Twice the same
 * key is the caller's to find.
 */
#ifndef PODGATE_HOOK_JSON_H
#define PODGATE_HOOK_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The runtime specification's state has two levels; this is plenty for what it may get, and fits the bits below. */
#define JSON_MAX_DEPTH 32

enum json_token {
	JSON_ERROR,
	JSON_END,
	JSON_OBJECT,
	JSON_OBJECT_END,
	JSON_ARRAY,
	JSON_ARRAY_END,
	JSON_KEY,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL,
};

enum json_expect {
	JSON_EXPECT_VALUE,
	JSON_EXPECT_VALUE_OR_CLOSE,
	JSON_EXPECT_KEY_OR_CLOSE,
	JSON_EXPECT_COMMA_OR_CLOSE,
	JSON_EXPECT_NOTHING,
};

struct json {
	const unsigned char *at, *end;
	const unsigned char *begin; /* of the buffer */
	/* What a key or string has between its quotes, or a number's digits. */
	const unsigned char *word, *word_end;
	const char *fault;
	enum json_expect expect;
	unsigned int depth;
	uint32_t objects; /* one bit a level: it is an object */
};

void json_begin(struct json *json, const char *bytes, size_t length);
/* After JSON_ERROR, `fault` says why, and every further token is JSON_ERROR. */
enum json_token json_next(struct json *json);
/* Passes over what is left of a value whose first token was `token`; false at an error. */
bool json_skip(struct json *json, enum json_token token);
/* Whether the key or string at hand, its escapes resolved, is `words`. */
bool json_equals(const struct json *json, const char *words);
/* The key or string at hand, its escapes resolved, without a NUL behind it: its length, or -1 if it does not fit. */
long json_copy(const struct json *json, char *out, size_t size);
/* Where the parser is, in bytes from the beginning. */
size_t json_offset(const struct json *json);

#endif
