/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes one system call many times in a row and tells how long that took.
 *
 * Each line on standard input is a batch:
 *
 *	h N	N calls of lseek(-1, 0, SEEK_SET)
 *	u N	N calls of getppid()
 *	t N	N calls of access(TEXT, F_OK) of a path that does not exist
 *	f N	N calls of lseek(F, 0, SEEK_SET), where F is an open directory
 *	c N	N calls of fcntl(0, F_GETFD), which asks the security modules and does next to nothing else
 *
 * The answer is a line with the batch's nanoseconds (CLOCK_MONOTONIC). It ends at the end of its input; exit code 2
 * means a line that it does not know. No C library: there is nothing between the loop and the kernel. x86_64 only.
 */

#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_CLOSE 3
#define SYS_LSEEK 8
#define SYS_ACCESS 21
#define SYS_FCNTL 72
#define SYS_GETPPID 110
#define SYS_CLOCK_GETTIME 228
#define SYS_EXIT_GROUP 231
#define CLOCK_MONOTONIC 1
#define F_GETFD 1
#define LINE 32
#define TEXT "/usr/share/podgate/bench/none"
#define OPENED "/usr/share"

struct timespec {
	long seconds;
	long nanoseconds;
};

__asm__(".globl _start\n"
	"_start:\n"
	"	andq $-16, %rsp\n"
	"	call run\n");

static inline __attribute__((always_inline)) long syscall3(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		syscall3(SYS_EXIT_GROUP, code, 0, 0);
}

static long now(void)
{
	struct timespec time;

	syscall3(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&time, 0);
	return time.seconds * 1000000000L + time.nanoseconds;
}

static long time_hooked(long n)
{
	long began = now();

	while (n-- > 0)
		syscall3(SYS_LSEEK, -1, 0, 0);
	return now() - began;
}

static long time_unrelated(long n)
{
	long began = now();

	while (n-- > 0)
		syscall3(SYS_GETPPID, 0, 0, 0);
	return now() - began;
}

static long time_text(long n)
{
	long began = now();

	while (n-- > 0)
		syscall3(SYS_ACCESS, (long)TEXT, 0, 0);
	return now() - began;
}

static long time_file(long n)
{
	long file = syscall3(SYS_OPEN, (long)OPENED, 0, 0), began = now();

	if (file < 0)
		leave(2);
	while (n-- > 0)
		syscall3(SYS_LSEEK, file, 0, 0);
	began = now() - began;
	syscall3(SYS_CLOSE, file, 0, 0);
	return began;
}

static long time_control(long n)
{
	long began = now();

	while (n-- > 0)
		syscall3(SYS_FCNTL, 0, F_GETFD, 0);
	return now() - began;
}

/* Reads one line, without its newline; 0 at the end of the input. */
static int read_line(char *line)
{
	int n = 0;

	while (syscall3(SYS_READ, 0, (long)&line[n], 1) == 1) {
		if (line[n] == '\n') {
			line[n] = 0;
			return 1;
		}
		if (++n == LINE)
			leave(2);
	}
	return 0;
}

static long parse_count(const char *text)
{
	long n = 0;

	if (!*text)
		leave(2);
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || n > 1000000000000L)
			leave(2);
		n = n * 10 + (*text - '0');
	}
	return n;
}

static void print_number(long value)
{
	char digits[24];
	char *at = digits + sizeof(digits);

	*--at = '\n';
	do {
		*--at = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	syscall3(SYS_WRITE, 1, (long)at, digits + sizeof(digits) - at);
}

__attribute__((noreturn, used)) void run(void)
{
	char line[LINE];

	while (read_line(line)) {
		if (line[0] == 'h' && line[1] == ' ')
			print_number(time_hooked(parse_count(line + 2)));
		else if (line[0] == 'u' && line[1] == ' ')
			print_number(time_unrelated(parse_count(line + 2)));
		else if (line[0] == 't' && line[1] == ' ')
			print_number(time_text(parse_count(line + 2)));
		else if (line[0] == 'f' && line[1] == ' ')
			print_number(time_file(parse_count(line + 2)));
		else if (line[0] == 'c' && line[1] == ' ')
			print_number(time_control(parse_count(line + 2)));
		else
			leave(2);
	}
	leave(0);
}
