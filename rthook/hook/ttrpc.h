/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hook's half of ttrpc (containerd/ttrpc, PROTOCOL.md): one request on stream 1, one response. Pure: bytes in,
 * values out.
 */
#ifndef PODGATE_HOOK_TTRPC_H
#define PODGATE_HOOK_TTRPC_H

#include <stddef.h>
#include <stdint.h>

#include "hook/text.h"

#define TTRPC_HEADER 10
/* Service, method, stage, runtime, the lengths and the time: less than 150 bytes. */
#define TTRPC_MAX_HEAD 256
/* The agent's answer has 20 bytes; a refusal has a line of text besides. */
#define TTRPC_MAX_ANSWER (16 << 10)

struct ttrpc_call {
	const char *stage;
	const char *runtime;
	size_t state_length;
	uint64_t timeout_ns;
};

/* code: of google/rpc/code.proto; 0 is OK. message: within the bytes that were parsed. */
struct ttrpc_status {
	int32_t code;
	const char *message;
	size_t message_length;
};

/*
 * The frame of podgate.hook.v1.RuntimeHook/Hook up to the state's bytes, which are its end: the fields of a message may
 * stand in any order.
 */
void ttrpc_add_request_head(struct text *out, const struct ttrpc_call *call);
/* The response's length; NULL, or what is wrong. */
const char *ttrpc_parse_header(const unsigned char bytes[TTRPC_HEADER], size_t *length);
/* NULL, or what is wrong. */
const char *ttrpc_parse_response(const unsigned char *bytes, size_t length, struct ttrpc_status *status);
/* "FAILED_PRECONDITION", or "code 99". */
void ttrpc_add_code(struct text *out, int32_t code);

#endif
