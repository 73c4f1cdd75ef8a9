/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs programs as a container's held init process runs its hooks, and tells what each took: `launch CGROUP STATE
 * PROGRAM ARGUMENT... [-- PROGRAM ARGUMENT...]...`, at most eight of them.
 *
 * It enters the cgroup whose cgroup.procs is CGROUP. Each line on standard input is a digit: that program, counted from
 * 0, is run with the file STATE as its standard input, nothing as its output, and an empty environment. The answer is a
 * line with its wait status, nanoseconds from before the fork until it was waited for (CLOCK_MONOTONIC), microseconds
 * of user and system time, and the most KiB that were resident. It ends at the end of its input; exit code 2 means a
 * usage error, 1 that something failed.
 *
 * The kernel counts for a program what was resident in the process that forked (getrusage(2), ru_maxrss): this one is a
 * few pages, because it has no C library. x86_64 only.
 */

#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_CLOSE 3
#define SYS_DUP2 33
#define SYS_FORK 57
#define SYS_EXECVE 59
#define SYS_WAIT4 61
#define SYS_CLOCK_GETTIME 228
#define SYS_EXIT_GROUP 231
#define CLOCK_MONOTONIC 1
#define O_RDONLY 0
#define O_WRONLY 1
#define MAX_PROGRAMS 8
#define LINE 128

struct timespec {
	long seconds;
	long nanoseconds;
};

struct timeval {
	long seconds;
	long microseconds;
};

/* struct rusage (include/uapi/linux/resource.h) */
struct rusage {
	struct timeval user;
	struct timeval system;
	long max_rss;
	long others[13];
};

struct launcher {
	const char *state;
	char **programs[MAX_PROGRAMS];
	int count;
};

__asm__(".globl _start\n"
	"_start:\n"
	"	mov %rsp, %rdi\n"
	"	andq $-16, %rsp\n"
	"	call run\n");

static inline __attribute__((always_inline)) long syscall4(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static inline __attribute__((always_inline)) long syscall3(long number, long a, long b, long c)
{
	return syscall4(number, a, b, c, 0);
}

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		syscall3(SYS_EXIT_GROUP, code, 0, 0);
}

static long check(long result)
{
	if (result < 0)
		leave(1);
	return result;
}

static long now(void)
{
	struct timespec time;

	check(syscall3(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&time, 0));
	return time.seconds * 1000000000L + time.nanoseconds;
}

/* cgroups(7): 0 is the process that writes it. */
static void enter_cgroup(const char *procs)
{
	long file = check(syscall3(SYS_OPEN, (long)procs, O_WRONLY, 0));

	check(syscall3(SYS_WRITE, file, (long)"0", 1));
	check(syscall3(SYS_CLOSE, file, 0, 0));
}

static void redirect(const char *path, int flags, int target)
{
	long file = check(syscall3(SYS_OPEN, (long)path, flags, 0));

	if (file == target)
		return;
	check(syscall3(SYS_DUP2, file, target, 0));
	check(syscall3(SYS_CLOSE, file, 0, 0));
}

static __attribute__((noreturn)) void become(const struct launcher *launcher, char **program)
{
	char *environment[] = {0};

	redirect(launcher->state, O_RDONLY, 0);
	redirect("/dev/null", O_WRONLY, 1);
	syscall3(SYS_EXECVE, (long)program[0], (long)program, (long)environment);
	leave(127);
}

static long microseconds(const struct timeval *time)
{
	return time->seconds * 1000000L + time->microseconds;
}

static char *put_number(char *at, long value, char end)
{
	char digits[24];
	int n = 0;

	do {
		digits[n++] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	while (n)
		*at++ = digits[--n];
	*at++ = end;
	return at;
}

static void launch(const struct launcher *launcher, char **program)
{
	struct rusage used = {0};
	char line[LINE], *at = line;
	long began = now(), child = check(syscall3(SYS_FORK, 0, 0, 0)), ended;
	int status = 0;

	if (!child)
		become(launcher, program);
	check(syscall4(SYS_WAIT4, child, (long)&status, 0, (long)&used));
	ended = now();
	at = put_number(at, status, ' ');
	at = put_number(at, ended - began, ' ');
	at = put_number(at, microseconds(&used.user) + microseconds(&used.system), ' ');
	at = put_number(at, used.max_rss, '\n');
	check(syscall3(SYS_WRITE, 1, (long)line, at - line));
}

static void parse_programs(struct launcher *launcher, char **arguments)
{
	launcher->programs[launcher->count++] = arguments;
	for (; *arguments; arguments++) {
		if ((*arguments)[0] != '-' || (*arguments)[1] != '-' || (*arguments)[2])
			continue;
		*arguments = 0;
		if (launcher->count == MAX_PROGRAMS)
			leave(2);
		launcher->programs[launcher->count++] = arguments + 1;
	}
}

/* The digit of one line, or -1 at the end of the input. */
static int read_order(void)
{
	char line[2];
	int n = 0;

	while (n < 2) {
		long got = check(syscall3(SYS_READ, 0, (long)&line[n], 1));

		if (!got && n)
			leave(2);
		if (!got)
			return -1;
		n++;
	}
	if (line[0] < '0' || line[0] > '9' || line[1] != '\n')
		leave(2);
	return line[0] - '0';
}

__attribute__((noreturn, used)) void run(long *stack)
{
	char **arguments = (char **)(stack + 1);
	struct launcher launcher = {0};
	int order;

	if (stack[0] < 4)
		leave(2);
	launcher.state = arguments[2];
	parse_programs(&launcher, arguments + 3);
	enter_cgroup(arguments[1]);
	while ((order = read_order()) >= 0) {
		if (order >= launcher.count || !launcher.programs[order][0])
			leave(2);
		launch(&launcher, launcher.programs[order]);
	}
	leave(0);
}
