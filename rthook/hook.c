// SPDX-License-Identifier: Apache-2.0
/*
 * podgate-hook: the OCI hook (OCI runtime specification, "POSIX-platform Hooks"). It hands the container's state to the
 * agent and waits until the container is bound. Without that, the failure rule says what becomes of the container.
 *
 * A runtime starts it with an empty environment, at createContainer in the container's namespaces and under its
 * limits: so it is static, allocates nothing, and needs no other file than those that its options name. Everything is
 * over within the deadline, because a runtime may wait for a hook for ever.
 *
 *   options   what it is called with            deadline  the moment that nothing waits beyond
 *   agent     the call: ttrpc on the socket     state     what the state JSON says, read by json
 *   rule      the failure rule, from rulefile   spool     the decisions taken without the agent
 *   quarantine, cgroup                          binding a container without the agent
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "hook/agent.h"
#include "hook/cgroup.h"
#include "hook/options.h"
#include "hook/quarantine.h"
#include "hook/rulefile.h"
#include "hook/spool.h"

#define PROGRAM "podgate-hook"

enum status {
	STATUS_START = 0,
	STATUS_REFUSE = 1,
	STATUS_USAGE = 2,
};

/* A container that is gone holds up nobody: the kernel drops its binding by itself. */
#define POSTSTOP_MS 500
/* For a line on standard error whose reader does not read. */
#define STDERR_MS 100

/* Pages of it are used as far as it is filled. One byte more than a state may have, so that more is seen. */
static char state_bytes[MAX_STATE + 1];

struct hook {
	struct options options;
	struct deadline deadline;
	bool has_state;
	size_t state_length;
	char reason_bytes[MAX_REASON];
	struct text reason;
};

/* In one write that does not block: a pipe that can be written to has room for PIPE_BUF bytes. */
static void say(const struct text *line)
{
	struct deadline deadline = deadline_in(STDERR_MS);

	if (deadline_wait(&deadline, STDERR_FILENO, POLLOUT))
		return;
	if (write(STDERR_FILENO, line->bytes, line->length) < 0)
		return; /* nobody is left to tell; the spool has the decision */
}

static void complain(const char *about, const struct text *what)
{
	char bytes[PIPE_BUF];
	struct text line = TEXT(bytes);

	line.size--; /* for the line break */
	text_add(&line, PROGRAM ": ");
	text_add(&line, about);
	text_add(&line, ": ");
	text_add_escaped(&line, what->bytes, what->length);
	line.size = sizeof(bytes);
	text_add(&line, "\n");
	say(&line);
}

/* Whatever was closed would be given to the next file that is opened, and messages would go there. */
static bool open_standard_files(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return false;
	return true;
}

/* 0, or an errno. */
static int read_state(struct hook *hook)
{
	ssize_t got;
	int error;

	while (hook->state_length < sizeof(state_bytes)) {
		error = deadline_wait(&hook->deadline, STDIN_FILENO, POLLIN);
		if (error)
			return error;
		got = read(STDIN_FILENO, state_bytes + hook->state_length, sizeof(state_bytes) - hook->state_length);
		if (!got)
			return 0;
		if (got < 0 && errno != EINTR && errno != EAGAIN)
			return errno;
		if (got > 0)
			hook->state_length += (size_t)got;
	}
	return EFBIG;
}

static bool receive_state(struct hook *hook)
{
	int error = read_state(hook);

	hook->has_state = !error;
	if (!error)
		return true;
	text_add(&hook->reason, "state on standard input: ");
	if (error == ETIMEDOUT) {
		text_add(&hook->reason, "not whole within ");
		text_add_number(&hook->reason, hook->deadline.ms);
		text_add(&hook->reason, " ms");
	} else if (error == EFBIG) {
		text_add(&hook->reason, "more than 4,032 KiB");
	} else {
		text_add_error(&hook->reason, error);
	}
	return false;
}

static bool call_agent(struct hook *hook)
{
	struct agent_call call = {
		.socket = hook->options.agent_socket,
		.stage = hook->options.stage,
		.runtime = hook->options.runtime_name,
		.state = state_bytes,
	};

	if (!receive_state(hook))
		return false;
	call.state_length = hook->state_length;
	return agent_call(&call, &hook->deadline, &hook->reason);
}

static void interpret_state(const struct hook *hook, struct state *state)
{
	if (hook->has_state) {
		state_parse(state, state_bytes, hook->state_length, hook->options.runtime);
		return;
	}
	memset(state, 0, sizeof(*state));
	state->fault = "the state was not read";
}

static void explain_rule(struct hook *hook, const struct rule *rule)
{
	struct text *reason = &hook->reason;

	text_add(reason, "; failure rule ");
	text_add(reason, hook->options.failure_rule);
	text_add(reason, ": ");
	rulefile_describe(rule, reason);
	if (!rule->faults || rule->source == RULE_BY_ABSENCE)
		return;
	text_add(reason, "; its faults: ");
	text_add_number(reason, rule->faults);
	text_add(reason, ", the first: ");
	rulefile_describe_fault(rule->first_fault_line, rule->first_fault, reason);
}

static enum rule_asked what_is_asked(const struct state *state)
{
	if (state->fault)
		return RULE_NOT_KNOWN;
	return state->has_namespace ? RULE_NAMESPACE : RULE_NO_NAMESPACE;
}

static enum treatment apply_rule(struct hook *hook, const struct state *state)
{
	struct rule_question question = {
		.asked = what_is_asked(state),
		.namespace = state->namespace,
		.namespace_length = state->namespace_length,
	};
	struct rule_text text;
	struct rule rule;

