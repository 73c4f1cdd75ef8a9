# SPDX-License-Identifier: Apache-2.0
"""Which policies apply to which cgroup. Pure: operations for the kernel come out as values."""
