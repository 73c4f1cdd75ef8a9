// SPDX-License-Identifier: Apache-2.0
#include "hook/utf8.h"

#include <stdint.h>

struct form {
	unsigned char first, last; /* of the leading byte */
	unsigned char low, high;   /* of the second byte */
	size_t length;
};

/* The well-formed sequences of more than one byte: The Unicode Standard, table 3-7. */
static const struct form forms[] = {
	{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
	{0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
	{0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

static size_t form_length(const struct form *form, const unsigned char *at, size_t left)
{
	size_t i;

	if (form->length > left || at[1] < form->low || at[1] > form->high)
		return 0;
	for (i = 2; i < form->length; i++)
		if (at[i] < 0x80 || at[i] > 0xbf)
			return 0;
	return form->length;
}

size_t utf8_length(const unsigned char *at, const unsigned char *end)
{
	size_t left = (size_t)(end - at), i;

	if (!left)
		return 0;
	if (*at < 0x80)
		return 1;
	for (i = 0; i < sizeof(forms) / sizeof(*forms); i++)
		if (*at >= forms[i].first && *at <= forms[i].last)
			return form_length(&forms[i], at, left);
	return 0;
}
