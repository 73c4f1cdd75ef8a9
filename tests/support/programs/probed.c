/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What uprobes and USDT probes are tried on: `probed`. It says "ready", waits for a line, calls each function as often
 * as the table in tests/kernel/test_user_probes.py says, prints its semaphore as it was meanwhile, and waits for
 * another line.
 */
#include <stdint.h>
#include <stdio.h>

#include "notes.h"

#define NOINLINE __attribute__((noinline, noclone, noipa))

struct inner {
	int32_t number;
	const char *name;
};

struct outer {
	uint64_t before;
	struct inner *inner;
	uint8_t low : 3;
	uint8_t high : 5;
};

int podgate_other(int count);

PROBE_BASE();
PROBE_SEMAPHORE(counted);

static volatile int32_t counter = -77;
static volatile int64_t table[4] = {10, 11, 12, 13};

NOINLINE int podgate_add(int left, int right)
{
	return left + right;
}

int podgate_alias(int left, int right) __attribute__((alias("podgate_add")));

static NOINLINE int podgate_local(const char *text)
{
	return text[0];
}

static NOINLINE int podgate_twin(int value)
{
	return value + 1;
}

NOINLINE int podgate_struct(struct outer *outer)
{
	return outer->inner->number;
}

static int implementation(void)
{
	return 5;
}

static int (*choose(void))(void)
{
	return implementation;
}

int podgate_chosen(void) __attribute__((ifunc("choose")));

static NOINLINE void plain(int32_t number, const char *text)
{
	PROBE(plain, "-4@%[number] 8@%[text]", [number] "r"(number), [text] "r"(text));
}

static NOINLINE void places(uint64_t which)
{
	if (which)
		PROBE(places, "8@%[which]", [which] "r"(which));
	else
		PROBE(places, "-4@%[which]", [which] "n"(-5));
}

static NOINLINE void counted(void)
{
	if (*(volatile unsigned short *)&podgate_semaphore_counted)
		PROBE_COUNTED(counted, "");
}

/* Where an operand is, is the compiler's choice, and what it may choose from is the constraint's. */
static NOINLINE void operands(uint64_t index, uint32_t word)
{
	volatile int32_t local = -1234;

	PROBE(operands, "-4@%[local] -4@%[counter] -8@%[element] 1@%h[word] -8@%[fixed] 2@%w[word]", [local] "m"(local),
	      [counter] "m"(counter), [element] "m"(table[index]), [word] "Q"(word), [fixed] "n"(-9));
	PROBE(scaled,
	      "-8@(%[base],%[index],8) 8@%[address]", [base] "r"(table), [index] "r"(index), [address] "r"(&counter));
}

int main(void)
{
	struct inner inner = {42, "inner"};
	struct outer outer = {1, &inner, 5, 21};
	unsigned short during;
	int sum = 0;

	puts("ready");
	fflush(stdout);
	getchar();
	during = *(volatile unsigned short *)&podgate_semaphore_counted;
	for (int i = 0; i < 5; i++)
		sum += podgate_add(i, 2);
	for (int i = 0; i < 3; i++)
		sum += podgate_local("local");
	sum += podgate_twin(1) + podgate_other(2) + podgate_struct(&outer) + podgate_chosen();
	plain(-7, "plain text");
	for (uint64_t i = 0; i < 4; i++)
		places(i);
	counted();
	counted();
	operands(2, 0xabcd);
	printf("semaphore %u sum %d\n", during, sum);
	fflush(stdout);
	getchar();
	return 0;
}
