/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process whose children violate a policy, one after the other: each calls lseek(-1, 0, SEEK_SET) and, if it still
 * lives, ends with status 0.
 *
 *	/forks MILLISECONDS	the pause between two children
 *
 * It prints "killed N" after each 100th child that SIGKILL has ended, and "escaped" for each one that has ended by
 * itself. It ends only when it is killed, or with status 2 when it cannot fork. No C library, x86_64 only.
 */

#define SYS_WRITE 1
#define SYS_LSEEK 8
#define SYS_NANOSLEEP 35
#define SYS_FORK 57
#define SYS_WAIT4 61
#define SYS_EXIT_GROUP 231
#define SIGKILL 9
#define STEP 100

struct timespec {
	long seconds;
	long nanoseconds;
};

__asm__(".globl _start\n"
	"_start:\n"
	"	movq %rsp, %rdi\n"
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

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		syscall4(SYS_EXIT_GROUP, code, 0, 0, 0);
}

static long parse_number(const char *text)
{
	long n = 0;

	for (; *text; text++) {
		if (*text < '0' || *text > '9' || n > 1000000)
			leave(2);
		n = n * 10 + (*text - '0');
	}
	return n;
}

static void print_killed(long value)
{
	char line[40] = "killed ";
	char digits[24], *at = digits;
	int length = 7;

	do {
		*at++ = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	while (at > digits)
		line[length++] = *--at;
	line[length++] = '\n';
	syscall4(SYS_WRITE, 1, (long)line, length, 0);
}

/* The status of a child that has violated, as wait4 tells it. */
static int violate(void)
{
	long child = syscall4(SYS_FORK, 0, 0, 0, 0);
	int status = 0;

	if (child < 0)
		leave(2);
	if (!child) {
		syscall4(SYS_LSEEK, -1, 0, 0, 0);
		leave(0);
	}
	if (syscall4(SYS_WAIT4, child, (long)&status, 0, 0) != child)
		leave(2);
	return status;
}

__attribute__((noreturn, used)) void run(const long *stack)
{
	struct timespec pause = {};
	long killed = 0;

	if (stack[0] != 2)
		leave(2);
	pause.nanoseconds = parse_number((const char *)stack[2]) * 1000000;
	for (;;) {
		if ((violate() & 0x7f) != SIGKILL)
			syscall4(SYS_WRITE, 1, (long)"escaped\n", 8, 0);
		else if (++killed % STEP == 0)
			print_killed(killed);
		syscall4(SYS_NANOSLEEP, (long)&pause, 0, 0, 0);
	}
}
