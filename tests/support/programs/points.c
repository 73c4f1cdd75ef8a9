/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comes by hook points, over and over:
 *
 *	points		for each line on standard input: until the next line comes, or the end
 *	points N	N times for each line
 *
 * A round is lseek(-77), probe(), and gated() when somebody has raised its semaphore. After each line it prints how
 * many rounds it made and how often gated() was called.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ROUNDS 64 /* between two looks at standard input */
#define HIDDEN __attribute__((noinline, noclone, used))

/* As a USDT probe's: in a section of its own, raised by the kernel while somebody watches. */
__attribute__((section(".probes"))) volatile unsigned short gate;

static volatile long sink;

HIDDEN long probe(long value)
{
	sink = value;
	return value + 1;
}

HIDDEN long gated(long value)
{
	sink = value;
	return value + 2;
}

static int has_input(void)
{
	struct pollfd input = {.fd = 0, .events = POLLIN};

	return poll(&input, 1, 0) != 0;
}

int main(int argc, char **argv)
{
	long wanted = argc > 1 ? atol(argv[1]) : 0, rounds, calls, i;
	char line[16];

	while (read(0, line, sizeof(line)) > 0) {
		rounds = calls = 0;
		while (wanted ? rounds < wanted : !has_input()) {
			for (i = 0; i < (wanted ? 1 : ROUNDS); i++, rounds++) {
				lseek(-77, 0, SEEK_CUR);
				probe(rounds);
				if (gate) {
					gated(rounds);
					calls++;
				}
			}
		}
		if (!wanted && read(0, line, sizeof(line)) < 0)
			return 1;
		printf("%ld %ld\n", rounds, calls);
		fflush(stdout);
	}
	return 0;
}
