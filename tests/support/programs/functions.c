/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens files in ways that calls.c does not, from inside a cgroup:
 *
 *	functions JOIN race PATH OTHER COUNT	opens a name that another thread switches all the time between two paths
 *						of the same length, which differ in their last byte,
 *						COUNT times and until it was a thousandth of that each of them
 *	functions JOIN storm THREADS PATH	opens a file in threads until a line comes on standard input
 *	functions JOIN uring PATH [async]	asks io_uring to open a file
 *
 * JOIN is a cgroup directory to move into first, or - to stay. race and storm print how many times the file that begins
 * with an s was opened, another one was, and how often the error was EPERM, EACCES, anything else; uring the result.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 1
#define SECRET 's'

enum { OPENED, OTHER, NOT_PERMITTED, NO_ACCESS, ELSE, KINDS };

static char path[4096];
static volatile int over;
static long counts[KINDS];

static void fail(const char *what)
{
	perror(what);
	exit(99);
}

static void move(const char *directory)
{
	char file[4096];
	int fd;

	snprintf(file, sizeof(file), "%s/cgroup.procs", directory);
	fd = open(file, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail(file);
	close(fd);
}

static int kind_of_error(int number)
{
	return number == EPERM ? NOT_PERMITTED : number == EACCES ? NO_ACCESS : ELSE;
}

static int try_open(void)
{
	int fd = open(path, O_RDONLY);
	char first = 0;

	if (fd < 0)
		return kind_of_error(errno);
	if (read(fd, &first, 1) != 1)
		fail("read");
	close(fd);
	return first == SECRET ? OPENED : OTHER;
}

static void tell(void)
{
	printf("%ld %ld %ld %ld %ld\n", counts[OPENED], counts[OTHER], counts[NOT_PERMITTED], counts[NO_ACCESS],
	       counts[ELSE]);
}

static void *switch_names(void *other)
{
	volatile char *last = path + strlen(path) - 1;
	char mine = *last, another = ((char *)other)[strlen(other) - 1];

	while (!over) {
		*last = another;
		*last = mine;
	}
	return NULL;
}

/* Whether both names were there often enough: on a busy processor the other thread can be late. */
static int is_raced(long calls, long count)
{
	long least = counts[OTHER] < calls - counts[OTHER] ? counts[OTHER] : calls - counts[OTHER];

	return calls >= count && least > count / 1000;
}

static void race(const char *first, char *other, long count)
{
	pthread_t thread;
	long calls;

	strcpy(path, first);
	if (pthread_create(&thread, NULL, switch_names, other))
		fail("pthread_create");
	for (calls = 0; !is_raced(calls, count); calls++)
		counts[try_open()]++;
	over = 1;
	pthread_join(thread, NULL);
	tell();
}

static void *open_on(void *unused)
{
	(void)unused;
	while (!over)
		__atomic_fetch_add(&counts[try_open()], 1, __ATOMIC_RELAXED);
	return NULL;
}

static void storm(int threads, const char *what)
{
	pthread_t *running = calloc(threads, sizeof(*running));
	char line[16];
	int i;

	strcpy(path, what);
	for (i = 0; i < threads; i++)
		if (pthread_create(&running[i], NULL, open_on, NULL))
			fail("pthread_create");
	puts("running");
	fflush(stdout);
	if (read(0, line, sizeof(line)) < 0)
		fail("read");
	over = 1;
	for (i = 0; i < threads; i++)
		pthread_join(running[i], NULL);
	tell();
}

static void *map_ring(int ring, size_t size, off_t offset)
{
	void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	if (mapped == MAP_FAILED)
		fail("mmap");
	return mapped;
}

/* IORING_FEAT_SINGLE_MMAP: one mapping has both rings. */
static void uring(const char *what, unsigned char flags)
{
	struct io_uring_params params = {};
	struct io_uring_sqe *entry;
	struct io_uring_cqe *answer;
	char *rings;
	int ring = syscall(SYS_io_uring_setup, ENTRIES, &params);

	if (ring < 0)
		fail("io_uring_setup");
	rings = map_ring(ring, params.cq_off.cqes + params.cq_entries * sizeof(*answer), IORING_OFF_SQ_RING);
	entry = map_ring(ring, params.sq_entries * sizeof(*entry), IORING_OFF_SQES);
	entry->opcode = IORING_OP_OPENAT;
	entry->flags = flags;
	entry->fd = AT_FDCWD;
	entry->addr = (unsigned long)what;
	((unsigned int *)(rings + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned int *)(rings + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		fail("io_uring_enter");
	answer = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
	printf("%d\n", answer->res);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "-"))
		move(argv[1]);
	if (!strcmp(argv[2], "race") && argc == 6)
		race(argv[3], argv[4], atol(argv[5]));
	else if (!strcmp(argv[2], "storm") && argc == 5)
		storm(atoi(argv[3]), argv[4]);
	else if (!strcmp(argv[2], "uring"))
		uring(argv[3], argc > 4 ? IOSQE_ASYNC : 0);
	else
		return 2;
	return 0;
}
