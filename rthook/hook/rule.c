// SPDX-License-Identifier: Apache-2.0
#include "hook/rule.h"

#include <string.h>

#include "hook/text.h"

/* One more than any line may have, so that one too many is seen. */
#define MAX_FIELDS 4

struct span {
	const char *bytes;
	size_t length;
};

struct line {
	unsigned int number;
	unsigned int fields;
	struct span field[MAX_FIELDS];
};

struct evaluation {
	struct rule *rule;
	const struct rule_question *question;
	enum rule_asked asked;
	bool has_default, has_exempt;
	enum treatment by_default, strictest;
	enum treatment treatment_by_name, treatment_by_pattern;
	/* Lines that name the namespace asked for, 0 for none. */
	unsigned int exempt_line, name_line, pattern_line;
	unsigned int names;
	struct span name[RULE_MAX_LINES];
};

static void fault(struct evaluation *evaluation, unsigned int line, const char *what)
{
	struct rule *rule = evaluation->rule;

	if (!rule->faults++) {
		rule->first_fault = what;
		rule->first_fault_line = line;
	}
	if (evaluation->question->report)
		evaluation->question->report(evaluation->question->context, line, what);
}

static bool is_alphanumeric(char byte)
{
	return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9');
}

/* DNS-1123, a subdomain: labels of letters, digits and inner hyphens, between dots. */
bool rule_is_name(const char *bytes, size_t length)
{
	char before = '.', byte;
	size_t i;

	if (!length || length > RULE_MAX_NAME)
		return false;
	for (i = 0; i < length; i++, before = byte) {
		byte = bytes[i];
		if (!is_alphanumeric(byte) && byte != '-' && byte != '.')
			return false;
		if ((byte == '.' && !is_alphanumeric(before)) || (byte == '-' && before == '.'))
			return false;
	}
	return is_alphanumeric(before);
}

static bool is_pattern(struct span span)
{
	size_t i;

	for (i = 0; i < span.length; i++)
		if (!is_alphanumeric(span.bytes[i]) && (!span.bytes[i] || !strchr("-.*?", span.bytes[i])))
			return false;
	return span.length <= RULE_MAX_NAME;
}

/* Whether the whole name matches; after a mismatch, the last * takes one character more. */
static bool matches(struct span pattern, const char *name, size_t length)
{
	size_t at = 0, i = 0, star = 0, taken = 0;
	bool has_star = false;

	while (i < length) {
		if (at < pattern.length && pattern.bytes[at] == '*') {
			has_star = true;
			star = ++at;
			taken = i;
		} else if (at < pattern.length && (pattern.bytes[at] == '?' || pattern.bytes[at] == name[i])) {
			at++;
			i++;
		} else if (has_star) {
			at = star;
			i = ++taken;
		} else {
			return false;
		}
	}
	while (at < pattern.length && pattern.bytes[at] == '*')
		at++;
	return at == pattern.length;
}

static bool is_asked(const struct evaluation *evaluation, struct span name)
{
	const struct rule_question *question = evaluation->question;

	return evaluation->asked == RULE_NAMESPACE && name.length == question->namespace_length &&
	       !memcmp(name.bytes, question->namespace, name.length);
}

static bool parse_treatment(struct span span, enum treatment *treatment)
{
	if (text_equals(span.bytes, span.length, "open"))
		*treatment = TREATMENT_OPEN;
	else if (text_equals(span.bytes, span.length, "quarantine"))
		*treatment = TREATMENT_QUARANTINE;
	else if (text_equals(span.bytes, span.length, "closed"))
		*treatment = TREATMENT_CLOSED;
	else
		return false;
	return true;
}

static void count_treatment(struct evaluation *evaluation, enum treatment treatment)
{
	if (treatment > evaluation->strictest)
		evaluation->strictest = treatment;
}

