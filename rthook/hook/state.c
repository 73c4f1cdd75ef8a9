// SPDX-License-Identifier: Apache-2.0
#include "hook/state.h"

#include <string.h>

#include "hook/json.h"
#include "hook/rule.h"

/* The annotations that name the namespace: containerd's, and the one of cri-o and podman's pods. */
enum key {
	KEY_CONTAINERD,
	KEY_POD,
	KEYS,
};

static const char *const key_names[KEYS] = {
	[KEY_CONTAINERD] = "io.kubernetes.cri.sandbox-namespace",
	[KEY_POD] = "io.kubernetes.pod.namespace",
};

struct annotation {
	bool found;
	char value[MAX_NAMESPACE];
	size_t length;
};

struct reader {
	struct json json;
	struct state *state;
	enum runtime runtime;
	bool has_pid, has_annotations, has_id;
	struct annotation annotations[KEYS];
};

/* The first fault counts; one of the text itself before what it led to. */
static bool fail(struct reader *reader, const char *fault)
{
	if (!reader->state->fault)
		reader->state->fault = reader->json.fault ? reader->json.fault : fault;
	return false;
}

static bool read_id(struct reader *reader)
{
	struct state *state = reader->state;
	long length;

	if (reader->has_id)
		return fail(reader, "the state has its id twice");
	reader->has_id = true;
	if (json_next(&reader->json) != JSON_STRING)
		return fail(reader, "the state's id is no text");
	length = json_copy(&reader->json, state->id, sizeof(state->id));
	state->has_id = length > 0;
	state->id_length = length > 0 ? (size_t)length : 0;
	return true;
}

static bool parse_pid(const struct json *json, uint32_t *pid)
{
	const unsigned char *at;

	*pid = 0;
	for (at = json->word; at < json->word_end; at++) {
		if (*at < '0' || *at > '9')
			return false;
		*pid = *pid * 10 + (*at - '0');
		if (*pid > MAX_PID)
			return false;
	}
	return true;
}

static bool read_pid(struct reader *reader)
{
	if (reader->has_pid)
		return fail(reader, "the state has its pid twice");
	reader->has_pid = true;
	if (json_next(&reader->json) != JSON_NUMBER || !parse_pid(&reader->json, &reader->state->pid))
		return fail(reader, "the state's pid is no process id");
	return true;
}

static bool read_annotation(struct reader *reader, struct annotation *annotation)
{
	long length;

	if (annotation->found)
		return fail(reader, "the namespace's annotation is there twice");
	annotation->found = true;
	if (json_next(&reader->json) != JSON_STRING)
		return fail(reader, "the namespace's annotation is no text");
	length = json_copy(&reader->json, annotation->value, sizeof(annotation->value));
	if (length < 0 || (length > 0 && !rule_is_name(annotation->value, (size_t)length)))
		return fail(reader, "the namespace's annotation is no namespace's name");
	annotation->length = (size_t)length;
	return true;
}

static bool is_read(enum runtime runtime, int key)
{
	return runtime == RUNTIME_AUTO || (runtime == RUNTIME_CONTAINERD) == (key == KEY_CONTAINERD);
}

/* The place for the value of the key at hand; NULL when it is none of the runtime's. */
static struct annotation *find_annotation(struct reader *reader)
{
	int key;

	for (key = 0; key < KEYS; key++)
		if (is_read(reader->runtime, key) && json_equals(&reader->json, key_names[key]))
			return &reader->annotations[key];
	return NULL;
}

static bool read_annotations(struct reader *reader)
{
	struct json *json = &reader->json;
	struct annotation *annotation;
	enum json_token token;

	if (reader->has_annotations)
		return fail(reader, "the state has annotations twice");
	reader->has_annotations = true;
	token = json_next(json);
	if (token == JSON_NULL) /* Go writes an empty map so, too */
		return true;
	if (token != JSON_OBJECT)
		return fail(reader, "the state's annotations are no object");
	while ((token = json_next(json)) == JSON_KEY) {
		annotation = find_annotation(reader);
		if (annotation ? !read_annotation(reader, annotation) : !json_skip(json, json_next(json)))
			return false;
	}
	return token == JSON_OBJECT_END;
}

static bool read_member(struct reader *reader)
{
	struct json *json = &reader->json;

	if (json_equals(json, "id"))
		return read_id(reader);
	if (json_equals(json, "pid"))
		return read_pid(reader);
	if (json_equals(json, "annotations"))
		return read_annotations(reader);
	return json_skip(json, json_next(json));
}

static bool read_state(struct reader *reader)
{
	enum json_token token;

	if (json_next(&reader->json) != JSON_OBJECT)
		return fail(reader, "the state is no object");
	while ((token = json_next(&reader->json)) == JSON_KEY)
		if (!read_member(reader))
			return false;
	return token == JSON_OBJECT_END && json_next(&reader->json) == JSON_END;
}

/* An annotation without text is as none. */
static void choose(struct reader *reader, const struct annotation *annotation)
{
	struct state *state = reader->state;

	if (!annotation->length)
		return;
	state->has_namespace = true;
	state->namespace_length = annotation->length;
	memcpy(state->namespace, annotation->value, annotation->length);
}

static void choose_of_both(struct reader *reader)
{
	const struct annotation *first = &reader->annotations[KEY_CONTAINERD], *second = &reader->annotations[KEY_POD];

	if (first->found && second->found &&
	    (first->length != second->length || memcmp(first->value, second->value, first->length)))
		fail(reader, "two annotations name different namespaces");
	else
		choose(reader, first->found ? first : second);
}

void state_parse(struct state *state, const char *bytes, size_t length, enum runtime runtime)
{
	struct reader reader = {.state = state, .runtime = runtime};

	*state = (struct state){0};
	json_begin(&reader.json, bytes, length);
	if (read_state(&reader)) {
		choose_of_both(&reader);
		return;
	}
	state->pid = 0; /* of a text that is not believed, nobody is put anywhere */
	fail(&reader, "the state is no JSON");
}
