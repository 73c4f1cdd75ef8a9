# SPDX-License-Identifier: Apache-2.0
"""From `podgate policy add` to the first enforcement in a container that violates the policy all the time."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path

from bench.parts.policies import policy_text
from bench.parts.storm import ENDLESS
from tests.support.agent import AgentProcess, command
from tests.support.cri import ContainerSpec, Cri, Pod, PodSpec
from tests.support.image import FIRST

NAMESPACE = "adding"
NAME = "kill"
ENFORCED_S = 20.0


class NotEnforcedError(Exception):
    """The container's end is not the policy's: it came too early, or not at all. The text says which."""


def measure_policy_add(cri: Cri, agent: AgentProcess, samples: int) -> list[float]:
    """Milliseconds from the command's start to a container's end, `samples` times, with a container of its own each."""
    file = agent.run_dir / "adding.yaml"
    file.write_text(policy_text(NAME, NAMESPACE, [-1], "Sigkill"))
    pod = cri.run_pod(PodSpec("adding", NAMESPACE))
    try:
        return [_measure_one(cri, agent, pod, f"victim-{n}", file) for n in range(samples)]
    finally:
        cri.remove_pod(pod)


def _measure_one(cri: Cri, agent: AgentProcess, pod: Pod, name: str, file: Path) -> float:
    victim = cri.run(pod, ContainerSpec(name, FIRST.reference, args=("storm", ENDLESS)))
    process = _open_process(cri.pid(victim))
    try:
        milliseconds = _time_until_end(process, agent, file)
    finally:
        os.close(process)
    agent.control.delete(NAME, NAMESPACE)
    return milliseconds


def _open_process(pid: int) -> int:
    """pid: 0 when the process has ended, as the runtime tells it."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise NotEnforcedError(f"the container ended before the policy was added: {error.strerror}") from error


def _time_until_end(process: int, agent: AgentProcess, file: Path) -> float:
    """pidfd_open(2): the descriptor is readable when the process has ended."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    began = time.monotonic()
    arguments = [command("podgate"), "--run-dir", str(agent.run_dir), "policy", "add", str(file)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as adding:
        ended = poll.poll(ENFORCED_S * 1000)
        took = (time.monotonic() - began) * 1000
        said, _ = adding.communicate()
    if not ended:
        raise NotEnforcedError(f"not enforced within {ENFORCED_S:g} s: {said.strip()}")
    return took
