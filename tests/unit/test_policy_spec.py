# SPDX-License-Identifier: Apache-2.0
"""The field table: complete, and at one with the model."""

from __future__ import annotations

import re
from enum import Enum

import pytest

from agent.policy.crd import CEL_RESERVED
from agent.policy.model import (
    ActionKind,
    ArgType,
    CapabilityType,
    DataSource,
    LabelOperator,
    NamespaceType,
    Operator,
    RateScope,
)
from agent.policy.spec import KIND_RULES, SPEC, STRUCTS
from agent.policy.spec_types import Field, Ref, ScalarType, Struct
from agent.policy.spec_words import ARG_OPERATORS, CAPABILITIES, OPERATOR_SYNONYMS, WITHOUT_VALUES

FILTERS = """
label macros matchPIDs matchBinaries matchParentBinaries matchArgs matchData matchNamespaces matchNamespaceChanges
matchCapabilities matchCapabilityChanges matchWorkloads matchActions matchReturnArgs matchReturnActions
"""
ARGUMENT = "index type resolve sizeArgIndex returnCopy maxData label source btfType btfTypeModule"

# What the custom resources have, written out once more.
FIELDS = {
    "TracingPolicySpec": """
        kprobes tracepoints loader uprobes lsmhooks usdts fentries
        podSelector containerSelector hostSelector nodeSelector lists enforcers options selectorsMacros
    """,
    "KProbeSpec": """
        call return syscall message args data returnArg returnArgAction selectors tags ignore
    """,
    "TracepointSpec": "subsystem event message args selectors tags raw",
    "UProbeSpec": """
        path btfPath symbols offsets addrs refCtrOffsets message selectors args data tags return returnArg binaryDigests
        ignore
    """,
    "UsdtSpec": "path btfPath provider name tags message args selectors",
    "LsmHookSpec": "hook message args selectors tags",
    "ListSpec": "name values type pattern validated",
    "EnforcerSpec": "calls",
    "OptionSpec": "name value",
    "KProbeIgnore": "callNotFound",
    "UProbeIgnore": "digestVerificationFailure",
    "KProbeArg": ARGUMENT,
    "DataArg": ARGUMENT,
    "ReturnArg": ARGUMENT,
    "KProbeSelector": FILTERS,
    "SelectorMacro": FILTERS,
    "ArgSelector": "index args operator values",
    "PIDSelector": "operator values isNamespacePID followForks",
    "BinarySelector": "operator values followChildren",
    "ParentBinarySelector": "operator values followChildren",
    "NamespaceSelector": "namespace operator values",
    "NamespaceChangesSelector": "operator values",
    "CapabilitiesSelector": "type operator isNamespaceCapability values",
    "CapabilityChangesSelector": "type operator isNamespaceCapability values",
    "WorkloadSelector": "podSelector containerSelector hostSelector",
    "ActionSelector": """
        action argFd argName argUrl argFqdn argError argSig argSock argIndex argValue argRegs argNewSymbol argNewAddr
        argNewOffset rateLimit rateLimitScope kernelStackTrace userStackTrace imaHash
    """,
    "LabelSelector": "matchLabels matchExpressions",
    "HostSelector": "matchLabels matchExpressions",
    "LabelSelectorRequirement": "key operator values",
    "ContainerSelector": "matchLabels matchExpressions",
    "ContainerSelectorRequirement": "key operator values",
    "Metadata": "name namespace",
}
ARG_TYPES = """
auto int sint8 int8 uint8 sint16 int16 uint16 uint32 sint32 int32 ulong uint64 size_t long sint64 int64 char_buf
char_iovec skb sock sockaddr socket sockaddr_un string fd file filename path nop bpf_attr perf_event bpf_map
user_namespace capability kiocb iov_iter cred const_buf load_info module syscall64 kernel_cap_t cap_inheritable
cap_permitted cap_effective linux_binprm data_loc net_device bpf_cmd dentry bpf_prog
"""
OPERATORS = """
GT GreaterThan LT LessThan Equal NotEqual Prefix Postfix InMap NotInMap Mask SAddr DAddr SPort DPort Protocol NotSPort
NotDPort SPortPriv NotSportPriv DPortPriv NotDPortPriv NotSAddr NotDAddr NotPrefix NotPostfix Family State
CapabilitiesGained InRange NotInRange SubString SubStringIgnCase CelExpr FileType NotFileType
"""


def all_fields() -> list[tuple[Struct, Field]]:
    return [(struct, field) for struct in STRUCTS.values() for field in struct.fields]


def words_of(kind: type[Enum]) -> set[str]:
    return {member.value for member in kind}


