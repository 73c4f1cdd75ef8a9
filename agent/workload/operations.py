# SPDX-License-Identifier: Apache-2.0
"""What the registry wants written in the kernel."""

from dataclasses import dataclass

from agent.workload.identity import CgroupId, WorkloadId


@dataclass(frozen=True, slots=True)
class Binding:
    """The entry of one cgroup.

    `policies` is a mask, bit n for policy n, below 2**1024. `armed` is False while the runtime's own process may
    still set the container up; `init_pid` is that process, in the host's pid namespace, 0 when unknown. `pod_level`:
    it is the pod's own cgroup, above those of its containers.
    """

    policies: int
    workload: WorkloadId
    armed: bool
    init_pid: int
    pod_level: bool = False


@dataclass(frozen=True, slots=True)
class SetHost:
    """Write the policies of host processes."""

    policies: int


@dataclass(frozen=True, slots=True)
class SetQuarantine:
    """Write the policies of quarantined containers: every one."""

    policies: int


@dataclass(frozen=True, slots=True)
class SetBinding:
    """Write the entry of a cgroup, new or changed."""

    cgroup: CgroupId
    binding: Binding


@dataclass(frozen=True, slots=True)
class DeleteBinding:
    """Remove the entry of a cgroup; it may be gone already."""

    cgroup: CgroupId


Operation = SetHost | SetQuarantine | SetBinding | DeleteBinding
