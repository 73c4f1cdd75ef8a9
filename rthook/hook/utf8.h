/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODGATE_HOOK_UTF8_H
#define PODGATE_HOOK_UTF8_H

#include <stddef.h>

/* How many bytes the UTF-8 sequence at `at` has (RFC 3629: shortest form, no surrogates); 0 when there is none. */
size_t utf8_length(const unsigned char *at, const unsigned char *end);

#endif