def test_every_structure_is_listed() -> None:
    assert STRUCTS.keys() == FIELDS.keys()
    assert all(struct.name == name for name, struct in STRUCTS.items())


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_there_and_no_other(name: str) -> None:
    struct = STRUCTS[name]
    assert struct.names == set(FIELDS[name].split())
    assert len(struct.fields) == len(struct.names)
    assert all(struct.field(field.name) is field for field in struct.fields)


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(KeyError):
        SPEC.field("kprobe")


@pytest.mark.parametrize(
    ("struct", "field", "kind"),
    [
        ("KProbeArg", "type", ArgType),
        ("DataArg", "source", DataSource),
        ("ActionSelector", "action", ActionKind),
        ("ActionSelector", "rateLimitScope", RateScope),
        ("NamespaceSelector", "namespace", NamespaceType),
        ("NamespaceChangesSelector", "values", NamespaceType),
        ("CapabilitiesSelector", "type", CapabilityType),
        ("LabelSelectorRequirement", "operator", LabelOperator),
    ],
)
def test_words_are_those_of_the_model(struct: str, field: str, kind: type[Enum]) -> None:
    assert set(STRUCTS[struct].field(field).enum) == words_of(kind)


def test_argument_types_are_those_of_the_resource_and_uint() -> None:
    assert words_of(ArgType) == set(ARG_TYPES.split()) | {"uint"}


def test_operators_are_those_of_the_resource_and_the_regular_spellings() -> None:
    assert set(ARG_OPERATORS) == set(OPERATORS.split()) | {"NotSPortPriv", "SubStringIgnoreCase"}
    assert STRUCTS["ArgSelector"].field("operator").enum == ARG_OPERATORS


def test_every_operator_has_a_word_somewhere() -> None:
    used = {word for struct, field in all_fields() if field.name == "operator" for word in field.enum}
    assert words_of(Operator) <= used
    assert all(word in used and word not in words_of(Operator) for word in OPERATOR_SYNONYMS)
    assert set(WITHOUT_VALUES) <= used


def test_capabilities_are_in_the_kernels_order() -> None:
    assert len(CAPABILITIES) == 41
    picked = {CAPABILITIES.index(f"CAP_{name}"): name for name in ("CHOWN", "SYS_ADMIN", "AUDIT_READ", "BPF")}
    assert picked == {0: "CHOWN", 21: "SYS_ADMIN", 37: "AUDIT_READ", 39: "BPF"}


def test_every_structure_is_reached_from_the_specification() -> None:
    reached: set[str] = set()
    waiting = [SPEC.name]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [field.inner.name for field in STRUCTS[name].fields if isinstance(field.inner, Ref)]
    assert reached == STRUCTS.keys() - {"Metadata"}


@pytest.mark.parametrize(("struct", "field"), all_fields(), ids=lambda each: each.name)
def test_a_field_is_consistent(struct: Struct, field: Field) -> None:
    assert struct.title
    assert field.description.endswith((".", ")"))
    assert not (field.required and (field.default is not None or field.refused))
    assert not (field.enum and field.scalar is not ScalarType.STRING)
    if field.scalar is ScalarType.INTEGER and not field.refused:
        assert field.minimum is not None
        assert field.maximum is not None
    else:
        assert (field.minimum, field.maximum) == (None, None)
    if field.enum and field.default is not None:
        assert field.default in field.enum
    if field.pattern:
        assert re.compile(field.pattern)
        assert field.pattern.startswith("^")
        assert field.pattern.endswith("$")


def test_rules_name_fields_that_exist() -> None:
    for struct in STRUCTS.values():
        for rule in struct.rules:
            names = re.findall(r"\bself\.(\w+)", rule.expression)
            plain = {re.sub(r"^__(\w+)__$", r"\1", name) for name in names}
            assert names
            assert plain <= struct.names, rule
            assert not CEL_RESERVED & set(names), rule
            assert rule.message


def test_the_rules_that_users_know_are_there() -> None:
    texts = {name: " ".join(rule.expression for rule in STRUCTS[name].rules) for name in STRUCTS}
    assert "returnArg" in texts["KProbeSpec"]
    assert "returnArg" in texts["UProbeSpec"]
    assert all(place in texts["UProbeSpec"] for place in ("symbols", "offsets", "addrs"))
    assert all(place in texts["ActionSelector"] for place in ("argNewSymbol", "argNewAddr", "argNewOffset"))
    assert "hostSelector" in texts["TracingPolicySpec"]
    assert STRUCTS["HostSelector"].max_fields == 0
    assert ["hostSelector" in str(rules) for rules in KIND_RULES.values()] == [False, True]
