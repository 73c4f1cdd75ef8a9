# SPDX-License-Identifier: Apache-2.0
"""Nodes to what selects workloads: podSelector, containerSelector and hostSelector."""

from agent.policy import schemas
from agent.policy.context import Context
from agent.policy.document import Mapping, Node
from agent.policy.fields import Fields, is_null, open_fields
from agent.policy.labels import LabelSelectorReader
from agent.policy.model import LabelSelector, PolicyKind, WorkloadSelector


class WorkloadReader:
    """Reads the three fields, of a specification or of a selector's matchWorkloads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems

    def read(self, fields: Fields) -> WorkloadSelector:
        """The selector that the fields make; unset when none is there."""
        pods, containers = fields.node("podSelector"), fields.node("containerSelector")
        return WorkloadSelector(
            None if pods is None else self._labels(pods, of_containers=False),
            None if containers is None else self._labels(containers, of_containers=True),
            self._host(fields),
        )

    def match(self, fields: Fields) -> tuple[WorkloadSelector, ...]:
        """`matchWorkloads` of a selector: none, or one. It is a mapping in the resource, not a list."""
        node = fields.node("matchWorkloads")
        inner = None if node is None else open_fields(node, schemas.WORKLOADS, self._problems)
        if inner is None:
            return ()
        found = self.read(inner)
        if isinstance(node, Mapping) and all(is_null(entry.value) for entry in node.entries.values()):
            what = "matchWorkloads selects nothing"
            inner.report("", what, "give it podSelector, containerSelector or hostSelector, or leave it out")
        return (found,)

    def _labels(self, node: Node, of_containers: bool) -> LabelSelector | None:
        found = LabelSelectorReader(self._problems, of_containers).read(node)
        if found is not None:
            count = sum(1 + len(requirement.values) for requirement in found.requirements)
            self._context.budget.spend(node.source, count)
        return found

    def _host(self, fields: Fields) -> bool:
        node = fields.node("hostSelector")
        if node is None:
            return False
        if self._context.kind is PolicyKind.NAMESPACED:
            what = "a TracingPolicyNamespaced applies to its namespace and never to the host"
            fields.report("hostSelector", what, "leave it out or use kind TracingPolicy")
            return False
        inner = open_fields(node, schemas.HOST_SELECTOR, self._problems)
        if inner is not None and isinstance(node, Mapping) and node.entries:
            advice = "write {} for the processes of the host, or leave it out"
            fields.report("hostSelector", "hostSelector takes no conditions", advice)
        return inner is not None
