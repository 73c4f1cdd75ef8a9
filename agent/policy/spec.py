# SPDX-License-Identifier: Apache-2.0
"""The field table: every field of the `cilium.io/v1alpha1` policies, once.

The reader takes its known fields and words from here, and three things are generated: the CustomResourceDefinitions
(`crd`), a JSON schema for editors (`json_schema`) and the reference page (`reference`). Descriptions are in the
author's terms; text in backquotes is literal.
"""

from collections.abc import Mapping
from types import MappingProxyType

from agent.policy import spec_hooks, spec_labels, spec_selectors
from agent.policy.model import PolicyKind
from agent.policy.spec_hooks import KPROBE, LSM_HOOK, TRACEPOINT, UPROBE, USDT
from agent.policy.spec_labels import LABEL_SELECTOR, WORKLOAD_FIELDS
from agent.policy.spec_selectors import SELECTOR_MACRO
from agent.policy.spec_types import BOOLEAN, STRING, Field, ListOf, MapOf, Ref, Rule, Struct
from agent.policy.spec_words import LIST_TYPES, OPTION_NAMES

GROUP = "cilium.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LIST = Struct(
    "ListSpec",
    "a list",
    "System calls or functions under one name, for `list:NAME`.",
    (
        Field("name", STRING, "The list's name.", required=True, min_length=1),
        Field(
            "type",
            STRING,
            "`syscalls`: `values` are system calls. `generated_syscalls`: all system calls of the node. "
            "`generated_ftrace`: the functions of the node's kernel that fit `pattern`. Without a type, `values` are "
            "functions.",
            enum=LIST_TYPES,
        ),
        Field("values", ListOf(STRING), "System calls or functions.", min_length=1),
        Field("pattern", STRING, "`generated_` lists: a regular expression that names must match."),
        Field(
            "validated",
            BOOLEAN,
            "Whether the values were checked before.",
            default=False,
            note="Has no effect: values are always checked.",
        ),
    ),
    (
        Rule(
            "!has(self.type) || self.type != 'generated_ftrace' || (has(self.pattern) && self.pattern != '')",
            "a generated_ftrace list needs a pattern",
        ),
    ),
)

ENFORCER = Struct(
    "EnforcerSpec",
    "an enforcer",
    "Where the decisions of `NotifyEnforcer` are carried out.",
    (
        Field(
            "calls",
            ListOf(STRING),
            "System calls, functions that begin with `security_`, or `list:NAME`.",
            required=True,
            min_length=1,
            min_items=1,
            note="Functions are refused when the policy is added.",
        ),
    ),
)

OPTION = Struct(
    "OptionSpec",
    "an option",
    "A setting of the policy.",
    (
        Field(
            "name",
            STRING,
            "`policy-mode`: `enforce` or `monitor`, in which enforcing actions are only counted. `override-method`: "
            "`fmod-ret` or `override-return`. `disable-kprobe-multi`, `disable-uprobe-multi`: `true` or `false`. "
            "`sleepable-preload-size`: a number.",
            required=True,
            enum=OPTION_NAMES,
            note="Other names are refused, not ignored. Without `override-method` the node decides; with it the policy "
            "is refused where that way is not possible.",
        ),
        Field("value", STRING, "The setting's value, a string."),
    ),
)


def _hooks(name: str, struct: Struct, description: str, refused: str = "") -> Field:
    return Field(name, ListOf(Ref(struct.name)), description, refused=refused)


_HOOK_LISTS = ("kprobes", "tracepoints", "uprobes", "usdts", "lsmhooks", "fentries")

SPEC = Struct(
    "TracingPolicySpec",
    "spec",
    "What the policy hooks, and whom it applies to.",
    (
        _hooks("kprobes", KPROBE, "Hooks on system calls and functions of the kernel."),
        _hooks("tracepoints", TRACEPOINT, "Hooks on tracepoints of the kernel."),
        _hooks("uprobes", UPROBE, "Hooks on places in programs and libraries."),
        _hooks("usdts", USDT, "Hooks on probes that programs' authors put there."),
        _hooks("lsmhooks", LSM_HOOK, "Hooks on decisions of the kernel's security modules."),
        _hooks("fentries", KPROBE, "Hooks on functions of the kernel, by trampolines."),
        Field(
            "loader",
            BOOLEAN,
            "Events for every file that is mapped as code.",
            default=False,
            refused="events of the loader are not supported yet",
        ),
        *WORKLOAD_FIELDS,
        Field(
            "nodeSelector",
            Ref(LABEL_SELECTOR.name),
            "The nodes that the policy is for, by their labels.",
            note="Conditions are refused when the policy is added: nobody tells the agent its node's labels.",
        ),
        Field(
            "lists",
            ListOf(Ref(LIST.name)),
            "System calls or functions under one name.",
            item_key="name",
        ),
        Field(
            "enforcers",
            ListOf(Ref(ENFORCER.name)),
            "Where the decisions of `NotifyEnforcer` are carried out.",
            note="Several are one with the calls of all.",
        ),
        Field("options", ListOf(Ref(OPTION.name)), "Settings of the policy.", item_key="name"),
        Field(
            "selectorsMacros",
            MapOf(Ref(SELECTOR_MACRO.name)),
            "Filters under names, for the field `macros` of selectors.",
        ),
    ),
    (
        Rule(
            " || ".join(f"(has(self.{name}) && size(self.{name}) > 0)" for name in _HOOK_LISTS),
            f"the policy hooks nothing: give one of {', '.join(_HOOK_LISTS)}",
        ),
        Rule(
            "!has(self.hostSelector) || "
            "!(has(self.hostSelector.matchLabels) || has(self.hostSelector.matchExpressions))",
            "hostSelector takes no conditions: write {} or leave it out",
        ),
    ),
)

METADATA = Struct(
    "Metadata",
    "metadata",
    "The name of the policy, and what the API server knows about it.",
    (
        Field(
            "name",
            STRING,
            "A DNS-1123 subdomain: at most 253 lower case letters, digits, `-` and `.`.",
            required=True,
            min_length=1,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
        Field(
            "namespace",
            STRING,
            f"The namespace of a `{PolicyKind.NAMESPACED.value}`, `default` when absent.",
            note=f"Refused in a `{PolicyKind.CLUSTER.value}`.",
        ),
    ),
)

# What follows from the kind alone.
KIND_RULES: Mapping[PolicyKind, tuple[Rule, ...]] = MappingProxyType(
    {
        PolicyKind.CLUSTER: (),
        PolicyKind.NAMESPACED: (
            Rule(
                "!has(self.spec.hostSelector)",
                "a TracingPolicyNamespaced is for pods of its namespace: leave hostSelector out",
            ),
        ),
    }
)

STRUCTS: Mapping[str, Struct] = MappingProxyType(
    {
        struct.name: struct
        for struct in (
            SPEC,
            *spec_hooks.STRUCTS,
            *spec_selectors.STRUCTS,
            *spec_labels.STRUCTS,
            LIST,
            ENFORCER,
            OPTION,
            METADATA,
        )
    }
)
