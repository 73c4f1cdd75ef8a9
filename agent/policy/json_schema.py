# SPDX-License-Identifier: Apache-2.0
"""The field table as a JSON Schema (draft 2020-12), for editors.

It says the shape: fields, types, words, ranges. It takes what the reader takes: null for a field that is absent, the
empty value of a field that is refused. Rules between fields are left to `podgate policy check`.
"""

from __future__ import annotations

from typing import Any

from agent.policy.model import PolicyKind
from agent.policy.spec import API_VERSION, KIND_RULES, SPEC, STRUCTS
from agent.policy.spec_types import Field, FieldType, ListOf, MapOf, Ref, ScalarType, Struct

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# An additional field of these is the API server's or the user's own.
OPEN_STRUCTS = frozenset({"Metadata"})


def build_schema() -> Schema:
    """The schema of one policy document, of either kind."""
    return {
        "$schema": DIALECT,
        "title": "Tracing policy",
        "description": "Hooks, conditions and actions that are carried out in the kernel.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"title": "apiVersion", "description": "The language's version.", "const": API_VERSION},
            "kind": {
                "title": "kind",
                "description": "Cluster-wide, or for the pods of one namespace.",
                "enum": [kind.value for kind in PolicyKind],
            },
            "metadata": {"$ref": "#/$defs/Metadata"},
            "spec": {"$ref": f"#/$defs/{SPEC.name}"},
            "status": {"description": "Accepted and not used."},
        },
        "allOf": [_cluster_only(), _namespaced_only()],
        "$defs": {struct.name: _struct(struct) for struct in STRUCTS.values()},
    }


def _if_kind(kind: PolicyKind, then: Schema) -> Schema:
    return {"if": {"properties": {"kind": {"const": kind.value}}}, "then": {"properties": then}}


def _cluster_only() -> Schema:
    absent = {"enum": ["", None], "description": f"A {PolicyKind.CLUSTER.value} has no namespace."}
    return _if_kind(PolicyKind.CLUSTER, {"metadata": {"properties": {"namespace": absent}}})


def _namespaced_only() -> Schema:
    absent = {"type": "null", "description": KIND_RULES[PolicyKind.NAMESPACED][0].message}
    return _if_kind(PolicyKind.NAMESPACED, {"spec": {"properties": {"hostSelector": absent}}})


def _struct(struct: Struct) -> Schema:
    return {
        "title": struct.name,
        "description": struct.description,
        "type": "object",
        "required": [field.name for field in struct.fields if field.required],
        "additionalProperties": struct.name in OPEN_STRUCTS,
        "properties": {field.name: _field(field) for field in struct.fields},
        **_given({"maxProperties": struct.max_fields}),
    }


def _field(field: Field) -> Schema:
    text: Schema = {"title": field.name, "description": field.help}
    if field.refused:
        return text | {"deprecated": True, "enum": [_empty_value(field.type), None]}
    if field.default is not None:
        text |= {"default": field.default}
    typed = _type(field, field.type)
    return text | (typed if field.required else {"anyOf": [typed, {"type": "null"}]})


def _empty_value(of: FieldType) -> Any:
    if isinstance(of, ListOf):
        return []
    if isinstance(of, MapOf):
        return {}
    if isinstance(of, Ref):
        return None
    return {ScalarType.STRING: "", ScalarType.INTEGER: 0, ScalarType.BOOLEAN: False}[of]


def _type(field: Field, of: FieldType) -> Schema:
    if isinstance(of, Ref):
        return {"$ref": f"#/$defs/{of.name}"}
    if isinstance(of, ListOf):
        bounds = {"minItems": field.min_items, "maxItems": field.max_items}
        return {"type": "array", "items": _type(field, of.item)} | _given(bounds)
    if isinstance(of, MapOf):
        return {"type": "object", "additionalProperties": _type(field, of.value)}
    return {"type": of.value} | _given(
        {
            "minimum": field.minimum,
            "maximum": field.maximum,
            "minLength": field.min_length,
            "pattern": field.pattern or None,
            "enum": list(field.enum) or None,
        }
    )


def _given(limits: Schema) -> Schema:
    return {name: value for name, value in limits.items() if value is not None}
