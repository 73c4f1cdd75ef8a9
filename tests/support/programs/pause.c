/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that holds a pod sandbox's namespaces: it waits until it is told to stop.
 *
 * As PID 1 of its namespace it gets no signal that it does not handle, so it blocks SIGTERM and SIGINT and takes them
 * with rt_sigtimedwait. Orphans that it inherits are reaped by ignoring SIGCHLD. Freestanding, x86_64 only:
 *
 *	gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o pause pause.c
 */

#define SYS_RT_SIGACTION 13
#define SYS_RT_SIGPROCMASK 14
#define SYS_RT_SIGTIMEDWAIT 128
#define SYS_EXIT_GROUP 231
#define SIG_BLOCK 0
#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_IGN 1
#define SIGSET_BYTES 8

/* struct sigaction as the kernel takes it (arch/x86/include/uapi/asm/signal.h). */
struct kernel_sigaction {
	unsigned long handler;
	unsigned long flags;
	unsigned long restorer;
	unsigned long mask;
};

static long syscall4(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

__attribute__((noreturn, used)) void run(void)
{
	unsigned long stop = 1UL << (SIGINT - 1) | 1UL << (SIGTERM - 1);
	struct kernel_sigaction ignore = {.handler = SIG_IGN};

	syscall4(SYS_RT_SIGPROCMASK, SIG_BLOCK, (long)&stop, 0, SIGSET_BYTES);
	syscall4(SYS_RT_SIGACTION, SIGCHLD, (long)&ignore, 0, SIGSET_BYTES);
	while (syscall4(SYS_RT_SIGTIMEDWAIT, (long)&stop, 0, 0, SIGSET_BYTES) < 0)
		;
	for (;;)
		syscall4(SYS_EXIT_GROUP, 0, 0, 0, 0);
}

__asm__(".globl _start\n"
	"_start:\n"
	"	andq $-16, %rsp\n"
	"	call run\n");
