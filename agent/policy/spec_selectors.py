# SPDX-License-Identifier: Apache-2.0
"""The field table of selectors and their filters."""

from dataclasses import replace

from agent.policy.model import CapabilityType, NamespaceType
from agent.policy.spec_actions import ACTION_SELECTOR
from agent.policy.spec_labels import WORKLOAD_SELECTOR
from agent.policy.spec_types import BOOLEAN, INTEGER, MAX_U32, STRING, Field, ListOf, Ref, Struct
from agent.policy.spec_words import (
    ARG_OPERATORS,
    BINARY_OPERATORS,
    CAPABILITIES,
    MEMBERSHIP_OPERATORS,
    WITHOUT_VALUES,
    words,
)

_MEMBERSHIP = Field(
    "operator",
    STRING,
    "`In`: one of the values fits. `NotIn`: none does.",
    required=True,
    enum=MEMBERSHIP_OPERATORS,
)

ARG_SELECTOR = Struct(
    "ArgSelector",
    "a matchArgs item",
    "A condition on one argument, or on several for the operators that take several.",
    (
        Field(
            "index",
            INTEGER,
            "The argument, by its `index` in `args`; an entry of `data` by its place in that list, from 0.",
            default=0,
            minimum=0,
            maximum=MAX_U32,
        ),
        Field(
            "args",
            ListOf(INTEGER),
            "The arguments, for `CapabilitiesGained` the old set and the new one. Takes the place of `index`.",
            minimum=0,
            maximum=MAX_U32,
        ),
        Field(
            "operator",
            STRING,
            "How the argument is compared; which operators there are depends on its type.",
            required=True,
            enum=ARG_OPERATORS,
            note="Any number of values for every operator. `SubString` and `SubStringIgnCase` work on every kernel.",
        ),
        Field(
            "values",
            ListOf(STRING),
            "What the argument is compared with: texts, numbers (`10`, `0x0a`, `0o12`, `0b1010`), ranges and ports "
            "(`min:max`), addresses (`10.0.0.0/8`, `fe80::1`), names (`IPPROTO_TCP`, `AF_INET`, `TCP_LISTEN`), file "
            "types (`reg`, `dir`, `lnk`, `blk`, `chr`, `fifo`, `sock`). Always strings: `['-1']`, not `[-1]`. "
            f"Required, except for {', '.join(f'`{name}`' for name in WITHOUT_VALUES)}.",
        ),
    ),
)

PID_SELECTOR = Struct(
    "PIDSelector",
    "a matchPIDs item",
    "A condition on the calling process's id.",
    (
        _MEMBERSHIP,
        Field(
            "values",
            ListOf(INTEGER),
            "Process ids (those of thread groups).",
            required=True,
            minimum=0,
            maximum=MAX_U32,
            min_items=1,
        ),
        Field(
            "isNamespacePID",
            BOOLEAN,
            "The ids are those of the process's own pid namespace, not those of the host.",
            default=False,
        ),
        Field("followForks", BOOLEAN, "Descendants of these processes count as well.", default=False),
    ),
)

BINARY_SELECTOR = Struct(
    "BinarySelector",
    "a matchBinaries item",
    "A condition on the path of the program that the process runs.",
    (
        Field(
            "operator",
            STRING,
            "How the path is compared with each value.",
            required=True,
            enum=BINARY_OPERATORS,
        ),
        Field("values", ListOf(STRING), "Paths, as the process sees them.", required=True, min_length=1, min_items=1),
        Field(
            "followChildren",
            BOOLEAN,
            "Descendants of such processes count as well, whatever they run.",
            default=False,
            note="Together with every operator, not only `In` and `NotIn`.",
        ),
    ),
)

PARENT_BINARY_SELECTOR = replace(
    BINARY_SELECTOR,
    name="ParentBinarySelector",
    title="a matchParentBinaries item",
    description="A condition on the path of the program that the process's parent runs.",
)

_NAMESPACES = words(NamespaceType)

NAMESPACE_SELECTOR = Struct(
    "NamespaceSelector",
    "a matchNamespaces item",
    "A condition on one of the process's namespaces.",
    (
        Field("namespace", STRING, "Which namespace.", required=True, enum=_NAMESPACES),
        _MEMBERSHIP,
        Field(
            "values",
            ListOf(STRING),
            "Inode numbers of namespaces, as strings; `host_ns` is that of the host.",
            required=True,
            pattern="^(host_ns|[0-9][0-9A-Za-z_]*)$",
            min_items=1,
        ),
    ),
)

