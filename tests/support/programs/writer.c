/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large buffers for system calls, on the descriptor that the policies of tests/kernel/test_max_data.py name. GROUP is
 * the directory of a cgroup to move into, or `-`.
 *
 *	writer GROUP write OUT SEED SIZE LENGTH SKEW
 *		write(2) of LENGTH bytes, of which SIZE can be read; they begin SKEW bytes behind the begin of a page
 *	writer GROUP map OUT FILE LENGTH
 *		write(2) of a file's mapping that nobody has touched
 *	writer GROUP read FILE LENGTH
 *		read(2) of a file
 *	writer GROUP churn OUT SEED SIZE COUNT
 *		COUNT times write(2), while another thread overwrites the buffer with SEED + 1's and takes pages away
 *	writer GROUP repeat OUT SEED SIZE COUNT
 *		COUNT times write(2) of the same
 *
 * Word n of a buffer, of 4 bytes, is n * 2654435761 + SEED. It prints what the calls gave.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DESCRIPTOR 77
#define PAGE 4096

struct buffer {
	unsigned char *begin;
	size_t size;
	uint32_t seed;
};

static volatile int over;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void use(const char *path, int flags)
{
	int fd = open(path, flags | O_CREAT, 0600);

	if (fd < 0 || dup2(fd, DESCRIPTOR) < 0)
		fail(path);
}

static void fill(unsigned char *out, size_t size, uint32_t seed)
{
	size_t n;

	for (n = 0; n < size; n++)
		out[n] = (uint32_t)(n / 4 * 2654435761u + seed) >> (8 * (n % 4));
}

/* Memory that ends at its last byte: what comes behind cannot be read. */
static struct buffer make(size_t size, size_t skew, uint32_t seed)
{
	size_t room = (skew + size + PAGE - 1) / PAGE * PAGE;
	unsigned char *at = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct buffer made = {at + skew, size, seed};

	if (at == MAP_FAILED || mprotect(at + room, PAGE, PROT_NONE))
		fail("mmap");
	fill(made.begin, size, seed);
	return made;
}

static void *overwrite(void *argument)
{
	const struct buffer *buffer = argument;
	size_t page = (buffer->size / PAGE / 2) * PAGE;
	int round;

	for (round = 0; !over; round++) {
		fill(buffer->begin, buffer->size, buffer->seed + (round & 1));
		mprotect(buffer->begin + page, PAGE, PROT_NONE);
		mprotect(buffer->begin + page, PAGE, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

static void churn(uint32_t seed, size_t size, int count)
{
	struct buffer buffer = make(size, 0, seed);
	pthread_t other;
	int i;

	if (pthread_create(&other, NULL, overwrite, &buffer))
		fail("pthread_create");
	for (i = 0; i < count; i++)
		printf("%zd\n", write(DESCRIPTOR, buffer.begin, size));
	over = 1;
	pthread_join(other, NULL);
}

static void map(const char *path, size_t length)
{
	void *at = mmap(NULL, length, PROT_READ, MAP_PRIVATE, open(path, O_RDONLY), 0);

	if (at == MAP_FAILED)
		fail(path);
	printf("%zd\n", write(DESCRIPTOR, at, length));
}

static void enter(const char *group)
{
	char path[4096];
	int fd;

	if (!strcmp(group, "-"))
		return;
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail(path);
	close(fd);
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static int obey(int count, char **words)
{
	const char *what = words[0];

	if (!strcmp(what, "write") && count == 6) {
		struct buffer buffer = make(number(words[3]), number(words[5]), number(words[2]));

		use(words[1], O_WRONLY);
		printf("%zd\n", write(DESCRIPTOR, buffer.begin, number(words[4])));
	} else if (!strcmp(what, "map") && count == 4) {
		use(words[1], O_WRONLY);
		map(words[2], number(words[3]));
	} else if (!strcmp(what, "read") && count == 3) {
		struct buffer buffer = make(number(words[2]), 0, 0);

		use(words[1], O_RDONLY);
		printf("%zd\n", read(DESCRIPTOR, buffer.begin, buffer.size));
	} else if (!strcmp(what, "repeat") && count == 5) {
		struct buffer buffer = make(number(words[3]), 0, number(words[2]));
		int i;

		use(words[1], O_WRONLY);
		for (i = 0; i < atoi(words[4]); i++)
			printf("%zd\n", write(DESCRIPTOR, buffer.begin, buffer.size));
	} else if (!strcmp(what, "churn") && count == 5) {
		use(words[1], O_WRONLY);
		churn(number(words[2]), number(words[3]), atoi(words[4]));
	} else {
		return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	enter(argv[1]);
	return obey(argc - 2, argv + 2);
}