	rulefile_read(&text, hook->options.failure_rule);
	rule_evaluate(&rule, &text, &question);
	if (state->fault) {
		text_add(&hook->reason, "; ");
		text_add(&hook->reason, state->fault);
	}
	explain_rule(hook, &rule);
	return rule.treatment;
}

/* At createContainer the program itself finds the cgroup and the held process: they are the hook's own and its parent.
 */
static bool put_in_quarantine(struct hook *hook, const struct state *state)
{
	struct quarantine quarantine = {0};

	text_add(&hook->reason, "; quarantine: ");
	if (!hook->options.is_in_container) {
		if (!cgroup_of_process(state->pid, &quarantine.cgroup_id, &hook->reason))
			return false;
		quarantine.pid = state->pid;
	}
	if (!quarantine_run(hook->options.pin_dir, &quarantine, &hook->reason))
		return false;
	text_add(&hook->reason, "bound to every filtered policy");
	return true;
}

static void record(struct hook *hook, const struct state *state, enum treatment treatment, const char *outcome)
{
	const struct decision decision = {
		.stage = hook->options.stage,
		.state = state,
		.treatment = treatment_name(treatment),
		.outcome = outcome,
		.reason = &hook->reason,
	};
	char bytes[MAX_PATH + 128];
	struct text why = TEXT(bytes);

	if (!spool_append(hook->options.spool, &decision, &why))
		complain("the decision is not recorded", &why);
}

static void announce(struct hook *hook, const struct state *state, const char *outcome, const char *advice)
{
	char bytes[PIPE_BUF];
	struct text line = TEXT(bytes);

	text_add(&line, "container ");
	text_add_bytes(&line, state->has_id ? state->id : "(not known)", state->has_id ? state->id_length : 11);
	if (state->has_namespace) {
		text_add(&line, " of namespace ");
		text_add_bytes(&line, state->namespace, state->namespace_length);
	}
	text_add(&line, outcome);
	text_add(&line, ": ");
	text_add_bytes(&line, hook->reason.bytes, hook->reason.length);
	text_add(&line, advice);
	complain(hook->options.stage, &line);
}

static enum status decide(struct hook *hook)
{
	static const char advice[] = "; is podgate-agent running (podgate status)? Its log says why it refuses";
	struct state state;
	enum treatment treatment;

	interpret_state(hook, &state);
	treatment = apply_rule(hook, &state);
	if (treatment == TREATMENT_OPEN) {
		record(hook, &state, treatment, "open");
		announce(hook, &state, " starts unguarded", "");
		return STATUS_START;
	}
	if (treatment == TREATMENT_QUARANTINE && put_in_quarantine(hook, &state)) {
		record(hook, &state, treatment, "quarantined");
		announce(hook, &state, " starts in quarantine", "");
		return STATUS_START;
	}
	record(hook, &state, treatment, "closed");
	announce(hook, &state, " does not start", advice);
	return STATUS_REFUSE;
}

static enum status run_hook(struct hook *hook)
{
	unsigned int ms = hook->options.deadline_ms;

	if (hook->options.is_poststop && ms > POSTSTOP_MS)
		ms = POSTSTOP_MS;
	hook->deadline = deadline_in(ms);
	hook->reason = TEXT(hook->reason_bytes);
	if (call_agent(hook))
		return STATUS_START;
	if (!hook->options.is_poststop)
		return decide(hook);
	complain(hook->options.stage, &hook->reason);
	return STATUS_START;
}

static void report_fault(void *context, unsigned int line, const char *what)
{
	const struct options *options = context;
	char bytes[256];
	struct text words = TEXT(bytes);

	rulefile_describe_fault(line, what, &words);
	complain(options->failure_rule, &words);
}

static enum status print(const char *bytes, size_t length)
{
	return write(STDOUT_FILENO, bytes, length) == (ssize_t)length ? STATUS_START : STATUS_REFUSE;
}

static enum status explain(struct options *options)
{
	struct rule_question question = {
		.asked = *options->explain ? RULE_NAMESPACE : RULE_NO_NAMESPACE,
		.namespace = options->explain,
		.namespace_length = strlen(options->explain),
		.report = report_fault,
		.context = options,
	};
	const struct rule_question not_known = {.asked = RULE_NOT_KNOWN};
	char bytes[256];
	struct text words = TEXT(bytes);
	struct rule_text text;
	struct rule rule;

	rulefile_read(&text, options->failure_rule);
	rule_evaluate(&rule, &text, &question);
	rulefile_describe(&rule, &words);
	rule_evaluate(&rule, &text, &not_known);
	text_add(&words, "\nnot known: ");
	text_add(&words, treatment_name(rule.treatment));
	text_add(&words, "\n");
	return print(words.bytes, words.length) || rule.faults ? STATUS_REFUSE : STATUS_START;
}

static enum status fail_usage(struct text *fault)
{
	text_add(fault, "; see --help. A container does not start with a hook that is called so");
	complain("usage", fault);
	return STATUS_USAGE;
}

int main(int argc, char **argv)
{
	static const char version[] = PROGRAM " " PODGATE_VERSION "\n";
	static struct hook hook;
	char bytes[512];
	struct text fault = TEXT(bytes);

	if (!open_standard_files())
		return STATUS_REFUSE; /* nothing can be said */
	signal(SIGPIPE, SIG_IGN);
	if (!options_parse(&hook.options, argc, argv, &fault))
		return fail_usage(&fault);
	if (hook.options.help)
		return print(options_help, strlen(options_help));
	if (hook.options.version)
		return print(version, sizeof(version) - 1);
	return (int)(hook.options.explain ? explain(&hook.options) : run_hook(&hook));
}
