// SPDX-License-Identifier: Apache-2.0
#include "hook/json.h"

#include <string.h>

#include "hook/utf8.h"

_Static_assert(JSON_MAX_DEPTH <= 8 * sizeof(((struct json *)0)->objects), "a level has no bit");

void json_begin(struct json *json, const char *bytes, size_t length)
{
	*json = (struct json){.at = (const unsigned char *)bytes, .expect = JSON_EXPECT_VALUE};
	json->begin = json->at;
	json->end = json->at + length;
}

static enum json_token json_fail(struct json *json, const char *fault)
{
	json->fault = fault;
	return JSON_ERROR;
}

static void skip_blanks(struct json *json)
{
	while (json->at < json->end &&
	       (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r'))
		json->at++;
}

static bool at_byte(const struct json *json, unsigned char byte)
{
	return json->at < json->end && *json->at == byte;
}

static bool at_digit(const struct json *json)
{
	return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

/* What may follow a whole value. */
static enum json_token value_ends(struct json *json, enum json_token token)
{
	json->expect = json->depth ? JSON_EXPECT_COMMA_OR_CLOSE : JSON_EXPECT_NOTHING;
	return token;
}

static int hex_digit(unsigned char byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* The code unit of four hexadecimal digits, -1 when they are not there. */
static long hex_unit(const unsigned char *at, const unsigned char *end)
{
	long unit = 0;
	int i, digit;

	if (end - at < 4)
		return -1;
	for (i = 0; i < 4; i++) {
		digit = hex_digit(at[i]);
		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

static bool is_high_surrogate(long unit)
{
	return unit >= 0xd800 && unit < 0xdc00;
}

static bool is_low_surrogate(long unit)
{
	return unit >= 0xdc00 && unit < 0xe000;
}

/* At the u of an escape: how many bytes it and, of a pair, the second escape have; 0 when it is none. */
static size_t unicode_escape_length(const unsigned char *at, const unsigned char *end)
{
	long unit = hex_unit(at + 1, end);

	if (unit < 0 || is_low_surrogate(unit))
		return 0;
	if (!is_high_surrogate(unit))
		return 5;
	if (end - at < 11 || at[5] != '\\' || at[6] != 'u' || !is_low_surrogate(hex_unit(at + 7, end)))
		return 0;
	return 11;
}

/* At a backslash: the length of the whole escape, 0 when it is none. */
static size_t escape_length(const unsigned char *at, const unsigned char *end)
{
	size_t length;

	if (end - at < 2)
		return 0;
	if (at[1] == 'u') {
		length = unicode_escape_length(at + 1, end);
		return length ? length + 1 : 0;
	}
	return at[1] && strchr("\"\\/bfnrt", at[1]) ? 2 : 0;
}

static enum json_token read_string(struct json *json, enum json_token token)
{
	size_t step;

	json->word = ++json->at;
	while (json->at < json->end && *json->at != '"') {
		if (*json->at < 0x20)
			return json_fail(json, "a control character in a string");
		if (*json->at == '\\')
			step = escape_length(json->at, json->end);
		else
			step = utf8_length(json->at, json->end);
		if (!step)
			return json_fail(json, *json->at == '\\' ? "a wrong escape" : "a string that is no UTF-8");
		json->at += step;
	}
	if (json->at == json->end)
		return json_fail(json, "a string without an end");
	json->word_end = json->at++;
	return token;
}

static enum json_token read_key(struct json *json)
{
	if (!at_byte(json, '"'))
		return json_fail(json, "no key where one must be");
	if (!read_string(json, JSON_KEY))
		return JSON_ERROR;
	skip_blanks(json);
	if (!at_byte(json, ':'))
		return json_fail(json, "no colon after a key");
	json->at++;
	json->expect = JSON_EXPECT_VALUE;
	return JSON_KEY;
}

static bool read_digits(struct json *json)
{
	const unsigned char *first = json->at;

	while (at_digit(json))
		json->at++;
	return json->at > first;
}

static bool read_integer(struct json *json)
{
	if (at_byte(json, '-'))
		json->at++;
	if (!at_byte(json, '0'))
		return read_digits(json);
	json->at++;
	return !at_digit(json);
}

static bool read_fraction(struct json *json)
{
	if (!at_byte(json, '.'))
		return true;
	json->at++;
	return read_digits(json);
}

static bool read_exponent(struct json *json)
{
	if (!at_byte(json, 'e') && !at_byte(json, 'E'))
		return true;
	json->at++;
	if (at_byte(json, '+') || at_byte(json, '-'))
		json->at++;
	return read_digits(json);
}

static enum json_token read_number(struct json *json)
{
	json->word = json->at;
	if (!read_integer(json) || !read_fraction(json) || !read_exponent(json))
		return json_fail(json, "a malformed number");
	json->word_end = json->at;
	return value_ends(json, JSON_NUMBER);
}

static enum json_token read_literal(struct json *json)
{
	static const struct {
		const char *words;
		enum json_token token;
	} literals[] = {{"true", JSON_TRUE}, {"false", JSON_FALSE}, {"null", JSON_NULL}};
	size_t i, length;

	for (i = 0; i < sizeof(literals) / sizeof(*literals); i++) {
		length = strlen(literals[i].words);
		if ((size_t)(json->end - json->at) < length || memcmp(json->at, literals[i].words, length))
			continue;
		json->at += length;
		return value_ends(json, literals[i].token);
	}
	return json_fail(json, json->at == json->end ? "it ends too early" : "no value where one must be");
}

static enum json_token open_level(struct json *json, bool object)
{
	uint32_t bit;

	if (json->depth == JSON_MAX_DEPTH)
		return json_fail(json, "too many levels");
	bit = (uint32_t)1 << json->depth++;
	json->objects = object ? json->objects | bit : json->objects & ~bit;
	json->expect = object ? JSON_EXPECT_KEY_OR_CLOSE : JSON_EXPECT_VALUE_OR_CLOSE;
	json->at++;
	return object ? JSON_OBJECT : JSON_ARRAY;
}

static bool in_object(const struct json *json)
{
	return json->objects >> (json->depth - 1) & 1;
}

static bool at_close(const struct json *json)
{
	return at_byte(json, in_object(json) ? '}' : ']');
}

static enum json_token close_level(struct json *json)
{
	bool object = in_object(json);

	json->at++;
	json->depth--;
	return value_ends(json, object ? JSON_OBJECT_END : JSON_ARRAY_END);
}

static enum json_token read_value(struct json *json)
{
	if (at_byte(json, '{') || at_byte(json, '['))
		return open_level(json, *json->at == '{');
	if (at_byte(json, '"'))
		return value_ends(json, read_string(json, JSON_STRING));
	if (at_byte(json, '-') || at_digit(json))
		return read_number(json);
	return read_literal(json);
}

static enum json_token read_after_comma(struct json *json)
{
	if (!at_byte(json, ','))
		return json_fail(json, json->at == json->end ? "it ends too early" : "no comma between two members");
	json->at++;
	skip_blanks(json);
	return in_object(json) ? read_key(json) : read_value(json);
}

enum json_token json_next(struct json *json)
{
	if (json->fault)
		return JSON_ERROR;
	skip_blanks(json);
	switch (json->expect) {
	case JSON_EXPECT_VALUE:
		return read_value(json);
	case JSON_EXPECT_VALUE_OR_CLOSE:
		return at_close(json) ? close_level(json) : read_value(json);
	case JSON_EXPECT_KEY_OR_CLOSE:
		return at_close(json) ? close_level(json) : read_key(json);
	case JSON_EXPECT_COMMA_OR_CLOSE:
		return at_close(json) ? close_level(json) : read_after_comma(json);
	case JSON_EXPECT_NOTHING:
		break;
	}
	return json->at == json->end ? JSON_END : json_fail(json, "text behind its end");
}

bool json_skip(struct json *json, enum json_token token)
{
	unsigned int outside;

	if (token != JSON_OBJECT && token != JSON_ARRAY)
		return token != JSON_ERROR;
	outside = json->depth - 1;
	while (json->depth > outside)
		if (json_next(json) == JSON_ERROR)
			return false;
	return true;
}

static size_t encode_utf8(unsigned long point, unsigned char *out)
{
	static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
	size_t length = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4, i;

	for (i = length - 1; i > 0; i--, point >>= 6)
		out[i] = (unsigned char)(0x80 | (point & 0x3f));
	out[0] = (unsigned char)(leads[length] | point);
	return length;
}

/* Resolves a checked escape of four digits, or a pair; gives how many bytes it had. */
static size_t resolve_unicode(const unsigned char *at, const unsigned char *end, unsigned char *out, size_t *length)
{
	long unit = hex_unit(at + 2, end);

	if (!is_high_surrogate(unit)) {
		*length = encode_utf8((unsigned long)unit, out);
		return 6;
	}
	*length =
		encode_utf8((unsigned long)(0x10000 + ((unit - 0xd800) << 10) + (hex_unit(at + 8, end) - 0xdc00)), out);
	return 12;
}

/* Resolves the character or escape at `at` of a checked string into at most four bytes; gives how many it had. */
static size_t resolve(const unsigned char *at, const unsigned char *end, unsigned char *out, size_t *length)
{
	static const char letters[] = "bfnrt", meanings[] = "\b\f\n\r\t";
	const char *found;

	if (*at != '\\') {
		*length = utf8_length(at, end);
		memcpy(out, at, *length);
		return *length;
	}
	if (at[1] == 'u')
		return resolve_unicode(at, end, out, length);
	found = strchr(letters, at[1]);
	*out = found ? (unsigned char)meanings[found - letters] : at[1];
	*length = 1;
	return 2;
}

bool json_equals(const struct json *json, const char *words)
{
	const unsigned char *at = json->word;
	size_t left = strlen(words), length;
	unsigned char bytes[4];

	while (at < json->word_end) {
		at += resolve(at, json->word_end, bytes, &length);
		if (length > left || memcmp(words, bytes, length))
			return false;
		words += length;
		left -= length;
	}
	return !left;
}

long json_copy(const struct json *json, char *out, size_t size)
{
	const unsigned char *at = json->word;
	size_t copied = 0, length;
	unsigned char bytes[4];

	while (at < json->word_end) {
		at += resolve(at, json->word_end, bytes, &length);
		if (length > size - copied)
			return -1;
		memcpy(out + copied, bytes, length);
		copied += length;
	}
	return (long)copied;
}

size_t json_offset(const struct json *json)
{
	return (size_t)(json->at - json->begin);
}
