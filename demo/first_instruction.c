/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program whose first instructions are the system call that a policy forbids: lseek(-1, 0, SEEK_SET).
 *
 * Used as a container's entrypoint it shows whether the policy was in force before the container's first instruction.
 * There is no C library and no dynamic loader in front of it: _start is what the kernel jumps to after execve.
 *
 *	/first            one lseek(-1, 0, SEEK_SET), print what it returned, exit 0
 *	/first loop N     the same, then N times lseek(3, 0, SEEK_SET), which no policy here selects
 *	/first storm N    the same, then N times lseek(-1, 0, SEEK_SET): one event each under an observing policy
 *
 * It prints "Bad file descriptor" for -EBADF (what the kernel answers when nothing stops the call), otherwise
 * "unexpected result R". Exit code 2 means wrong arguments. A policy that kills leaves no output at all.
 *
 * Build: gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o first first_instruction.c   (x86_64 only)
 */

#define SYS_WRITE 1
#define SYS_LSEEK 8
#define SYS_EXIT_GROUP 231
#define SEEK_SET 0
#define EBADF 9
#define STDOUT 1

/* The entry point of the System V ABI: the stack holds argc, argv..., and no register is set up for us. */
__asm__(".globl _start\n"
	"_start:\n"
	"	movl $8, %eax\n"   /* SYS_LSEEK */
	"	movq $-1, %rdi\n"  /* fd */
	"	xorl %esi, %esi\n" /* offset */
	"	xorl %edx, %edx\n" /* SEEK_SET */
	"	syscall\n"
	"	movq %rax, %rdi\n"
	"	movq %rsp, %rsi\n"
	"	andq $-16, %rsp\n"
	"	call run\n");

static long syscall3(long number, long a, long b, long c)
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

static long length(const char *text)
{
	long n = 0;

	while (text[n])
		n++;
	return n;
}

static void print(const char *text)
{
	syscall3(SYS_WRITE, STDOUT, (long)text, length(text));
}

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* -1 when the text is not a decimal number of at most 18 digits. */
static long parse_count(const char *text)
{
	long n = 0;

	if (!*text || length(text) > 18)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		n = n * 10 + (*text - '0');
	}
	return n;
}

static void print_number(long value)
{
	char digits[24];
	char *at = digits + sizeof(digits) - 1;
	unsigned long rest = value < 0 ? 0UL - (unsigned long)value : (unsigned long)value;

	*at = 0;
	do {
		*--at = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest);
	if (value < 0)
		*--at = '-';
	print(at);
}

static void report(long result)
{
	if (result == -EBADF) {
		print("Bad file descriptor\n");
		return;
	}
	print("unexpected result ");
	print_number(result);
	print("\n");
}

static int repeat(const char *mode, const char *count)
{
	long fd = equal(mode, "storm") ? -1 : 3;
	long n = parse_count(count);

	if ((fd == 3 && !equal(mode, "loop")) || n < 0)
		return 2;
	while (n-- > 0)
		syscall3(SYS_LSEEK, fd, 0, SEEK_SET);
	return 0;
}

/* Called from _start with the first call's result and the initial stack. */
__attribute__((noreturn, used)) void run(long result, const long *stack)
{
	long argc = stack[0];
	char *const *argv = (char *const *)(stack + 1);

	report(result);
	if (argc <= 1)
		leave(0);
	if (argc != 3)
		leave(2);
	leave(repeat(argv[1], argv[2]));
}
