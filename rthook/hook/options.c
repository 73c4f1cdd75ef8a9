// SPDX-License-Identifier: Apache-2.0
#include "hook/options.h"

#include <string.h>
#include <sys/un.h>

#define DEFAULT_DEADLINE "2000"

static char default_pin_dir[] = "/sys/fs/bpf/podgate";

const char options_help[] =
	"usage: podgate-hook [OPTIONS] createRuntime|createContainer|poststop\n"
	"       podgate-hook --explain=NAMESPACE [--failure-rule=PATH]\n"
	"\n"
	"The OCI hook of podgate: has the agent bind the container whose state is on standard input.\n"
	"\n"
	"  --runtime=NAME       whose annotations: containerd, crio, podman or auto (default)\n"
	"  --agent-socket=PATH  the agent's socket; default /run/podgate/agent.sock\n"
	"  --failure-rule=PATH  what happens without the agent; default /etc/podgate/failure-rule\n"
	"  --pin-dir=PATH       the agent's directory in bpffs; default /sys/fs/bpf/podgate\n"
	"  --spool=PATH         where such decisions are written; default /run/podgate/hook.log\n"
	"  --deadline-ms=N      for all of it, 1 to 60000; default " DEFAULT_DEADLINE "; poststop takes 500 at most\n"
	"  --explain=NAMESPACE  say how the failure rule treats a namespace (empty: a container without one)\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0 the container may start; 1 it may not (or, with --explain, the file has a fault); 2 usage: it "
	"may\n"
	"not start either.\n";

enum option {
	OPTION_RUNTIME,
	OPTION_AGENT_SOCKET,
	OPTION_FAILURE_RULE,
	OPTION_PIN_DIR,
	OPTION_SPOOL,
	OPTION_DEADLINE,
	OPTION_EXPLAIN,
	OPTIONS,
};

static const char *const option_names[OPTIONS] = {
	[OPTION_RUNTIME] = "--runtime",
	[OPTION_AGENT_SOCKET] = "--agent-socket",
	[OPTION_FAILURE_RULE] = "--failure-rule",
	[OPTION_PIN_DIR] = "--pin-dir",
	[OPTION_SPOOL] = "--spool",
	[OPTION_DEADLINE] = "--deadline-ms",
	[OPTION_EXPLAIN] = "--explain",
};

static bool fail(struct text *fault, const char *name, const char *what)
{
	text_add(fault, name);
	text_add(fault, ": ");
	text_add(fault, what);
	return false;
}

static bool parse_runtime(struct options *options, const char *value)
{
	static const char *const names[] = {
		[RUNTIME_AUTO] = "auto",
		[RUNTIME_CONTAINERD] = "containerd",
		[RUNTIME_CRIO] = "crio",
		[RUNTIME_PODMAN] = "podman",
	};
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(names[i], value)) {
			options->runtime = (enum runtime)i;
			options->runtime_name = names[i];
			return true;
		}
	return false;
}

static bool parse_deadline(struct options *options, const char *value)
{
	unsigned int ms = 0;

	for (; *value >= '0' && *value <= '9' && ms <= MAX_DEADLINE_MS; value++)
		ms = ms * 10 + (unsigned int)(*value - '0');
	options->deadline_ms = ms;
	return !*value && ms && ms <= MAX_DEADLINE_MS;
}

/* Absolute, because at createContainer the current directory is the container's. */
static bool is_path(const char *value, size_t most)
{
	return value[0] == '/' && strlen(value) <= most;
}

/* What stands behind the pin directory's name begins with "/" or "-". */
static void cut_slashes(char *path)
{
	size_t length = strlen(path);

	while (length > 1 && path[length - 1] == '/')
		path[--length] = 0;
}

static const char *set_path(enum option option, struct options *options, char *value)
{
	static const char what[] = "an absolute path of at most 255 characters is expected";

	if (!is_path(value, MAX_PATH))
		return what;
	if (option == OPTION_FAILURE_RULE) {
		options->failure_rule = value;
	} else if (option == OPTION_SPOOL) {
		options->spool = value;
	} else {
		cut_slashes(value);
		options->pin_dir = value;
	}
	return NULL;
}

/* NULL, or what is expected. */
static const char *set_option(enum option option, struct options *options, char *value)
{
	switch (option) {
	case OPTION_RUNTIME:
		return parse_runtime(options, value) ? NULL : "containerd, crio, podman or auto is expected";
	case OPTION_DEADLINE:
		return parse_deadline(options, value) ? NULL : "a number from 1 to 60000 is expected";
	case OPTION_AGENT_SOCKET:
		options->agent_socket = value;
		return is_path(value, sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
			       ? NULL
			       : "an absolute path of at most 107 characters is expected";
	case OPTION_EXPLAIN:
		options->explain = value;
		return NULL;
	default:
		return set_path(option, options, value);
	}
}

/* The value in or behind the argument; NULL when the argument is not this option. `missing` when there is no value. */
static char *find_value(char **argument, const char *name, size_t *used, bool *missing)
{
	size_t length = strlen(name);

	if (strncmp(*argument, name, length))
		return NULL;
	*used = 1;
	if ((*argument)[length] == '=')
		return *argument + length + 1;
	if ((*argument)[length])
		return NULL;
	*used = 2;
	*missing = !argument[1];
	return argument[1];
}

static bool parse_option(struct options *options, char **argument, size_t *used, struct text *fault)
{
	const char *what;
	bool missing = false;
	char *value;
	int option;

	for (option = 0; option < OPTIONS; option++) {
		value = find_value(argument, option_names[option], used, &missing);
		if (missing)
			return fail(fault, option_names[option], "a value is missing");
		if (!value)
			continue;
		what = set_option((enum option)option, options, value);
		return what ? fail(fault, option_names[option], what) : true;
	}
	return fail(fault, *argument, "there is no such option");
}

static bool parse_stage(struct options *options, const char *argument, struct text *fault)
{
	static const char *const stages[] = {"createRuntime", "createContainer", "poststop"};
	size_t i;

	if (options->stage)
		return fail(fault, argument, "one stage is expected");
	for (i = 0; i < sizeof(stages) / sizeof(*stages); i++)
		if (!strcmp(stages[i], argument))
			options->stage = stages[i];
	if (!options->stage)
		return fail(fault, argument, "createRuntime, createContainer or poststop is expected");
	options->is_in_container = options->stage == stages[1];
	options->is_poststop = options->stage == stages[2];
	return true;
}

static bool parse_argument(struct options *options, char **argument, size_t *used, struct text *fault)
{
	*used = 1;
	if (!strcmp(*argument, "--help"))
		return options->help = true;
	if (!strcmp(*argument, "--version"))
		return options->version = true;
	if ((*argument)[0] == '-')
		return parse_option(options, argument, used, fault);
	return parse_stage(options, *argument, fault);
}

bool options_parse(struct options *options, int argc, char **argv, struct text *fault)
{
	char **argument = argv + (argc > 0);
	size_t used;

	*options = (struct options){
		.agent_socket = "/run/podgate/agent.sock",
		.failure_rule = "/etc/podgate/failure-rule",
		.pin_dir = default_pin_dir,
		.spool = "/run/podgate/hook.log",
	};
	parse_runtime(options, "auto");
	parse_deadline(options, DEFAULT_DEADLINE);
	for (; *argument; argument += used)
		if (!parse_argument(options, argument, &used, fault))
			return false;
	if (options->help || options->version || !options->stage == !!options->explain)
		return true;
	text_add(fault, options->explain ? "--explain takes no stage" : "a stage is expected");
	return false;
}
