# SPDX-License-Identifier: Apache-2.0
"""What is generated from the field table: fresh, well-formed, and of one mind with the policies that tests keep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent.cli.schema import schema as schema_command
from agent.policy.crd import MAX_APPLIED_BYTES, NAMINGS, define, write_crd
from agent.policy.document import Mapping, Node, Scalar, ScalarKind, parse_documents
from agent.policy.errors import Problems
from agent.policy.json_schema import build_schema
from agent.policy.model import PolicyKind
from agent.policy.reference import write_reference
from agent.policy.spec import SPEC, STRUCTS
from agent.policy.spec_types import Field, ListOf, MapOf, Ref, Struct
from tests.support.json_schema import Validator
from tools.gen_policy_docs import ROOT, find_stale, generate

POLICIES = ROOT / "tests/data/policies"
Schema = dict[str, Any]
# kube-apiserver keeps the bounds of numbers as doubles.
MAX_EXACT = (1 << 53) - 1
SCHEMA_KEYWORDS = {
    "type", "description", "properties", "required", "items", "additionalProperties", "default", "enum", "format",
    "minimum", "maximum", "minLength", "pattern", "minItems", "maxItems", "maxProperties", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
}  # fmt: skip


def root_of(kind: PolicyKind) -> Schema:
    (version,) = define(kind)["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from walk(below, f"{path}.{name}")
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield from walk(schema[keyword], path + mark)


def plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {name: plain(entry.value) for name, entry in node.entries.items()}
    if not isinstance(node, Scalar):
        return [plain(item) for item in node.items]
    return node.text if node.kind is ScalarKind.STRING else yaml.safe_load(node.text)


def documents(path: Path) -> list[Any]:
    problems = Problems()
    found = [plain(node) for node in parse_documents(path.read_bytes(), path.name, problems)]
    problems.check()
    return found


def policy(spec: Any, kind: str = "TracingPolicy", **metadata: Any) -> Schema:
    return {"apiVersion": "cilium.io/v1alpha1", "kind": kind, "metadata": {"name": "x", **metadata}, "spec": spec}


def kprobe(**fields: Any) -> Schema:
    return policy({"kprobes": [{"call": "a", **fields}]})


def test_the_committed_files_are_fresh() -> None:
    assert find_stale(generate(ROOT)) == [], "run tools/gen_policy_docs.py"


def test_a_changed_or_missing_file_is_stale(tmp_path: Path) -> None:
    wanted = generate(tmp_path)
    assert find_stale(wanted) == list(wanted)
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert find_stale(wanted) == []
    first = next(iter(wanted))
    first.write_text("", encoding="utf-8")
    assert find_stale(wanted) == [first]


@pytest.mark.parametrize("kind", PolicyKind)
def test_the_yaml_says_what_the_definition_does(kind: PolicyKind) -> None:
    text = write_crd(kind)
    assert yaml.safe_load(text) == define(kind)
    assert re.search(r"[:-] [&*]\w", text) is None, "an anchor or alias"


def test_names_of_the_resources() -> None:
    cluster, namespaced = (define(kind) for kind in PolicyKind)
    assert cluster["metadata"]["name"] == "tracingpolicies.cilium.io"
    assert namespaced["metadata"]["name"] == "tracingpoliciesnamespaced.cilium.io"
    assert (cluster["spec"]["scope"], namespaced["spec"]["scope"]) == ("Cluster", "Namespaced")
    assert [naming.short for naming in NAMINGS.values()] == ["tgtp", "tgtpn"]
    assert namespaced["spec"]["names"] == {
        "categories": ["podgate"],
        "kind": "TracingPolicyNamespaced",
        "listKind": "TracingPolicyNamespacedList",
        "plural": "tracingpoliciesnamespaced",
        "shortNames": ["tgtpn"],
        "singular": "tracingpolicynamespaced",
    }


@pytest.mark.parametrize("kind", PolicyKind)
def test_kubectl_apply_can_note_the_definition(kind: PolicyKind) -> None:
    assert len(json.dumps(define(kind), separators=(",", ":"))) < MAX_APPLIED_BYTES - 4096


@pytest.mark.parametrize("kind", PolicyKind)
def test_the_schema_is_structural(kind: PolicyKind) -> None:
    for path, schema in walk(root_of(kind)):
        assert schema.keys() <= SCHEMA_KEYWORDS, path
        assert schema["type"] in ("object", "array", "string", "integer", "boolean"), path
        assert not {"properties", "additionalProperties"} <= schema.keys(), path
        assert ("items" in schema) == (schema["type"] == "array"), path
        assert set(schema.get("required", [])) <= schema.get("properties", {}).keys(), path
        assert abs(schema.get("maximum", 0)) <= MAX_EXACT, path


@pytest.mark.parametrize("kind", PolicyKind)
def test_defaults_and_lists_are_legal(kind: PolicyKind) -> None:
    for path, schema in walk(root_of(kind)):
        if "default" in schema:
            bare = {name: value for name, value in schema.items() if name != "format"}
            assert Validator(bare).find_faults(schema["default"]) == [], path
        if schema.get("x-kubernetes-list-type") == "map":
            (key,) = schema["x-kubernetes-list-map-keys"]
            assert key in schema["items"]["required"], path


@pytest.mark.parametrize("kind", PolicyKind)
def test_rules_stand_where_their_fields_are(kind: PolicyKind) -> None:
    seen = set()
    for path, schema in walk(root_of(kind)):
        for rule in schema.get("x-kubernetes-validations", []):
            names = {re.sub(r"^__(\w+)__$", r"\1", name) for name in re.findall(r"\bself\.(\w+)", rule["rule"])}
            assert names <= schema["properties"].keys(), path
            assert "\n" not in rule["message"], path
            seen.add(path)
    assert {".spec", ".spec.kprobes[]", ".spec.fentries[]", ".spec.uprobes[]"} <= seen
    assert ("" in seen) == (kind is PolicyKind.NAMESPACED)


@pytest.mark.parametrize("kind", PolicyKind)
def test_nothing_is_lost_on_the_way(kind: PolicyKind) -> None:
    def compare(struct: Struct, schema: Schema) -> None:
        assert schema["properties"].keys() == struct.names
        for field in struct.fields:
            below = schema["properties"][field.name]
            compare_field(field, below)

    def compare_field(field: Field, schema: Schema) -> None:
        inner = schema.get("items") or schema.get("additionalProperties") or schema
        if isinstance(field.inner, Ref):
            compare(STRUCTS[field.inner.name], inner)
        else:
            assert inner["type"] == field.inner.value
            assert inner.get("minimum") == field.minimum
            assert field.refused or inner.get("enum", []) == list(field.enum)
        assert (schema["type"] == "array") == isinstance(field.type, ListOf)
        assert ("additionalProperties" in schema) == isinstance(field.type, MapOf)
        assert field.description in schema["description"]

    compare(SPEC, root_of(kind)["properties"]["spec"])


@pytest.mark.parametrize("kind", PolicyKind)
def test_refused_fields_take_nothing_but_their_empty_value(kind: PolicyKind) -> None:
    spec = root_of(kind)["properties"]["spec"]["properties"]
    assert spec["loader"]["enum"] == [False]
    assert spec["selectorsMacros"]["additionalProperties"]["properties"]["macros"]["maxItems"] == 0
    assert spec["kprobes"]["items"]["properties"]["args"]["items"]["properties"]["source"]["enum"] == [""]


@pytest.mark.parametrize("path", sorted((POLICIES / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_good_policies_fit_the_json_schema(path: Path) -> None:
    validator = Validator(build_schema())
    found = documents(path)
    assert found
    assert [validator.find_faults(document) for document in found] == [[] for _ in found]


@pytest.mark.parametrize("name", ["args", "kind", "matches", "selectors", "spec"])
def test_policies_that_are_refused_for_their_shape_do_not_fit(name: str) -> None:
    validator = Validator(build_schema())
    assert any(validator.find_faults(document) for document in documents(POLICIES / f"refused/{name}.yaml"))


MINIMAL = {"kprobes": [{"call": "a"}]}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (kprobe(calls="b"), "spec/kprobes/0/calls: unknown"),
        (kprobe(args=[{"type": "int"}]), "spec/kprobes/0/args/0/index: required"),
        (kprobe(args=[{"index": 0, "type": "strung"}]), "spec/kprobes/0/args/0/type/enum"),
        (kprobe(args=[{"index": "0"}]), "spec/kprobes/0/args/0/index/type integer"),
        (kprobe(args=[{"index": 0, "source": "current_task"}]), "spec/kprobes/0/args/0/source/enum"),
        (kprobe(data=[{"source": "pt_regs"}]), "spec/kprobes/0/data/0/resolve: required"),
        (kprobe(tags=["x"]), "spec/kprobes/0/tags/0/minLength"),
        (kprobe(tags=["xx"] * 17), "spec/kprobes/0/tags/maxItems"),
        (kprobe(call=None), "spec/kprobes/0/call/type string"),
        (
            kprobe(selectors=[{"matchArgs": [{"operator": "Equal", "values": [1]}]}]),
            "spec/kprobes/0/selectors/0/matchArgs/0/values/0/type string",
        ),
        (
            kprobe(selectors=[{"matchActions": [{"action": "Signal", "argSig": 65}]}]),
            "spec/kprobes/0/selectors/0/matchActions/0/argSig/maximum",
        ),
        (
            kprobe(selectors=[{"matchWorkloads": {"hostSelector": {"matchLabels": {"a": "b"}}}}]),
            "spec/kprobes/0/selectors/0/matchWorkloads/hostSelector/maxProperties",
        ),
        (policy({**MINIMAL, "loader": True}), "spec/loader/enum"),
        (policy({**MINIMAL, "hostSelector": {}}, "TracingPolicyNamespaced"), "spec/hostSelector/type null"),
        (policy(MINIMAL, namespace="shop"), "metadata/namespace/enum"),
        (policy(MINIMAL, name="Upper"), "metadata/name/pattern"),
        (policy(MINIMAL, kind="PodInfo"), "kind/enum"),
        ({**policy(MINIMAL), "apiVersion": "cilium.io/v1"}, "apiVersion/const"),
        (policy({"selectorsMacros": {"m": {"macros": ["n"]}}}), "spec/selectorsMacros/m/macros/enum"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_kind_of_fault_is_seen_in_its_place(document: Schema, fault: str) -> None:
    assert Validator(build_schema()).find_faults(document) == [fault]


def test_what_is_allowed_in_either_kind() -> None:
    validator = Validator(build_schema())
    assert validator.find_faults(policy(MINIMAL, "TracingPolicyNamespaced", namespace="shop", labels={"a": "b"})) == []
    assert validator.find_faults(policy({**MINIMAL, "hostSelector": {}, "lists": None, "loader": False})) == []


def test_every_definition_of_the_json_schema_has_words_for_people() -> None:
    schema = build_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"].keys() == STRUCTS.keys()
    for definition in schema["$defs"].values():
        assert definition["title"]
        assert definition["description"]
        assert all(each["title"] and each["description"] for each in definition["properties"].values())


def test_the_reference_has_every_field_and_word() -> None:
    page = write_reference()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert sections.keys() == STRUCTS.keys() | {"Kinds"}
    for name, struct in STRUCTS.items():
        rows = set(re.findall(r"^\| `(\w+)` \|", sections[name], re.MULTILINE))
        assert rows == struct.names
        assert all(f"`{word}`" in sections[name] for field in struct.fields for word in field.enum)
        assert all(rule.message in sections[name] for rule in struct.rules)
    links = re.findall(r"\]\(#(\w+)\)", page)
    assert set(links) <= {name.lower() for name in STRUCTS}


def test_table_rows_have_as_many_cells_as_the_heading() -> None:
    rows = [line for line in write_reference().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_the_command_prints_the_json_schema() -> None:
    result = CliRunner().invoke(schema_command, [])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == build_schema()


def test_the_command_prints_the_definitions() -> None:
    result = CliRunner().invoke(schema_command, ["--crd"])
    assert result.exit_code == 0
    assert list(yaml.safe_load_all(result.stdout)) == [define(kind) for kind in PolicyKind]
