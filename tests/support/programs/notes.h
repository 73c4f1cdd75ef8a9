/* SPDX-License-Identifier: Apache-2.0 */
/*
 * USDT probes: a nop, and a note in .note.stapsdt that says where it is and what its arguments are.
 * The layout is version 3 of the "UserSpaceProbeImplementation" of the SystemTap project.
 */
#ifndef PROBE_NOTES_H
#define PROBE_NOTES_H

#define PROVIDER "podgate_test"

/* Where sections were when the file was linked: what moves them moves this one as well. One of them in a program. */
#define PROBE_BASE()                                                                                                   \
	asm(".pushsection .stapsdt.base,\"a\",@progbits\n"                                                             \
	    ".globl podgate_probe_base\n"                                                                              \
	    "podgate_probe_base: .space 1\n"                                                                           \
	    ".popsection\n")

/* A counter of those who watch a probe. The kernel raises it in the memory of each process. */
#define PROBE_SEMAPHORE(name)                                                                                          \
	unsigned short podgate_semaphore_##name __attribute__((section(".probes"), used, visibility("hidden")))

#define PROBE_AT(name, semaphore, arguments, ...)                                                                      \
	asm volatile("990: nop\n"                                                                                      \
		     ".pushsection .note.stapsdt,\"\",@note\n"                                                         \
		     ".balign 4\n"                                                                                     \
		     ".4byte 992f - 991f\n"                                                                            \
		     ".4byte 994f - 993f\n"                                                                            \
		     ".4byte 3\n"                                                                                      \
		     "991: .asciz \"stapsdt\"\n"                                                                       \
		     "992: .balign 4\n"                                                                                \
		     "993: .8byte 990b\n"                                                                              \
		     ".8byte podgate_probe_base\n"                                                                     \
		     ".8byte " semaphore "\n"                                                                          \
		     ".asciz \"" PROVIDER "\"\n"                                                                       \
		     ".asciz \"" name "\"\n"                                                                           \
		     ".asciz \"" arguments "\"\n"                                                                      \
		     "994: .balign 4\n"                                                                                \
		     ".popsection\n" ::__VA_ARGS__)

#define PROBE(name, arguments, ...) PROBE_AT(#name, "0", arguments, __VA_ARGS__)
#define PROBE_COUNTED(name, arguments, ...) PROBE_AT(#name, "podgate_semaphore_" #name, arguments, __VA_ARGS__)

#endif