static const char *read_default(struct evaluation *evaluation, const struct line *line)
{
	enum treatment treatment;

	if (line->fields != 2)
		return "expected: default TREATMENT";
	if (!parse_treatment(line->field[1], &treatment))
		return "no treatment: open, closed or quarantine";
	if (evaluation->has_default)
		return "a second default";
	evaluation->has_default = true;
	evaluation->by_default = treatment;
	return NULL;
}

static bool is_named_already(const struct evaluation *evaluation, struct span name)
{
	unsigned int i;

	for (i = 0; i < evaluation->names; i++)
		if (evaluation->name[i].length == name.length &&
		    !memcmp(evaluation->name[i].bytes, name.bytes, name.length))
			return true;
	return false;
}

static const char *read_namespace(struct evaluation *evaluation, const struct line *line)
{
	struct span name = line->field[1];
	enum treatment treatment;

	if (line->fields != 3)
		return "expected: namespace NAME TREATMENT";
	if (!rule_is_name(name.bytes, name.length))
		return "no namespace's name (DNS-1123, at most 253 characters)";
	if (!parse_treatment(line->field[2], &treatment))
		return "no treatment: open, closed or quarantine";
	if (is_named_already(evaluation, name))
		return "a second line for this namespace";
	evaluation->name[evaluation->names++] = name;
	count_treatment(evaluation, treatment);
	if (is_asked(evaluation, name)) {
		evaluation->name_line = line->number;
		evaluation->treatment_by_name = treatment;
	}
	return NULL;
}

static const char *read_pattern(struct evaluation *evaluation, const struct line *line)
{
	const struct rule_question *question = evaluation->question;
	enum treatment treatment;

	if (line->fields != 3)
		return "expected: pattern GLOB TREATMENT";
	if (!is_pattern(line->field[1]))
		return "no pattern (a-z 0-9 - . * ?, at most 253 characters)";
	if (!parse_treatment(line->field[2], &treatment))
		return "no treatment: open, closed or quarantine";
	count_treatment(evaluation, treatment);
	if (evaluation->asked == RULE_NAMESPACE && !evaluation->pattern_line &&
	    matches(line->field[1], question->namespace, question->namespace_length)) {
		evaluation->pattern_line = line->number;
		evaluation->treatment_by_pattern = treatment;
	}
	return NULL;
}

static const char *read_exempt(struct evaluation *evaluation, const struct line *line)
{
	struct span name = line->field[1];

	if (line->fields != 2)
		return "expected: exempt NAME";
	if (!rule_is_name(name.bytes, name.length))
		return "no namespace's name (DNS-1123, at most 253 characters)";
	evaluation->has_exempt = true;
	if (!evaluation->exempt_line && is_asked(evaluation, name))
		evaluation->exempt_line = line->number;
	return NULL;
}

static const char *read_fields(struct evaluation *evaluation, const struct line *line)
{
	struct span word = line->field[0];

	if (text_equals(word.bytes, word.length, "default"))
		return read_default(evaluation, line);
	if (text_equals(word.bytes, word.length, "namespace"))
		return read_namespace(evaluation, line);
	if (text_equals(word.bytes, word.length, "pattern"))
		return read_pattern(evaluation, line);
	if (text_equals(word.bytes, word.length, "exempt"))
		return read_exempt(evaluation, line);
	return "expected: default, namespace, pattern or exempt";
}

static bool is_blank(char byte)
{
	return byte == ' ' || byte == '\t';
}

static void split_fields(struct line *line, const char *at, const char *end)
{
	const char *first;

	while (line->fields < MAX_FIELDS) {
		while (at < end && is_blank(*at))
			at++;
		if (at == end)
			return;
		first = at;
		while (at < end && !is_blank(*at))
			at++;
		line->field[line->fields++] = (struct span){first, (size_t)(at - first)};
	}
}

/* The line's end, before a comment or the CR of a line break as DOS has it. */
static const char *cut_line(const char *at, const char *end)
{
	const char *comment = memchr(at, '#', (size_t)(end - at));

	if (comment)
		return comment;
	return end > at && end[-1] == '\r' ? end - 1 : end;
}

