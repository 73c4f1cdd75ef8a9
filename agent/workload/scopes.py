# SPDX-License-Identifier: Apache-2.0
"""To which workloads policies, and selectors of policies, apply.

| hostSelector | podSelector | containerSelector | of a cluster-wide policy |
|---|---|---|---|
| - | - | - | everything: host processes and all containers |
| - | - | {…} | the containers that match, in all pods |
| - | {…} | - | all containers of the pods that match |
| - | {…} | {…} | the containers that match of the pods that match |
| {} | - | - | host processes alone |
| {} | - | {…} | host processes, and the containers that match |
| {} | {…} | - | host processes, and all containers of the pods that match |
| {} | {…} | {…} | host processes, and the containers that match of the pods that match |

So {} for all three is everything. In a namespaced policy the same holds of the containers of its namespace's pods;
host processes are in no namespace, and never in such a scope.
"""

from dataclasses import dataclass, replace

from agent.policy.labels import CONTAINER_REPOSITORY
from agent.policy.model import LabelSelector, Policy, Requirement, WorkloadSelector
from agent.workload.identity import Labels
from agent.workload.images import qualify_repository
from agent.workload.selector import ContainerLabels, is_selected, selectable_labels


@dataclass(frozen=True, slots=True)
class Scope:
    """To what a bit applies; the fields are those of the table above. The repositories that `containers` names are
    fully qualified, as `scope_of` makes them.
    """

    namespace: str | None = None
    pods: LabelSelector | None = None
    containers: LabelSelector | None = None
    host: bool = False

    @property
    def has_host(self) -> bool:
        """Whether host processes are in it: by hostSelector, or without any selector."""
        return self.namespace is None and (self.host or (self.pods is None and self.containers is None))

    @property
    def has_containers(self) -> bool:
        """Whether containers can be in it: not with hostSelector alone."""
        return self.pods is not None or self.containers is not None or not self.host

    @property
    def divides_pods(self) -> bool:
        """Whether of one pod some containers can be in it and others not."""
        return self.containers is not None and bool(self.containers.requirements)

    def has_pod(self, namespace: str, labels: Labels) -> bool:
        """Whether containers of a pod are in it: those of which `has_container` holds too."""
        if not self.has_containers or self.namespace not in (None, namespace):
            return False
        return self.pods is None or is_selected(self.pods, selectable_labels(namespace, labels))

    def has_container(self, labels: ContainerLabels) -> bool:
        """Whether a container of a pod that is in it is in it itself, or may be as far as anybody knows."""
        return self.containers is None or is_selected(self.containers, labels.known, labels.unknown)


def scope_of(policy: Policy) -> Scope:
    """The scope that a policy declares."""
    return _scope(policy.namespace, policy.workloads)


def scope_of_selector(policy: Policy, workload: WorkloadSelector) -> Scope:
    """The scope of matchWorkloads of one of a policy's selectors, which has a bit of its own beside the policy's. It
    never reaches beyond the policy's namespace. One without any field is everything that the policy selects.
    """
    return _scope(policy.namespace, policy.workloads if workload.is_unset else workload)


def _scope(namespace: str | None, workloads: WorkloadSelector) -> Scope:
    containers = None if workloads.containers is None else _qualify(workloads.containers)
    return Scope(namespace, workloads.pods, containers, workloads.host)


def _qualify(selector: LabelSelector) -> LabelSelector:
    return LabelSelector(tuple(_qualify_requirement(requirement) for requirement in selector.requirements))


def _qualify_requirement(requirement: Requirement) -> Requirement:
    if requirement.key != CONTAINER_REPOSITORY:
        return requirement
    return replace(requirement, values=tuple(sorted({qualify_repository(value) for value in requirement.values})))
