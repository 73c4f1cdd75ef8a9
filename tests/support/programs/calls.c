/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes system calls as its arguments say, from inside a cgroup:
 *
 *	calls JOIN STEP... [-- STEP...]
 *
 * JOIN is a cgroup directory to move into first, or - to stay. Steps are separated by --, and done in order:
 *
 *	NUMBER ARG...        the system call; prints its result, or minus its errno
 *	int80 NUMBER ARG...  the same through the 32-bit gate
 *	enter DIR            moves into another cgroup
 *	wait                 prints "waiting" and waits for a line on standard input
 *	fork                 the other steps happen in a child; the parent ends as the child ended
 *	child DIR            the same in a child that the parent has moved into a cgroup
 *	into DIR             the same in a child that is made in a cgroup (clone3 with CLONE_INTO_CGROUP)
 *	newpid               the same in the first process of a new pid namespace
 *	sibling              the same in a child that another child has made for this process (CLONE_PARENT)
 *	thread               the other steps happen in another thread
 *	last                 the same, and the first thread ends at once
 *	exec                 the other steps happen in a new image of this program
 *	spin MS              lseek(-1, 0, 0), again and again, for so many milliseconds
 *
 * An ARG is i:NUMBER (64 bits, any base), s:TEXT, b:HEX (bytes), r:SIZE (a buffer), e:TEXT (without NUL, at the end of
 *its memory: what follows is not mapped), or a text in memory that nobody has touched yet: f:PATH (the begin of a file,
 *mapped), x:HEAD:PATH (HEAD at the end of a resident page, and then such a mapping).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 6

static char *self;
static int page;

static void fail(const char *what)
{
	perror(what);
	exit(99);
}

static void say(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		exit(98);
}

/* pid 0: the caller. */
static void move(const char *directory, pid_t pid)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	fd = open(path, O_WRONLY);
	if (fd < 0 || dprintf(fd, "%d", pid) < 0)
		fail(path);
	close(fd);
}

static void map_file(const char *path, void *where, int flags, char **out)
{
	int fd = open(path, O_RDONLY);

	*out = fd < 0 ? MAP_FAILED : mmap(where, page, PROT_READ, MAP_PRIVATE | flags, fd, 0);
	if (*out == MAP_FAILED)
		fail(path);
	close(fd);
}

/* The text at the end of the first of two pages; the second one is not touched. */
static char *at_page_end(const char *text)
{
	char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		fail("mmap");
	return memcpy(pages + page - strlen(text), text, strlen(text));
}

static long half_resident(char *head)
{
	char *path = strchr(head, ':'), *text, *second;

	*path++ = 0;
	text = at_page_end(head);
	map_file(path, text + strlen(head), MAP_FIXED, &second);
	return (long)text;
}

static long half_mapped(const char *head)
{
	char *text = at_page_end(head);

	if (munmap(text + strlen(head), page))
		fail("munmap");
	return (long)text;
}

static long bytes(const char *hex)
{
	size_t size = strlen(hex) / 2, i;
	char *buffer = malloc(size + 1);

	for (i = 0; i < size; i++)
		sscanf(hex + 2 * i, "%2hhx", (unsigned char *)&buffer[i]);
	return (long)buffer;
}

static long value(char *arg)
{
	char *text = arg + 2, *mapped;

	switch (arg[0]) {
	case 'i':
		return text[0] == '-' ? strtol(text, NULL, 0) : (long)strtoul(text, NULL, 0);
	case 's':
		return (long)text;
	case 'b':
		return bytes(text);
	case 'r':
		return (long)calloc(1, strtoul(text, NULL, 0));
	case 'e':
		return half_mapped(text);
	case 'x':
		return half_resident(text);
	case 'f':
		map_file(text, NULL, 0, &mapped);
		return (long)mapped;
	}
	fail(arg);
	return 0;
}

static long call32(long number, const long *args)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(args[0]), "c"(args[1]), "d"(args[2])
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)result;
}

static void call(char **words, int count, int gate32)
{
	long args[MAX_ARGS] = {}, result;
	char line[64];
	int i;

	for (i = 1; i < count && i <= MAX_ARGS; i++)
		args[i - 1] = value(words[i]);
	if (gate32) {
		result = call32(atol(words[0]), args);
	} else {
		result = syscall(atol(words[0]), args[0], args[1], args[2], args[3], args[4], args[5]);
		result = result == -1 ? -errno : result;
	}
	snprintf(line, sizeof(line), "%ld\n", result);
	say(line);
}

