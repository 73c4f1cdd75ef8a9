# SPDX-License-Identifier: Apache-2.0
"""Nodes to label selectors."""

from collections.abc import Callable

from agent.policy import schemas
from agent.policy.document import Mapping, Node, Scalar, ScalarKind
from agent.policy.errors import Problems, quote
from agent.policy.fields import Fields, check_string, describe, open_fields
from agent.policy.model import NAMESPACE_LABEL, LabelOperator, LabelSelector, Requirement
from agent.policy.values import is_label_key, is_label_value, is_repository

_LABEL_OPERATORS = {operator.value: operator for operator in LabelOperator}

# What a container can be selected by: its name in the pod, and its image's name.
CONTAINER_NAME = "name"
CONTAINER_REPOSITORY = "repo"


class LabelSelectorReader:
    """Reads a Kubernetes label selector: of a pod's labels, or with `of_containers` of a container's two keys."""

    def __init__(self, problems: Problems, of_containers: bool = False) -> None:
        self._problems = problems
        self._of_containers = of_containers

    def read(self, node: Node) -> LabelSelector | None:
        """A label selector; `matchLabels` become In with one value."""
        fields = open_fields(node, schemas.LABEL_SELECTOR, self._problems)
        if fields is None:
            return None
        found = self._labels(fields.node("matchLabels"))
        found += [self._expression(item) for item in fields.items("matchExpressions")]
        unique = {requirement for requirement in found if requirement}
        return LabelSelector(tuple(sorted(unique, key=lambda each: (each.key, each.operator.value, each.values))))

    def _labels(self, node: Node | None) -> list[Requirement | None]:
        if node is None:
            return []
        if not isinstance(node, Mapping):
            what = f"matchLabels must be a mapping and is {describe(node)}"
            self._problems.report(node.source, what, "write key: value")
            return []
        return [
            self._label(Scalar(key, ScalarKind.STRING, entry.key_source), entry.value)
            for key, entry in node.entries.items()
        ]

    def _label(self, key: Scalar, node: Node) -> Requirement | None:
        name = self._key(key)
        value = self._value(node, name)
        return Requirement(name, LabelOperator.IN, (value,)) if name is not None and value is not None else None

    def _expression(self, node: Node) -> Requirement | None:
        fields = open_fields(node, schemas.EXPRESSION, self._problems)
        if fields is None:
            return None
        key_scalar = fields.string("key", required=True)
        key = None if key_scalar is None else self._key(key_scalar)
        operator = fields.word("operator", "operator", _LABEL_OPERATORS)
        values = [self._value(item, key) for item in fields.items("values")]
        if operator is not None:
            self._check_count(operator, len(values), fields)
        if key is None or operator is None:
            return None
        return Requirement(key, operator, tuple(sorted({value for value in values if value is not None})))

    def _check_count(self, operator: LabelOperator, count: int, fields: Fields) -> None:
        wants_values = operator in (LabelOperator.IN, LabelOperator.NOT_IN)
        if wants_values and not count:
            if fields.node("values") is None or fields.is_list("values"):
                what = f"{operator.value} has no values"
                self._problems.report(fields.key_source("values"), what, "give at least one value")
        elif count and not wants_values:
            what = f"{operator.value} takes no values"
            self._problems.report(fields.key_source("values"), what, "leave them out or use In or NotIn")

    def _key(self, scalar: Scalar) -> str | None:
        if self._of_containers:
            return self._container_key(scalar)
        if scalar.text == NAMESPACE_LABEL or is_label_key(scalar.text):
            return scalar.text
        what = f"{quote(scalar.text)} is not a label key"
        advice = "write up to 63 letters, digits, '-', '_' and '.', with a DNS name and '/' before it if it has one"
        self._problems.report(scalar.source, what, advice)
        return None

    def _container_key(self, scalar: Scalar) -> str | None:
        if scalar.text in (CONTAINER_NAME, CONTAINER_REPOSITORY):
            return scalar.text
        what = f"a container cannot be selected by {quote(scalar.text)}"
        self._problems.report(scalar.source, what, f"use {CONTAINER_NAME} or {CONTAINER_REPOSITORY}")
        return None

    def _value(self, node: Node, key: str | None) -> str | None:
        scalar = check_string(node, "a label's value", self._problems)
        fits: Callable[[str], bool] = is_label_value
        what, advice = "a label value", "'-', '_' and '.', beginning and ending with a letter or digit"
        if self._of_containers and key != CONTAINER_NAME:
            fits = is_repository
            what, advice = "an image's name", "'-', '_', '.', ':' and '/', without a tag and a digest"
        if scalar is None or fits(scalar.text):
            return None if scalar is None else scalar.text
        length = "up to 63 " if fits is is_label_value else ""
        self._problems.report(
            scalar.source, f"{quote(scalar.text)} is not {what}", f"write {length}letters, digits, {advice}"
        )
        return None
