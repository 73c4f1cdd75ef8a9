# SPDX-License-Identifier: Apache-2.0
"""Run a command under another kernel: Debian's own, in a qemu guest whose root is an overlay of this machine's.

packages  where the .deb files come from: this machine's apt, without installing anything
kernels   which kernels there are, and their files in the cache
image     the kernel's own ELF file out of a bzImage
emulator  qemu, newer than the release's own
initrd    the first root of a guest: busybox, the modules that it takes to see the second one
machine   one guest: qemu, its deadline, what it brings back
results   JUnit files into one table
prepare   all of that, once
lock      one guest at a time
suite     which tests run in a guest, and how
override  the kernel that is built here, because Debian has none with function error injection

The processor is emulated (TCG): user space is 12 to 20 times slower than here.
"""
