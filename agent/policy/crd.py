# SPDX-License-Identifier: Apache-2.0
"""The field table as CustomResourceDefinitions.

The schema is structural as apiextensions.k8s.io/v1 wants it: without references, every field with its type, defaults
only beside a type. What types cannot say is said by validation rules in CEL; the API server bounds what these may
cost, so none of them walks a list. Texts are kept short enough for `kubectl apply`, which notes the whole
definition in an annotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from agent.policy.model import PolicyKind
from agent.policy.spec import GROUP, KIND_RULES, SPEC, STRUCTS, VERSION
from agent.policy.spec_types import Field, FieldType, ListOf, MapOf, Ref, Rule, ScalarType, Struct

Schema = dict[str, Any]

# kubectl's annotation with the last applied object: all annotations of an object together, in bytes
# (k8s.io/apimachinery/pkg/api/validation, TotalAnnotationSizeLimitB).
MAX_APPLIED_BYTES = 256 << 10

# The names that CEL keeps for itself and Kubernetes therefore writes `__name__` in rules.
CEL_RESERVED = frozenset(
    {
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    }
)


@dataclass(frozen=True, slots=True)
class Naming:
    """What a resource is called; `short` is its abbreviation on command lines."""

    plural: str
    short: str
    scope: str

    @property
    def resource(self) -> str:
        """The name of the definition."""
        return f"{self.plural}.{GROUP}"


NAMINGS = {
    PolicyKind.CLUSTER: Naming("tracingpolicies", "tgtp", "Cluster"),
    PolicyKind.NAMESPACED: Naming("tracingpoliciesnamespaced", "tgtpn", "Namespaced"),
}


def define(kind: PolicyKind) -> Schema:
    """The definition of one kind, for apiextensions.k8s.io/v1."""
    naming = NAMINGS[kind]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": naming.resource},
        "spec": {
            "group": GROUP,
            "names": {
                "categories": ["podgate"],
                "kind": kind.value,
                "listKind": f"{kind.value}List",
                "plural": naming.plural,
                "shortNames": [naming.short],
                "singular": kind.value.lower(),
            },
            "scope": naming.scope,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _columns() -> list[Schema]:
    mode = ".spec.options[?(@.name=='policy-mode')].value"
    return [
        {"name": "Mode", "type": "string", "description": "The option policy-mode.", "jsonPath": mode},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]


def _root(kind: PolicyKind) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": f"A {kind.value}: hooks, conditions and actions that are carried out in the kernel.",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _struct(SPEC),
        },
    }
    _add_rules(schema, KIND_RULES[kind])
    return schema


def _struct(struct: Struct) -> Schema:
    schema: Schema = {"type": "object"}
    if struct.max_fields is not None:
        schema["maxProperties"] = struct.max_fields
    if required := [each.name for each in struct.fields if each.required]:
        schema["required"] = required
    schema["properties"] = {each.name: _field(each) for each in struct.fields}
    _add_rules(schema, struct.rules)
    return schema


def _add_rules(schema: Schema, rules: tuple[Rule, ...]) -> None:
    if rules:
        schema["x-kubernetes-validations"] = [{"rule": rule.expression, "message": rule.message} for rule in rules]


def _field(field: Field) -> Schema:
    schema: Schema = {"description": field.help, **_type(field, field.type), **_refusal(field)}
    # An absent field and one that holds the empty value of its type are the same: only other defaults are written.
    if field.default:
        schema["default"] = field.default
    return schema


def _refusal(field: Field) -> Schema:
    """Bounds that leave nothing but the empty value."""
    if not field.refused:
        return {}
    if isinstance(field.type, ListOf):
        return {"maxItems": 0}
    if not isinstance(field.type, ScalarType):
        return {"maxProperties": 0}
    empty = {ScalarType.STRING: "", ScalarType.INTEGER: 0, ScalarType.BOOLEAN: False}
    return {"enum": [empty[field.type]]}


def _type(field: Field, of: FieldType) -> Schema:
    if isinstance(of, Ref):
        return _reference(of)
    if isinstance(of, ListOf):
        return _list(field, of)
    if isinstance(of, MapOf):
        return {"type": "object", "additionalProperties": _type(field, of.value)}
    return _scalar(field, of)


def _reference(ref: Ref) -> Schema:
    schema = _struct(STRUCTS[ref.name])
    # Conditions on labels are one whole: appliers that own different fields must not mix theirs.
    return schema | {"x-kubernetes-map-type": "atomic"} if "matchLabels" in schema["properties"] else schema


def _list(field: Field, of: ListOf) -> Schema:
    schema: Schema = {"type": "array", "items": _type(field, of.item)}
    if field.min_items is not None:
        schema["minItems"] = field.min_items
    if field.max_items is not None:
        schema["maxItems"] = field.max_items
    if field.item_key:
        return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field.item_key]}
    return schema | {"x-kubernetes-list-type": "atomic"}


def _scalar(field: Field, of: ScalarType) -> Schema:
    schema: Schema = {"type": of.value}
    if of is ScalarType.INTEGER:
        schema["format"] = "int64"
    limits = {
        "minimum": field.minimum,
        "maximum": field.maximum,
        "minLength": field.min_length,
        "pattern": field.pattern or None,
        "enum": list(field.enum) or None,
    }
    return schema | {name: value for name, value in limits.items() if value is not None}


class _Dumper(yaml.SafeDumper):
    """YAML in which a value that is there twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature of the base class
        return True


def write_crd(kind: PolicyKind) -> str:
    """The definition of one kind as YAML."""
    text: str = yaml.dump(define(kind), Dumper=_Dumper, sort_keys=False, width=120)
    return text
