# SPDX-License-Identifier: Apache-2.0
"""What the registry refuses. A refused call changes nothing."""

from agent.workload.identity import MAX_POLICIES, PodUid, PolicyId


class RegistryError(Exception):
    """Base of what this package raises."""


class NamespaceConflict(RegistryError):  # noqa: N818 - the name says what it is
    """A pod's uid is known under another namespace: one of the two messages is wrong about the pod."""

    def __init__(self, pod_uid: PodUid, known: str, given: str) -> None:
        super().__init__(pod_uid, known, given)
        self.pod_uid = pod_uid
        self.known = known
        self.given = given

    def __str__(self) -> str:
        return f"pod {self.pod_uid} is known in namespace {self.known!r}, not in {self.given!r}"


class PolicyIdInUse(RegistryError):  # noqa: N818 - the name says what it is
    """A policy was added under the id of another."""

    def __init__(self, policy: PolicyId) -> None:
        super().__init__(policy)
        self.policy = policy

    def __str__(self) -> str:
        return f"policy id {self.policy} is in use"


class PolicyIdOutOfRange(RegistryError):  # noqa: N818 - the name says what it is
    """A policy id has no bit in a binding."""

    def __init__(self, policy: PolicyId) -> None:
        super().__init__(policy)
        self.policy = policy

    def __str__(self) -> str:
        return f"policy id {self.policy} is not in 0..{MAX_POLICIES - 1}"


class WorkloadIdsExhausted(RegistryError):  # noqa: N818 - the name says what it is
    """All 2**32 - 1 workload ids of this registry were given out."""

    def __str__(self) -> str:
        return "no workload id is left: restart the agent"
