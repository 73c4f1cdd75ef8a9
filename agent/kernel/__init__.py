# SPDX-License-Identifier: Apache-2.0
"""Everything that touches the kernel: BPF system calls, maps, programs, pins, cgroups, and what this kernel can do."""
