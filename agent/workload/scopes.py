# SPDX-License-Identifier: Apache-2.0
"""To which workloads policies apply, and an index that finds the policies of a pod.

Theory of operation. Policies are grouped by namespace, and in a group by selector: a selector that many policies
share is evaluated once. A selector with a positive requirement (In, Exists) is filed under a label that the pod must
have, its *anchor*, so that a pod evaluates only the selectors that share a label with it, and those without
an anchor (empty, or only negative). With In, the selector is filed under each of its values; a pod has one value for
the key, so it meets the selector at most once.
"""

from dataclasses import dataclass, field

from agent.policy.model import LabelOperator, LabelSelector, Policy
from agent.workload.identity import Labels, PolicyId
from agent.workload.selector import is_selected, selectable_labels


@dataclass(frozen=True, slots=True)
class Scope:
    """To what a policy applies.

    Neither: to everything, host processes and all containers. `namespace`: to containers of that namespace's pods;
    `pods`: to containers of pods that the selector selects; both: where both hold. Host processes are in no
    namespace and no pod.
    """

    namespace: str | None = None
    pods: LabelSelector | None = None

    @property
    def is_everything(self) -> bool:
        """Whether host processes are in it."""
        return self.namespace is None and self.pods is None

    def has_pod(self, namespace: str, labels: Labels) -> bool:
        """Whether the containers of a pod are in it."""
        if self.namespace not in (None, namespace):
            return False
        return self.pods is None or is_selected(self.pods, selectable_labels(namespace, labels))


def scope_of(policy: Policy) -> Scope:
    """The scope that a policy declares."""
    return Scope(policy.namespace, policy.pod_selector)


# A label's key and value; the value is None for "any".
_Anchor = tuple[str, str | None]
# The policies of each selector, as a bit mask.
_Masks = dict[LabelSelector, int]


def _anchors(selector: LabelSelector) -> tuple[_Anchor, ...]:
    for requirement in selector.requirements:
        if requirement.operator is LabelOperator.IN:
            return tuple((requirement.key, value) for value in requirement.values)
    for requirement in selector.requirements:
        if requirement.operator is LabelOperator.EXISTS:
            return ((requirement.key, None),)
    return ()


@dataclass(slots=True)
class _Group:
    """The policies of one namespace, or the cluster-wide ones."""

    unselective: int = 0
    loose: _Masks = field(default_factory=dict)
    anchored: dict[_Anchor, _Masks] = field(default_factory=dict)

    def set_bit(self, selector: LabelSelector | None, bit: int) -> None:
        if selector is None:
            self.unselective |= bit
            return
        for masks in self._places(selector):
            masks[selector] = masks.get(selector, 0) | bit

    def clear_bit(self, selector: LabelSelector | None, bit: int) -> None:
        if selector is None:
            self.unselective &= ~bit
            return
        for masks in self._places(selector):
            masks[selector] &= ~bit
            if not masks[selector]:
                del masks[selector]
        for anchor in _anchors(selector):
            if not self.anchored[anchor]:
                del self.anchored[anchor]

    def _places(self, selector: LabelSelector) -> list[_Masks]:
        anchors = _anchors(selector)
        return [self.anchored.setdefault(anchor, {}) for anchor in anchors] if anchors else [self.loose]

    def is_empty(self) -> bool:
        return not (self.unselective or self.loose or self.anchored)

    def bits(self, labels: dict[str, str]) -> int:
        found = self.unselective | _selected(self.loose, labels)
        for key, value in labels.items():
            for anchor in ((key, value), (key, None)):
                if masks := self.anchored.get(anchor):
                    found |= _selected(masks, labels)
        return found


def _selected(masks: _Masks, labels: dict[str, str]) -> int:
    found = 0
    for selector, mask in masks.items():
        if is_selected(selector, labels):
            found |= mask
    return found


class ScopeIndex:
    """The scopes of all policies on the node."""

    def __init__(self) -> None:
        self._scopes: dict[PolicyId, Scope] = {}
        self._groups: dict[str | None, _Group] = {}
        self.everything = 0
        """The bits of the policies that apply to everything."""
        self.all = 0
        """The bits of all policies."""

    def __contains__(self, policy: PolicyId) -> bool:
        return policy in self._scopes

    def add(self, policy: PolicyId, scope: Scope) -> None:
        """File a policy; its id must not be filed yet."""
        self._scopes[policy] = scope
        self.all |= 1 << policy
        if scope.is_everything:
            self.everything |= 1 << policy
        else:
            self._groups.setdefault(scope.namespace, _Group()).set_bit(scope.pods, 1 << policy)

    def remove(self, policy: PolicyId) -> Scope | None:
        """Forget a policy; gives its scope, None when it was not filed."""
        scope = self._scopes.pop(policy, None)
        if scope is None:
            return None
        self.all &= ~(1 << policy)
        if scope.is_everything:
            self.everything &= ~(1 << policy)
            return scope
        group = self._groups[scope.namespace]
        group.clear_bit(scope.pods, 1 << policy)
        if group.is_empty():
            del self._groups[scope.namespace]
        return scope

    def bits(self, namespace: str, labels: Labels) -> int:
        """The bits of the policies that apply to the containers of a pod."""
        seen = selectable_labels(namespace, labels)
        found = self.everything
        for key in (None, namespace):
            if group := self._groups.get(key):
                found |= group.bits(seen)
        return found
