/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What hooks of all kinds are tried on. It says "ready", then does what each line on its standard input says, and
 * prints what came of it:
 *
 *	grade N TEXT	grade(N, TEXT), which gives 2 N
 *	name N		the length of name_of(N), which gives a text
 *	sum N		sum(N), which calls itself
 *	deep N		grade(N) below outer() and inner()
 *	gauge N		a USDT probe with N in memory; what is there afterwards
 *	enter DIR	moves into a cgroup
 *	storm		lseek(-1) until the next line comes: how many, and how many SIGUSR1 came
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "notes.h"

#define NOINLINE __attribute__((noinline, noclone, noipa))

PROBE_BASE();

static volatile int gauged;
static volatile sig_atomic_t signals;

NOINLINE long grade(long number, const char *text)
{
	return 2 * number + (text[0] == 0);
}

NOINLINE const char *name_of(long number)
{
	return number ? "some" : "nobody";
}

NOINLINE long sum(long number)
{
	return number ? number + sum(number - 1) : 0;
}

NOINLINE long inner(long number)
{
	return grade(number, "deep") + 1;
}

NOINLINE long outer(long number)
{
	return inner(number) + 1;
}

static NOINLINE void gauge(int number)
{
	gauged = number;
	PROBE(gauge, "-4@%[gauged] -4@%[number]", [gauged] "m"(gauged), [number] "r"(number));
}

static void count(int number)
{
	(void)number;
	signals++;
}

static int has_input(void)
{
	struct pollfd input = {.fd = 0, .events = POLLIN};

	return poll(&input, 1, 0) != 0;
}

static void storm(void)
{
	long calls = 0;
	int i;

	signals = 0;
	while (!has_input())
		for (i = 0; i < 64; i++, calls++)
			lseek(-1, 0, SEEK_CUR);
	printf("%ld %ld\n", calls, (long)signals);
}

static void enter(const char *directory)
{
	char path[256];
	FILE *members;

	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	members = fopen(path, "w");
	printf("%s\n", members && fputs("0", members) >= 0 && !fclose(members) ? "entered" : path);
}

static void obey(const char *word, long number, const char *text)
{
	if (!strcmp(word, "grade"))
		printf("%ld\n", grade(number, text));
	else if (!strcmp(word, "name"))
		printf("%zu\n", strlen(name_of(number)));
	else if (!strcmp(word, "sum"))
		printf("%ld\n", sum(number));
	else if (!strcmp(word, "deep"))
		printf("%ld\n", outer(number));
	else if (!strcmp(word, "enter"))
		enter(text);
	else if (!strcmp(word, "storm"))
		storm();
	else if (!strcmp(word, "gauge")) {
		gauge((int)number);
		printf("%d\n", gauged);
	}
}

int main(void)
{
	char line[256], word[32], text[128];
	long number;

	signal(SIGUSR1, count);
	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		number = 0;
		word[0] = text[0] = 0;
		if (sscanf(line, "%31s %ld %127s", word, &number, text) < 2)
			sscanf(line, "%*s %127s", text);
		obey(word, number, text);
	}
	return 0;
}
