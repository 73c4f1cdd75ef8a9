# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between asking for a kernel and its results."""

from __future__ import annotations


class VmError(Exception):
    """A step failed; the text says which one, and what to look at or to do."""


class BootError(VmError):
    """A guest did not reach its script: worth a second try, emulation under load is not quite reliable."""


class EmulatorError(VmError):
    """The guest's kernel ran into an int3 that it had put into its own code and taken out again: the emulated processor
    ran what it had translated before, which qemu does rarely (tools/vm/emulator.py). Worth a second try; nothing else
    that a kernel dies of is.
    """


class DeadlineError(VmError):
    """A guest was ended because it took too long."""