static void read_line(struct evaluation *evaluation, unsigned int number, const char *at, const char *end)
{
	struct line line = {.number = number};
	const char *what;

	split_fields(&line, at, cut_line(at, end));
	if (!line.fields)
		return;
	what = read_fields(evaluation, &line);
	if (what)
		fault(evaluation, number, what);
}

/* Without a byte order mark, and of a file that is too long the whole lines at its beginning. */
static struct span whole_lines(struct evaluation *evaluation, const struct rule_text *text)
{
	struct span span = {text->bytes, text->length};

	if (span.length > RULE_MAX_BYTES) {
		fault(evaluation, 0, "longer than 65,536 bytes: the rest is not read");
		span.length = RULE_MAX_BYTES;
		while (span.length && span.bytes[span.length - 1] != '\n')
			span.length--;
	}
	if (span.length >= 3 && !memcmp(span.bytes, "\xef\xbb\xbf", 3)) {
		span.bytes += 3;
		span.length -= 3;
	}
	return span;
}

static void read_lines(struct evaluation *evaluation, const struct rule_text *text)
{
	struct span span = whole_lines(evaluation, text);
	const char *at = span.bytes, *end = at + span.length, *stop;
	unsigned int number = 0;

	while (at < end) {
		if (++number > RULE_MAX_LINES) {
			fault(evaluation, number, "more than 1,024 lines: the rest is not read");
			return;
		}
		stop = memchr(at, '\n', (size_t)(end - at));
		if (!stop)
			stop = end;
		read_line(evaluation, number, at, stop);
		at = stop + (stop < end);
	}
}

static void decide(struct rule *rule, enum treatment treatment, enum rule_source source, unsigned int line)
{
	rule->treatment = treatment;
	rule->source = source;
	rule->line = line;
}

static bool is_built_in(const struct evaluation *evaluation)
{
	return !evaluation->has_exempt && is_asked(evaluation, (struct span){RULE_EXEMPT, strlen(RULE_EXEMPT)});
}

static void conclude(struct evaluation *evaluation)
{
	struct rule *rule = evaluation->rule;

	if (rule->faults)
		evaluation->by_default = TREATMENT_CLOSED;
	count_treatment(evaluation, evaluation->by_default);
	if (evaluation->asked == RULE_NOT_KNOWN)
		decide(rule, evaluation->strictest, RULE_BY_STRICTEST, 0);
	else if (evaluation->exempt_line)
		decide(rule, TREATMENT_OPEN, RULE_BY_LINE, evaluation->exempt_line);
	else if (is_built_in(evaluation))
		decide(rule, TREATMENT_OPEN, RULE_BY_BUILT_IN, 0);
	else if (evaluation->name_line)
		decide(rule, evaluation->treatment_by_name, RULE_BY_LINE, evaluation->name_line);
	else if (evaluation->pattern_line)
		decide(rule, evaluation->treatment_by_pattern, RULE_BY_LINE, evaluation->pattern_line);
	else
		decide(rule, evaluation->by_default, rule->faults ? RULE_BY_FAULT : RULE_BY_DEFAULT, 0);
}

static enum rule_asked what_is_asked(const struct rule_question *question)
{
	if (question->asked == RULE_NAMESPACE && !rule_is_name(question->namespace, question->namespace_length))
		return RULE_NOT_KNOWN;
	return question->asked;
}

void rule_evaluate(struct rule *rule, const struct rule_text *text, const struct rule_question *question)
{
	struct evaluation evaluation = {.rule = rule, .question = question, .asked = what_is_asked(question)};

	*rule = (struct rule){0};
	if (text->fault)
		fault(&evaluation, 0, text->fault);
	if (text->absent) {
		decide(rule, TREATMENT_OPEN, RULE_BY_ABSENCE, 0);
		return;
	}
	read_lines(&evaluation, text);
	conclude(&evaluation);
}
