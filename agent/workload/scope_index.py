# SPDX-License-Identifier: Apache-2.0
"""An index that finds the policies of a pod and of a container.

Theory of operation. A policy applies to a container when its pod's part does, namespace and podSelector, and its
container's part, containerSelector. The first is computed once for a pod. The second does not depend on the pod, and
most policies have none, so of a container only those are noted that it *excludes*: those whose containerSelector does
not hold. The bits of a container are those of its pod without these.

Policies are grouped by namespace, and in a group by selector: a selector that many policies share is evaluated once. A
selector with a positive requirement (In, Exists) is filed under a label that must be there, its *anchor*, so that only
the selectors are evaluated that share a label with what is looked up, and those without an anchor (only negative). With
In, the selector is filed under each of its values; a key has one value, so the selector is met at most once. Of a
container's key that is unknown any value may be the one: all selectors that are filed under it are evaluated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.policy.model import LabelOperator, LabelSelector
from agent.workload.identity import Labels, PolicyId
from agent.workload.scopes import Scope
from agent.workload.selector import ContainerLabels, is_selected, selectable_labels

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
class SelectorIndex:
    """Policies by a selector of theirs; None and one without requirements select all."""

    unselective: int = 0
    loose: _Masks = field(default_factory=dict)
    anchored: dict[_Anchor, _Masks] = field(default_factory=dict)

    def set_bit(self, selector: LabelSelector | None, bit: int) -> None:
        """File a policy; `bit` is its mask of one bit."""
        if selector is None or not selector.requirements:
            self.unselective |= bit
            return
        for masks in self._places(selector):
            masks[selector] = masks.get(selector, 0) | bit

    def clear_bit(self, selector: LabelSelector | None, bit: int) -> None:
        """Forget a policy that was filed under that selector."""
        if selector is None or not selector.requirements:
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
        """Whether no policy is filed."""
        return not (self.unselective or self.loose or self.anchored)

    def bits(self, labels: Mapping[str, str], unknown: frozenset[str] = frozenset()) -> int:
        """The policies whose selector the labels satisfy, or may satisfy for the unknown keys."""
        found = self.unselective | _selected(self.loose, labels, unknown)
        for key, value in labels.items():
            for anchor in ((key, value), (key, None)):
                if masks := self.anchored.get(anchor):
                    found |= _selected(masks, labels, unknown)
        if unknown:
            for (key, _), masks in self.anchored.items():
                if key in unknown:
                    found |= _selected(masks, labels, unknown)
        return found


def _selected(masks: _Masks, labels: Mapping[str, str], unknown: frozenset[str]) -> int:
    found = 0
    for selector, mask in masks.items():
        if is_selected(selector, labels, unknown):
            found |= mask
    return found


class ScopeIndex:
    """The scopes of all policies on the node."""

    def __init__(self) -> None:
        self._scopes: dict[PolicyId, Scope] = {}
        self._groups: dict[str | None, SelectorIndex] = {}
        self._containers = SelectorIndex()
        self._dividing = 0
        self.host = 0
        """The bits of the policies that apply to host processes."""
        self.all = 0
        """The bits of all policies."""

    def __contains__(self, policy: PolicyId) -> bool:
        return policy in self._scopes

    def add(self, policy: PolicyId, scope: Scope) -> None:
        """File a policy; its id must not be filed yet."""
        bit = 1 << policy
        self._scopes[policy] = scope
        self.all |= bit
        if scope.has_host:
            self.host |= bit
        if scope.has_containers:
            self._groups.setdefault(scope.namespace, SelectorIndex()).set_bit(scope.pods, bit)
        if scope.divides_pods:
            self._dividing |= bit
            self._containers.set_bit(scope.containers, bit)

    def remove(self, policy: PolicyId) -> Scope | None:
        """Forget a policy; gives its scope, None when it was not filed."""
        scope = self._scopes.pop(policy, None)
        if scope is None:
            return None
        bit = 1 << policy
        self.all &= ~bit
        self.host &= ~bit
        if scope.has_containers:
            self._leave_group(scope, bit)
        if scope.divides_pods:
            self._dividing &= ~bit
            self._containers.clear_bit(scope.containers, bit)
        return scope

    def _leave_group(self, scope: Scope, bit: int) -> None:
        group = self._groups[scope.namespace]
        group.clear_bit(scope.pods, bit)
        if group.is_empty():
            del self._groups[scope.namespace]

    def pod_bits(self, namespace: str, labels: Labels) -> int:
        """The bits of the policies that apply to containers of a pod, whatever their containerSelector."""
        seen = selectable_labels(namespace, labels)
        found = 0
        for key in (None, namespace):
            if group := self._groups.get(key):
                found |= group.bits(seen)
        return found

    def excluded(self, labels: ContainerLabels) -> int:
        """The bits of the policies whose containerSelector does not hold for a container, whatever its pod."""
        return self._dividing & ~self._containers.bits(labels.known, labels.unknown) if self._dividing else 0
