# SPDX-License-Identifier: Apache-2.0
"""Everything that `resolve` asks about this node: its kernel, and the files that probes stand in."""

from __future__ import annotations

from pathlib import Path

from agent.kernel.facts import RunningKernel
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.user_files import UserFiles
from agent.kernel.user_writes import find_write_refusal


class NodeFacts(RunningKernel, UserFiles):
    """Implements `agent.policy.user_facts.HookFacts`. A context: at its end all that was read is given up."""

    def __init__(self, tracefs: Path, btf: KernelBtf | None = None) -> None:
        """`tracefs`: where it is mounted. btf: the agent's."""
        RunningKernel.__init__(self, tracefs, btf)
        UserFiles.__init__(self)
        self._write_refusal: str | None = None

    def release(self) -> None:
        """Give up what was read. It is read again when it is asked for."""
        RunningKernel.release(self)
        UserFiles.release(self)
        self._write_refusal = None

    def write_refusal(self) -> str:
        """See `HookFacts.write_refusal`. Asked once for a batch: lockdown can come at any time, and never goes."""
        if self._write_refusal is None:
            self._write_refusal = find_write_refusal()
        return self._write_refusal