static void run(char **words);

static void *in_thread(void *words)
{
	run(words);
	exit(0);
}

static void end_as(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) < 0)
		fail("waitpid");
	exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void split_off(char **rest, unsigned long flags, const char *directory)
{
	struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
	pid_t child;

	if (directory)
		args.cgroup = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	child = syscall(SYS_clone3, &args, sizeof(args));
	if (child < 0)
		fail("clone3");
	if (!child)
		return run(rest);
	end_as(child);
}

/* The child is that of this process, made by another of its children, which ends: as runc makes its init process. */
static void split_off_sibling(char **rest)
{
	struct clone_args args = {.flags = CLONE_PARENT};
	pid_t maker = fork(), child;

	if (maker < 0)
		fail("fork");
	if (!maker) {
		child = syscall(SYS_clone3, &args, sizeof(args));
		if (child < 0)
			fail("clone3");
		if (!child)
			return run(rest);
		_exit(0);
	}
	if (waitpid(maker, NULL, 0) != maker)
		fail("waitpid");
	end_as(-1);
}

/* The child waits at the pipe until it is where it belongs. */
static void split_off_moved(char **rest, const char *directory)
{
	int gate[2];
	char byte;
	pid_t child;

	if (pipe(gate))
		fail("pipe");
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		close(gate[1]);
		if (read(gate[0], &byte, 1) < 0)
			fail("read");
		return run(rest);
	}
	move(directory, child);
	close(gate[1]);
	end_as(child);
}

static void run_in_thread(char **rest, int alone)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, in_thread, rest))
		fail("pthread_create");
	if (alone)
		pthread_exit(NULL);
	pthread_join(thread, NULL);
}

static void run_anew(char **rest)
{
	int count = 0;
	char **words;

	while (rest[count])
		count++;
	words = calloc(count + 3, sizeof(*words));
	words[0] = self;
	words[1] = "-";
	memcpy(words + 2, rest, count * sizeof(*words));
	execv(self, words);
	fail(self);
}

/* One call after the other, as fast as they come. */
static void spin(long milliseconds)
{
	struct timespec now;
	long long end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = now.tv_sec * 1000LL + now.tv_nsec / 1000000 + milliseconds;
	do {
		syscall(SYS_lseek, -1, 0, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec * 1000LL + now.tv_nsec / 1000000 < end);
}

static void pause_for_line(void)
{
	char line[16];

	say("waiting\n");
	if (read(0, line, sizeof(line)) < 0)
		fail("read");
}

static char **step(char **words)
{
	int count = 0;
	char **rest;

	while (words[count] && strcmp(words[count], "--"))
		count++;
	rest = words + count + (words[count] != NULL);
	if (!strcmp(words[0], "enter"))
		move(words[1], 0);
	else if (!strcmp(words[0], "wait"))
		pause_for_line();
	else if (!strcmp(words[0], "fork"))
		split_off(rest, 0, NULL);
	else if (!strcmp(words[0], "child"))
		split_off_moved(rest, words[1]);
	else if (!strcmp(words[0], "into"))
		split_off(rest, CLONE_INTO_CGROUP, words[1]);
	else if (!strcmp(words[0], "newpid"))
		split_off(rest, CLONE_NEWPID, NULL);
	else if (!strcmp(words[0], "sibling"))
		split_off_sibling(rest);
	else if (!strcmp(words[0], "spin"))
		spin(atol(words[1]));
	else if (!strcmp(words[0], "thread"))
		run_in_thread(rest, 0);
	else if (!strcmp(words[0], "last"))
		run_in_thread(rest, 1);
	else if (!strcmp(words[0], "exec"))
		run_anew(rest);
	else if (!strcmp(words[0], "int80"))
		call(words + 1, count - 1, 1);
	else
		call(words, count, 0);
	return rest;
}

static void run(char **words)
{
	while (*words)
		words = step(words);
	exit(0);
}

int main(int argc, char **argv)
{
	page = getpagesize();
	self = argv[0];
	if (argc < 2)
		return 0;
	if (strcmp(argv[1], "-"))
		move(argv[1], 0);
	run(argv + 2);
	return 0;
}
