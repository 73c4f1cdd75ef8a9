# SPDX-License-Identifier: Apache-2.0
"""The names of things on a node: cgroups, policies, containers, pods, workloads."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NewType

# Bits in a binding; also the number of policies that a node can have at once.
MAX_POLICIES = 2048
# The kernel's side keeps workload ids in 32 bits; 0 means none, and the highest a container that nobody has identified.
WORKLOAD_QUARANTINED = 2**32 - 1
MAX_WORKLOAD_ID = WORKLOAD_QUARANTINED - 1

CgroupId = NewType("CgroupId", int)
"""The kernel's 64-bit cgroup id: unique while the system runs."""

PolicyId = NewType("PolicyId", int)
"""A policy's bit in bindings, 0..1023."""

ContainerId = NewType("ContainerId", str)
"""The runtime's full container id."""

PodUid = NewType("PodUid", str)
"""The Kubernetes uid of a pod; empty when the runtime does not know it."""

WorkloadId = NewType("WorkloadId", int)
"""What events carry instead of a container id, from 1; never given to another container."""


class Door(Enum):
    """Who told of a container: the NRI plugin, the OCI hook, another's hook over gRPC; the agent itself, of one that it
    held, or of one that it found running.
    """

    NRI = "nri"
    OCI = "oci"
    UPSTREAM = "upstream"
    HOLD = "hold"
    RECONCILE = "reconcile"


Labels = tuple[tuple[str, str], ...]
"""A pod's labels, sorted by key."""


def freeze_labels(labels: Mapping[str, str]) -> Labels:
    """Labels as a value that nobody can change."""
    return tuple(sorted(labels.items()))


@dataclass(frozen=True, slots=True)
class ContainerIdentity:
    """What is known of a container when it starts; `labels` are its pod's, name and image empty when nobody told them.

    `sandbox`: it is the pod's pause process or the pod's own cgroup, no container of the pod: it need not have a name
    and an image.
    """

    container_id: ContainerId
    container_name: str
    namespace: str
    pod_name: str
    pod_uid: PodUid
    labels: Labels = ()
    image: str = ""
    sandbox: bool = False
