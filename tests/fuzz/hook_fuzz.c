// SPDX-License-Identifier: Apache-2.0
/*
 * Feeds what a peer or a file can send to the hook's parsers: hook_fuzz TARGET SECONDS SEED FOUND CORPUS...
 *
 * Compiled with gcc's sanitizers and -fsanitize-coverage=trace-pc. Inputs of the corpus are run once, then mutated; one
 * that reaches an edge of the control flow which none has reached before joins the corpus. The same seed gives the same
 * inputs. What a sanitizer or a check stops at is written to the file FOUND; SECONDS 0 only runs the corpus, which is
 * how such a file is tried again. The last line of the output says how much was done.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hook/rule.h"
#include "hook/rulefile.h"
#include "hook/state.h"
#include "hook/text.h"
#include "hook/ttrpc.h"
#include "hook/utf8.h"

/* Longer inputs find little that shorter ones do not, and take their time. */
#define MAX_INPUT 4096
#define MAX_CORPUS 20000
#define EDGES (1 << 16)
/* No input takes a thousandth of this. */
#define HANG_S 10

struct input {
	char *bytes;
	size_t length;
};

static struct input corpus[MAX_CORPUS];
static size_t corpus_size;
static struct input current;
static const char *found_path;
static uint64_t random_state;

static unsigned char edges[EDGES];
static size_t edge_count;
static int is_tracing, is_new;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_set_death_callback(void (*callback)(void));

__attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc(void)
{
	size_t edge = ((uintptr_t)__builtin_return_address(0) * 0x9e3779b97f4a7c15u) >> 48;

	if (!is_tracing || edges[edge])
		return;
	edges[edge] = 1;
	edge_count++;
	is_new = 1;
}

static void save_current(void)
{
	int fd = open(found_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || write(fd, current.bytes, current.length) < 0)
		perror(found_path);
}

static void on_hang(int signal)
{
	(void)signal;
	save_current();
	abort();
}

static void check(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "hook_fuzz: %s\n", what);
	save_current();
	abort();
}

/* What is shown of bytes that came from elsewhere is valid UTF-8 on one line, quotes escaped. */
static void check_escaped(const char *bytes, size_t length)
{
	char out[256];
	struct text text = TEXT(out);
	const unsigned char *at = (const unsigned char *)out, *end;
	size_t step;

	text_add_escaped(&text, bytes, length);
	for (end = at + text.length; at < end; at += step) {
		step = utf8_length(at, end);
		check(step && *at >= 0x20 && *at != 0x7f && *at != '"', "an escaped text that is none");
		if (*at != '\\')
			continue;
		check(at + 1 < end, "half an escape");
		step = at[1] == 'u' ? 6 : 2;
		check(step <= (size_t)(end - at), "half an escape");
	}
}

static void fuzz_state(const char *bytes, size_t length)
{
	struct state state;
	int runtime;

	for (runtime = RUNTIME_AUTO; runtime <= RUNTIME_PODMAN; runtime++) {
		state_parse(&state, bytes, length, (enum runtime)runtime);
		check(state.id_length <= MAX_ID && state.namespace_length <= MAX_NAMESPACE,
		      "a length beyond its array");
		check(state.pid <= MAX_PID, "a pid that is none");
		check(!(state.has_namespace && state.fault), "a namespace that is known and not known");
		check(!state.has_namespace || rule_is_name(state.namespace, state.namespace_length), "no name");
		check_escaped(state.id, state.id_length);
	}
	check_escaped(bytes, length);
}

static void fuzz_answer(const char *bytes, size_t length)
{
	const unsigned char *at = (const unsigned char *)bytes;
	struct ttrpc_status status;
	size_t announced;

	if (length < TTRPC_HEADER)
		return;
	if (!ttrpc_parse_header(at, &announced))
		check(announced <= TTRPC_MAX_ANSWER, "an answer above the limit");
	if (ttrpc_parse_response(at + TTRPC_HEADER, length - TTRPC_HEADER, &status))
		return;
	check(status.message_length <= length, "a message longer than its frame");
	check_escaped(status.message, status.message_length);
}

static void count_fault(void *context, unsigned int line, const char *what)
{
	check(line <= RULE_MAX_LINES + 1 && *what, "a fault without place or words");
	++*(unsigned int *)context;
}

static void fuzz_rule(const char *bytes, size_t length)
{
	static const char *const names[] = {"", "shop", "kube-system", "team-a", "a.b-c.d", "No Name"};
	const struct rule_text text = {.bytes = bytes, .length = length};
	const struct rule_question not_known = {.asked = RULE_NOT_KNOWN};
	struct rule rule, strictest;
	size_t i;

	rule_evaluate(&strictest, &text, &not_known);
	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		unsigned int faults = 0;
		const struct rule_question question = {
			.asked = *names[i] ? RULE_NAMESPACE : RULE_NO_NAMESPACE,
			.namespace = names[i],
			.namespace_length = strlen(names[i]),
			.report = count_fault,
			.context = &faults,
		};

		rule_evaluate(&rule, &text, &question);
		check(faults == rule.faults && faults == strictest.faults, "faults that were not told");
		check(rule.treatment <= strictest.treatment, "a namespace not known has it better than one that is");
		check(!faults || strictest.treatment == TREATMENT_CLOSED, "a fault that does not close the default");
	}
}

struct target {
	const char *name;
	void (*run)(const char *bytes, size_t length);
	const char *const *words; /* that mutations put in */
};

