// SPDX-License-Identifier: Apache-2.0
#include "hook/ttrpc.h"

#include <stdbool.h>
#include <string.h>

#define SERVICE "podgate.hook.v1.RuntimeHook"
#define METHOD "Hook"

enum frame {
	FRAME_REQUEST = 1,
	FRAME_RESPONSE = 2,
};

/* A client's first stream. */
#define STREAM 1
/* A 64-bit number in groups of seven bits. */
#define MAX_VARINT 10

/* Protocol buffers' wire types; those of groups, 3 and 4, are not in use. */
enum wire {
	WIRE_VARINT = 0,
	WIRE_FIXED64 = 1,
	WIRE_BYTES = 2,
	WIRE_FIXED32 = 5,
};

/* ttrpc's Request and Response, google.rpc.Status, and HookRequest: the fields' numbers. */
enum field {
	REQUEST_SERVICE = 1,
	REQUEST_METHOD = 2,
	REQUEST_PAYLOAD = 3,
	REQUEST_TIMEOUT = 4,
	RESPONSE_STATUS = 1,
	RESPONSE_PAYLOAD = 2,
	STATUS_CODE = 1,
	STATUS_MESSAGE = 2,
	HOOK_STAGE = 1,
	HOOK_RUNTIME = 2,
	HOOK_STATE = 3,
};

static void add_varint(struct text *out, uint64_t number)
{
	for (; number >= 0x80; number >>= 7)
		text_add_bytes(out, (char[]){(char)(number | 0x80)}, 1);
	text_add_bytes(out, (char[]){(char)number}, 1);
}

static void add_key(struct text *out, enum field field, enum wire wire)
{
	add_varint(out, (uint64_t)field << 3 | wire);
}

static void add_words(struct text *out, enum field field, const char *words)
{
	add_key(out, field, WIRE_BYTES);
	add_varint(out, strlen(words));
	text_add(out, words);
}

static void add_u32(struct text *out, size_t number)
{
	char bytes[] = {(char)(number >> 24), (char)(number >> 16), (char)(number >> 8), (char)number};

	text_add_bytes(out, bytes, sizeof(bytes));
}

static void add_header(struct text *out, size_t length)
{
	add_u32(out, length);
	add_u32(out, STREAM);
	text_add_bytes(out, (char[]){FRAME_REQUEST, 0}, 2);
}

void ttrpc_add_request_head(struct text *out, const struct ttrpc_call *call)
{
	char hook_bytes[TTRPC_MAX_HEAD], request_bytes[TTRPC_MAX_HEAD];
	struct text hook = TEXT(hook_bytes), request = TEXT(request_bytes);

	add_words(&hook, HOOK_STAGE, call->stage);
	add_words(&hook, HOOK_RUNTIME, call->runtime);
	add_key(&hook, HOOK_STATE, WIRE_BYTES);
	add_varint(&hook, call->state_length);

	add_words(&request, REQUEST_SERVICE, SERVICE);
	add_words(&request, REQUEST_METHOD, METHOD);
	add_key(&request, REQUEST_TIMEOUT, WIRE_VARINT);
	add_varint(&request, call->timeout_ns);
	add_key(&request, REQUEST_PAYLOAD, WIRE_BYTES);
	add_varint(&request, hook.length + call->state_length);

	add_header(out, request.length + hook.length + call->state_length);
	text_add_bytes(out, request.bytes, request.length);
	text_add_bytes(out, hook.bytes, hook.length);
}

