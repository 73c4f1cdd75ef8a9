/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program whose first system call is lseek(MARK, 0, SEEK_SET), where MARK is the first four bytes of its argument.
 *
 *	/violate MARK     the call, then print "ran" and exit 0
 *
 * The first instructions fetch the mark, then comes the call: there is no C library in front of it. The mark makes the
 * violation that of one policy of one node: agents that watch the whole machine do not meet each other's containers.
 *
 * Build: gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o violate violate.c   (x86_64 only)
 */

/* The entry point of the System V ABI: the stack holds argc, argv[0], argv[1]. */
__asm__(".globl _start\n"
	"_start:\n"
	"	movq 16(%rsp), %rax\n" /* argv[1] */
	"	movl (%rax), %edi\n"
	"	movl $8, %eax\n"   /* SYS_LSEEK */
	"	xorl %esi, %esi\n" /* offset */
	"	xorl %edx, %edx\n" /* SEEK_SET */
	"	syscall\n"
	"	movl $1, %eax\n" /* SYS_WRITE */
	"	movl $1, %edi\n"
	"	leaq ran(%rip), %rsi\n"
	"	movl $4, %edx\n"
	"	syscall\n"
	"	movl $231, %eax\n" /* SYS_EXIT_GROUP */
	"	xorl %edi, %edi\n"
	"	syscall\n"
	"ran:	.ascii \"ran\\n\"\n");