static const char *const state_words[] = {
	"{",
	"}",
	"[",
	"]",
	",",
	":",
	"\"",
	"\\",
	"\\u",
	"\\ud83d\\ude00",
	"\\ud800",
	"null",
	"true",
	"-0.1e+9",
	"4194304",
	"\"id\":",
	"\"pid\":",
	"\"annotations\":{",
	"\"io.kubernetes.pod.namespace\":\"shop\"",
	"\"io.kubernetes.cri.sandbox-namespace\":\"shop\"",
	"\xc3\xa9",
	"\xf0\x9f\x98\x80",
	NULL,
};
static const char *const answer_words[] = {
	"\x0a", "\x12", "\x08", "\x09", "\x0d", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x80", "\x1a", "no", NULL,
};
static const char *const rule_words[] = {
	"default ",	 "namespace ",	 "pattern ",	 "exempt ", "open\n",
	"closed\n",	 "quarantine\n", "\n",		 "#",	    "\t",
	"\r\n",		 "shop ",	 "team-* ",	 "?",	    "*",
	"kube-system\n", "a.b-c.d ",	 "\xef\xbb\xbf", NULL,
};
static const struct target targets[] = {
	{"state", fuzz_state, state_words},
	{"answer", fuzz_answer, answer_words},
	{"rule", fuzz_rule, rule_words},
};

/* xorshift64*: good enough, and the same everywhere. */
static size_t random_below(size_t bound)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return bound ? (size_t)((random_state * 0x2545f4914f6cdd1du) >> 32) % bound : 0;
}

/* In memory of exactly its length, so that the byte behind it is seen to be none of it. */
static struct input copy_input(const char *bytes, size_t length)
{
	struct input input = {malloc(length ? length : 1), length};

	if (!input.bytes)
		abort();
	memcpy(input.bytes, bytes, length);
	return input;
}

/* Replaces `removed` bytes at `at` by others; what is too long is cut. */
static void splice(struct text *input, size_t at, size_t removed, const char *bytes, size_t length)
{
	char tail_bytes[MAX_INPUT];
	struct text tail = TEXT(tail_bytes);

	text_add_bytes(&tail, input->bytes + at + removed, input->length - at - removed);
	input->length = at;
	text_add_bytes(input, bytes, length);
	text_add_bytes(input, tail.bytes, tail.length);
}

static void put_word(struct text *input, const struct target *target, size_t at)
{
	size_t count = 0;
	const char *word;

	while (target->words[count])
		count++;
	word = target->words[random_below(count)];
	splice(input, at, 0, word, strlen(word));
}

static void mutate_once(struct text *input, const struct target *target)
{
	size_t at = random_below(input->length + 1), left = input->length - at, span = random_below(left + 1);
	const struct input *other = &corpus[random_below(corpus_size)];
	size_t from = random_below(other->length + 1);
	char byte = (char)random_below(256), piece[MAX_INPUT];

	switch (random_below(7)) {
	case 0:
		splice(input, at, left > 0, &byte, 1);
		break;
	case 1:
		splice(input, at, 0, &byte, 1);
		break;
	case 2:
		splice(input, at, span, "", 0);
		break;
	case 3:
		memcpy(piece, input->bytes + at, span);
		splice(input, at, 0, piece, span);
		break;
	case 4:
		splice(input, at, span, other->bytes + from, random_below(other->length - from + 1));
		break;
	case 5:
		if (left)
			input->bytes[at] = (char)(input->bytes[at] ^ 1 << random_below(8));
		break;
	default:
		put_word(input, target, at);
	}
}

static struct input mutate(const struct target *target)
{
	const struct input *seed = &corpus[random_below(corpus_size)];
	char bytes[MAX_INPUT];
	struct text input = TEXT(bytes);
	size_t times = 1 + random_below(6);

	text_add_bytes(&input, seed->bytes, seed->length);
	while (times--)
		mutate_once(&input, target);
	return copy_input(input.bytes, input.length);
}

/* Whether it reached something new. */
static int run(const struct target *target, struct input input)
{
	current = input;
	is_new = 0;
	is_tracing = 1;
	target->run(input.bytes, input.length);
	is_tracing = 0;
	return is_new;
}

static void load(const char *path)
{
	static char bytes[1 << 20];
	FILE *file = fopen(path, "rb");
	size_t length;

	if (!file) {
		perror(path);
		exit(2);
	}
	length = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	if (corpus_size < MAX_CORPUS)
		corpus[corpus_size++] = copy_input(bytes, length);
}

static unsigned long run_mutations(const struct target *target, time_t end)
{
	unsigned long runs = 0;
	struct input input;

	for (; time(NULL) < end; runs++) {
		if (runs % 1024 == 0)
			alarm(HANG_S);
		input = mutate(target);
		if (run(target, input) && corpus_size < MAX_CORPUS)
			corpus[corpus_size++] = input;
		else
			free(input.bytes);
	}
	return runs;
}

static const struct target *find_target(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(targets) / sizeof(*targets); i++)
		if (!strcmp(targets[i].name, name))
			return &targets[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct target *target = argc > 5 ? find_target(argv[1]) : NULL;
	unsigned long runs;
	size_t i, given;

	if (!target) {
		fprintf(stderr, "usage: hook_fuzz state|answer|rule SECONDS SEED FOUND CORPUS...\n");
		return 2;
	}
	random_state = strtoull(argv[3], NULL, 10) * 2 + 1; /* any but 0 */
	found_path = argv[4];
	__sanitizer_set_death_callback(save_current);
	signal(SIGALRM, on_hang);
	alarm(HANG_S);
	for (i = 5; i < (size_t)argc; i++)
		load(argv[i]);
	given = corpus_size;
	for (i = 0; i < given; i++)
		run(target, corpus[i]);
	runs = run_mutations(target, time(NULL) + atoi(argv[2]));
	printf("%s: %lu runs, %zu edges, %zu inputs kept\n", target->name, runs, edge_count, corpus_size - given);
	for (i = 0; i < corpus_size; i++)
		free(corpus[i].bytes);
	return 0;
}
