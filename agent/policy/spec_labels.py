# SPDX-License-Identifier: Apache-2.0
"""The field table of label selectors and of what selects workloads."""

from dataclasses import replace

from agent.policy.model import NAMESPACE_LABEL, LabelOperator
from agent.policy.spec_types import STRING, Field, ListOf, MapOf, Ref, Rule, Struct
from agent.policy.spec_words import words

# Syntax of k8s.io/apimachinery/pkg/util/validation, as far as a pattern without look-ahead says it.
LABEL_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"

# A container's name, or the name of an image with its registry: agent/policy/values.py says the rest.
CONTAINER_VALUE = "^[A-Za-z0-9]([-A-Za-z0-9_.:/]{0,510}[A-Za-z0-9])?$"

LABEL_EXPRESSION = Struct(
    "LabelSelectorRequirement",
    "a label expression",
    "One condition on a label.",
    (
        Field("key", STRING, "The label's key.", required=True, min_length=1),
        Field(
            "operator",
            STRING,
            "`In` and `NotIn` compare the label with `values`; `NotIn` also holds where the label is absent. `Exists` "
            "and `DoesNotExist` ask for the key alone.",
            required=True,
            enum=words(LabelOperator),
        ),
        Field("values", ListOf(STRING), "What the label is compared with.", pattern=LABEL_VALUE),
    ),
    (
        Rule(
            "self.operator.endsWith('In') == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need values, Exists and DoesNotExist take none",
        ),
    ),
)

LABEL_SELECTOR = Struct(
    "LabelSelector",
    "a label selector",
    "Conditions on labels that must all hold. Without any, everything is selected.",
    (
        Field("matchLabels", MapOf(STRING), "Labels and the values that they must have.", pattern=LABEL_VALUE),
        Field("matchExpressions", ListOf(Ref(LABEL_EXPRESSION.name)), "Further conditions on labels."),
    ),
)

HOST_SELECTOR = replace(
    LABEL_SELECTOR,
    name="HostSelector",
    title="hostSelector",
    description="Selects the processes of the host, those that are in no container. Only `{}`, for all of them.",
    max_fields=0,
)

_PODS = Field(
    "podSelector",
    Ref(LABEL_SELECTOR.name),
    f"The pods whose containers are meant, by their labels; `{NAMESPACE_LABEL}` stands for the pod's namespace.",
)
CONTAINER_EXPRESSION = replace(
    LABEL_EXPRESSION,
    name="ContainerSelectorRequirement",
    title="a container expression",
    description="One condition on a container.",
    fields=tuple(
        replace(each, pattern=CONTAINER_VALUE) if each.name == "values" else each for each in LABEL_EXPRESSION.fields
    ),
)

CONTAINER_SELECTOR = Struct(
    "ContainerSelector",
    "a container selector",
    "Conditions on `name` and `repo` of a container that must all hold. Without any, every container is selected.",
    (
        Field("matchLabels", MapOf(STRING), "Keys and the values that they must have.", pattern=CONTAINER_VALUE),
        Field("matchExpressions", ListOf(Ref(CONTAINER_EXPRESSION.name)), "Further conditions."),
    ),
)

_CONTAINERS = Field(
    "containerSelector",
    Ref(CONTAINER_SELECTOR.name),
    "The containers that are meant, by the keys `name` and `repo` (the image's name without tag and digest).",
    note="Other keys than `name` and `repo` are refused: they would never match. A registry's port belongs to the "
    "repository, a digest does not.",
)
_HOST = Field("hostSelector", Ref(HOST_SELECTOR.name), "`{}` adds the processes of the host.")
WORKLOAD_FIELDS = (_PODS, _CONTAINERS, _HOST)

WORKLOAD_SELECTOR = Struct(
    "WorkloadSelector",
    "matchWorkloads",
    "To which processes a selector applies, within what its policy applies to.",
    WORKLOAD_FIELDS,
)

STRUCTS = (
    WORKLOAD_SELECTOR,
    LABEL_SELECTOR,
    CONTAINER_SELECTOR,
    HOST_SELECTOR,
    LABEL_EXPRESSION,
    CONTAINER_EXPRESSION,
)