NAMESPACE_CHANGES_SELECTOR = Struct(
    "NamespaceChangesSelector",
    "a matchNamespaceChanges item",
    "Whether the process has changed namespaces since it was started by an execve.",
    (
        replace(_MEMBERSHIP, description="`In`: one of these was changed. `NotIn`: none was."),
        Field("values", ListOf(STRING), "Which namespaces.", required=True, enum=_NAMESPACES, min_items=1),
    ),
)

CAPABILITIES_SELECTOR = Struct(
    "CapabilitiesSelector",
    "a matchCapabilities item",
    "A condition on one of the process's sets of capabilities.",
    (
        Field(
            "type",
            STRING,
            "Which set.",
            default=CapabilityType.EFFECTIVE.value,
            enum=words(CapabilityType),
        ),
        replace(_MEMBERSHIP, description="`In`: the set has one of these. `NotIn`: it has none."),
        Field(
            "isNamespaceCapability",
            BOOLEAN,
            "Capabilities within another user namespace than the host's count as well.",
            default=False,
        ),
        Field("values", ListOf(STRING), "Capabilities.", required=True, enum=CAPABILITIES, min_items=1),
    ),
)

CAPABILITY_CHANGES_SELECTOR = replace(
    CAPABILITIES_SELECTOR,
    name="CapabilityChangesSelector",
    title="a matchCapabilityChanges item",
    description="Whether the process has gained or lost capabilities since it was started by an execve.",
    fields=tuple(
        replace(each, description="`In`: one of these was gained or lost. `NotIn`: none was.")
        if each.name == "operator"
        else each
        for each in CAPABILITIES_SELECTOR.fields
    ),
)


def _filters(name: str, struct: Struct, description: str, note: str = "") -> Field:
    return Field(name, ListOf(Ref(struct.name)), description, note=note)


_MACROS = Field(
    "macros",
    ListOf(STRING),
    "Names in `selectorsMacros` whose filters are added to this selector's.",
    min_length=1,
)

KPROBE_SELECTOR = Struct(
    "KProbeSelector",
    "a selector",
    "Filters that must all hold, and what happens then. The selectors of a hook are tried in order; the first that "
    "matches acts. Those with a part for the return form a second list, which is tried when the call returns.",
    (
        Field("label", STRING, "A name for the counters of this selector."),
        _MACROS,
        _filters("matchPIDs", PID_SELECTOR, "Conditions on the process's id; all must hold."),
        _filters("matchBinaries", BINARY_SELECTOR, "Conditions on the process's program; all must hold."),
        _filters("matchParentBinaries", PARENT_BINARY_SELECTOR, "Conditions on the parent's program; all must hold."),
        _filters("matchArgs", ARG_SELECTOR, "Conditions on arguments; all must hold."),
        _filters("matchData", ARG_SELECTOR, "Conditions on entries of `data`; all must hold."),
        _filters("matchNamespaces", NAMESPACE_SELECTOR, "Conditions on namespaces; all must hold."),
        _filters("matchNamespaceChanges", NAMESPACE_CHANGES_SELECTOR, "Namespaces that were changed; all must hold."),
        _filters("matchCapabilities", CAPABILITIES_SELECTOR, "Conditions on capabilities; all must hold."),
        _filters(
            "matchCapabilityChanges",
            CAPABILITY_CHANGES_SELECTOR,
            "Capabilities that were gained or lost; all must hold.",
        ),
        Field("matchWorkloads", Ref(WORKLOAD_SELECTOR.name), "Which workloads, within those of the policy."),
        _filters("matchActions", ACTION_SELECTOR, "What a match does. Without any, it makes an event."),
        _filters("matchReturnArgs", ARG_SELECTOR, "Conditions on the value that the call returns; all must hold."),
        _filters("matchReturnActions", ACTION_SELECTOR, "What a match at the return does."),
    ),
)

SELECTOR_MACRO = replace(
    KPROBE_SELECTOR,
    name="SelectorMacro",
    title="a selector macro",
    description="Filters that selectors take over by the macro's name.",
    fields=tuple(
        replace(_MACROS, description="Macros do not nest.", refused="macros do not nest")
        if each.name == "macros"
        else each
        for each in KPROBE_SELECTOR.fields
    ),
)

STRUCTS = (
    KPROBE_SELECTOR,
    SELECTOR_MACRO,
    ARG_SELECTOR,
    PID_SELECTOR,
    BINARY_SELECTOR,
    PARENT_BINARY_SELECTOR,
    NAMESPACE_SELECTOR,
    NAMESPACE_CHANGES_SELECTOR,
    CAPABILITIES_SELECTOR,
    CAPABILITY_CHANGES_SELECTOR,
    ACTION_SELECTOR,
)