static uint32_t read_u32(const unsigned char *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

const char *ttrpc_parse_header(const unsigned char bytes[TTRPC_HEADER], size_t *length)
{
	*length = read_u32(bytes);
	if (bytes[8] != FRAME_RESPONSE)
		return "a frame that is no response";
	if (read_u32(bytes + 4) != STREAM)
		return "a response on a stream that was not asked on";
	if (*length > TTRPC_MAX_ANSWER)
		return "a response of more than 16 KiB";
	return NULL;
}

struct message {
	const unsigned char *at, *end;
};

struct value {
	uint64_t field;
	enum wire wire;
	uint64_t number;
	struct message bytes;
};

static bool read_varint(struct message *message, uint64_t *number)
{
	unsigned int shift;
	unsigned char byte;

	*number = 0;
	for (shift = 0; shift < 7 * MAX_VARINT && message->at < message->end; shift += 7) {
		byte = *message->at++;
		if (shift == 63 && byte > 1)
			return false; /* beyond 64 bits */
		*number |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

static bool take(struct message *message, uint64_t length, struct message *bytes)
{
	if (length > (uint64_t)(message->end - message->at))
		return false;
	bytes->at = message->at;
	message->at += length;
	bytes->end = message->at;
	return true;
}

static bool read_value(struct message *message, struct value *value)
{
	uint64_t key;

	if (!read_varint(message, &key) || key >> 32 || !(key >> 3))
		return false;
	value->field = key >> 3;
	value->wire = key & 7;
	switch (value->wire) {
	case WIRE_VARINT:
		return read_varint(message, &value->number);
	case WIRE_FIXED64:
		return take(message, 8, &value->bytes);
	case WIRE_BYTES:
		return read_varint(message, &value->number) && take(message, value->number, &value->bytes);
	case WIRE_FIXED32:
		return take(message, 4, &value->bytes);
	}
	return false;
}

/* An int32 is sent as the 64 bits that it is extended to. */
static bool parse_int32(uint64_t number, int32_t *result)
{
	*result = (int32_t)(uint32_t)number;
	return (uint64_t)(int64_t)*result == number;
}

static const char *parse_status(struct message message, struct ttrpc_status *status)
{
	struct value value = {0};
	bool has_code = false;

	while (message.at < message.end) {
		if (!read_value(&message, &value))
			return "a status that is no message";
		if (value.field == STATUS_CODE) {
			if (has_code || value.wire != WIRE_VARINT || !parse_int32(value.number, &status->code))
				return "a status whose code is none";
			has_code = true;
		} else if (value.field == STATUS_MESSAGE) {
			if (value.wire != WIRE_BYTES)
				return "a status whose message is none";
			status->message = (const char *)value.bytes.at;
			status->message_length = (size_t)(value.bytes.end - value.bytes.at);
		}
	}
	return NULL;
}

const char *ttrpc_parse_response(const unsigned char *bytes, size_t length, struct ttrpc_status *status)
{
	struct message message = {bytes, bytes + length};
	bool has_status = false, has_payload = false;
	struct value value = {0};
	const char *fault;

	*status = (struct ttrpc_status){.message = ""};
	while (message.at < message.end) {
		if (!read_value(&message, &value))
			return "a response that is no message";
		if (value.field == RESPONSE_STATUS) {
			if (has_status || value.wire != WIRE_BYTES)
				return "a response whose status is none";
			has_status = true;
			fault = parse_status(value.bytes, status);
			if (fault)
				return fault;
		} else if (value.field == RESPONSE_PAYLOAD) {
			if (has_payload || value.wire != WIRE_BYTES)
				return "a response whose payload is none";
			has_payload = true;
		}
	}
	return NULL;
}

void ttrpc_add_code(struct text *out, int32_t code)
{
	static const char *const names[] = {
		"OK",	     "CANCELLED",	"UNKNOWN",	     "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
		"NOT_FOUND", "ALREADY_EXISTS",	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
		"ABORTED",   "OUT_OF_RANGE",	"UNIMPLEMENTED",     "INTERNAL",	   "UNAVAILABLE",
		"DATA_LOSS", "UNAUTHENTICATED",
	};

	if (code >= 0 && (size_t)code < sizeof(names) / sizeof(*names)) {
		text_add(out, names[code]);
		return;
	}
	text_add(out, code < 0 ? "code -" : "code ");
	text_add_number(out, code < 0 ? -(unsigned long long)code : (unsigned long long)code);
}
