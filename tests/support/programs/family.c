/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes descendants as its arguments say:
 *
 *	family STEP... [-- STEP...]
 *
 *	ask:TOKEN       calls lseek(-77, TOKEN, 0), which a test's program answers
 *	wait            prints "waiting" and waits for a line on standard input
 *	fork            the other steps happen in a child; the parent ends as the child ended
 *	vfork PATH      the other steps happen in an image of PATH that a child of vfork becomes
 *	sibling         the same in a child whose parent is this process's parent (CLONE_PARENT)
 *	orphan          the same in a grandchild whose parent has ended
 *	thread          the other steps happen in another thread
 *	last            the same, and the first thread ends at once
 *	exec PATH       the other steps happen in a new image, of PATH
 *	unshare FLAGS   unshare(2)
 *	newpid          the other steps happen in the first process of a new pid namespace
 *	setns PATH      joins a namespace
 *	setuid UID      setuid(2)
 *	bomb NUMBER     makes children that wait for this process's end
 *	reap            the other steps happen in a child; the parent stays, and becomes that of orphans below
 *	hop ask:TOKEN   asks and goes on in a child, and its parent ends, until its program's file has lost its name
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *self;

static void run(char **words);

static void fail(const char *what)
{
	perror(what);
	exit(99);
}

static void end_as(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void say(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		exit(98);
}

static void split_off(char **rest, unsigned long flags)
{
	struct clone_args args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
	pid_t child = syscall(SYS_clone3, &args, sizeof(args));

	if (child < 0)
		fail("clone3");
	if (!child)
		return run(rest);
	if (flags & CLONE_PARENT)
		exit(0);
	end_as(child);
}

/* The grandchild goes on when its parent is gone: it reads the end of the pipe that the parent held. */
static void orphan(char **rest)
{
	int gate[2];
	char byte;
	pid_t middle;

	if (pipe(gate))
		fail("pipe");
	middle = fork();
	if (middle < 0)
		fail("fork");
	if (!middle) {
		if (fork())
			_exit(0);
		close(gate[1]);
		if (read(gate[0], &byte, 1) != 0)
			fail("read");
		return run(rest);
	}
	if (waitpid(middle, NULL, 0) != middle)
		fail("waitpid");
	close(gate[1]);
	exit(0);
}

static void *in_thread(void *words)
{
	run(words);
	exit(0);
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

static char **command(char *path, char **rest)
{
	int count = 0;
	char **words;

	while (rest[count])
		count++;
	words = calloc(count + 2, sizeof(*words));
	words[0] = path;
	memcpy(words + 1, rest, count * sizeof(*words));
	return words;
}

static void become(char *path, char **rest)
{
	execv(path, command(path, rest));
	fail(path);
}

static void vfork_into(char *path, char **rest)
{
	char **words = command(path, rest);
	pid_t child = vfork();

	if (!child) {
		execv(path, words);
		_exit(97);
	}
	end_as(child);
}

static void join(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0 || setns(fd, 0))
		fail(path);
	close(fd);
}

static void bomb(int number)
{
	int gate[2];
	char byte;

	if (pipe(gate))
		fail("pipe");
	while (number--) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child)
			continue;
		close(gate[1]);
		_exit(read(gate[0], &byte, 1) < 0);
	}
}

static void hop(long token)
{
	while (!access(self, F_OK)) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child)
			_exit(0);
		syscall(SYS_lseek, -77, token, 0);
	}
}

static void reap(char **rest)
{
	if (signal(SIGCHLD, SIG_IGN) == SIG_ERR || prctl(PR_SET_CHILD_SUBREAPER, 1))
		fail("reap");
	if (!fork())
		return run(rest);
	for (;;)
		pause();
}

static void pause_for_line(void)
{
	char line[16];

	say("waiting\n");
	if (read(0, line, sizeof(line)) < 0)
		fail("read");
}

static void check(int result, const char *what)
{
	if (result)
		fail(what);
}

static char **step(char **words)
{
	int count = 0;
	char **rest, *verb = words[0];

	while (words[count] && strcmp(words[count], "--"))
		count++;
	rest = words + count + (words[count] != NULL);
	if (!strncmp(verb, "ask:", 4))
		syscall(SYS_lseek, -77, atol(verb + 4), 0);
	else if (!strcmp(verb, "wait"))
		pause_for_line();
	else if (!strcmp(verb, "fork"))
		split_off(rest, 0);
	else if (!strcmp(verb, "sibling"))
		split_off(rest, CLONE_PARENT);
	else if (!strcmp(verb, "newpid"))
		split_off(rest, CLONE_NEWPID);
	else if (!strcmp(verb, "vfork"))
		vfork_into(words[1], rest);
	else if (!strcmp(verb, "orphan"))
		orphan(rest);
	else if (!strcmp(verb, "thread"))
		run_in_thread(rest, 0);
	else if (!strcmp(verb, "last"))
		run_in_thread(rest, 1);
	else if (!strcmp(verb, "exec"))
		become(words[1], rest);
	else if (!strcmp(verb, "unshare"))
		check(unshare(strtol(words[1], NULL, 0)), "unshare");
	else if (!strcmp(verb, "setns"))
		join(words[1]);
	else if (!strcmp(verb, "setuid"))
		check(setuid(atoi(words[1])), "setuid");
	else if (!strcmp(verb, "bomb"))
		bomb(atoi(words[1]));
	else if (!strcmp(verb, "hop"))
		hop(atol(words[1] + 4));
	else if (!strcmp(verb, "reap"))
		reap(rest);
	else
		fail(verb);
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
	(void)argc;
	self = argv[0];
	run(argv + 1);
	return 0;
}
