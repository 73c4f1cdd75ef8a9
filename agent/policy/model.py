# SPDX-License-Identifier: Apache-2.0
"""What a tracing policy says, as frozen values.

Semantics (those of the `cilium.io/v1alpha1` custom resources):

- The selectors of a hook are tried in order; the first that matches runs its actions, later ones are not tried.
- A selector matches when all its argument matches do. Within one argument match the positive operators hold when
  any value does, `NotEqual` when no value is equal.
- A hook always has at least one selector here: the reader writes the one that always posts when a policy has none.

Positions never take part in comparisons: two policies are equal when they mean the same.
"""

from dataclasses import dataclass, field
from enum import Enum, unique

SIGKILL = 9

# The pseudo label under which a pod's namespace can be selected.
NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a policy file; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@unique
class PolicyKind(Enum):
    """The `kind` of the custom resource."""

    CLUSTER = "TracingPolicy"
    NAMESPACED = "TracingPolicyNamespaced"


@unique
class ArgType(Enum):
    """The type of a system call's argument, by its name in a policy."""

    INT = "int"
    UINT = "uint"
    LONG = "long"
    ULONG = "ulong"
    SIZE_T = "size_t"
    STRING = "string"
    CHAR_BUF = "char_buf"
    FD = "fd"

    @property
    def is_number(self) -> bool:
        """Whether values are integers; the others compare bytes (for `fd`, the path of the open file)."""
        return self in _NUMBERS

    @property
    def bits(self) -> int:
        """Width in bits of a number type. Raises KeyError for the other types."""
        return _NUMBERS[self][0]

    @property
    def signed(self) -> bool:
        """Whether a number type is signed. Raises KeyError for the other types."""
        return _NUMBERS[self][1]


_NUMBERS = {
    ArgType.INT: (32, True),
    ArgType.UINT: (32, False),
    ArgType.LONG: (64, True),
    ArgType.ULONG: (64, False),
    ArgType.SIZE_T: (64, False),
}


@unique
class Operator(Enum):
    """How an argument is compared. `GreaterThan` and `LessThan` are read as GT and LT."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    GT = "GT"
    LT = "LT"
    MASK = "Mask"
    """The argument and the value have a bit in common."""
    PREFIX = "Prefix"
    POSTFIX = "Postfix"


@unique
class ActionKind(Enum):
    """What a matching selector does."""

    POST = "Post"
    NO_POST = "NoPost"
    SIGKILL = "Sigkill"
    SIGNAL = "Signal"


@unique
class LabelOperator(Enum):
    """How one label is matched."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Arg:
    """One declared argument; `index` is 0..5, `size_arg` the 0-based argument with a `char_buf`'s length in bytes."""

    index: int
    type: ArgType
    size_arg: int | None = None


@dataclass(frozen=True, slots=True)
class ArgMatch:
    """One condition on a declared argument: integers in the range of its type, or bytes without NUL."""

    index: int
    operator: Operator
    values: tuple[int, ...] | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Action:
    """One action; `signal` is 1..64 for SIGNAL and None for the others."""

    kind: ActionKind
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold, and what to do then."""

    match_args: tuple[ArgMatch, ...] = ()
    actions: tuple[Action, ...] = ()

    @property
    def posts(self) -> bool:
        """Whether a match makes an event: unless an action says NoPost."""
        return all(action.kind is not ActionKind.NO_POST for action in self.actions)

    @property
    def signals(self) -> tuple[int, ...]:
        """The signals that a match sends to the calling process, in the order written."""
        numbers = (SIGKILL if action.kind is ActionKind.SIGKILL else action.signal for action in self.actions)
        return tuple(number for number in numbers if number is not None)


@dataclass(frozen=True, slots=True)
class SyscallHook:
    """A hook at the entry of one native x86_64 system call.

    `syscall` is the name in the kernel's table (`openat`), `call` the text of the policy (`sys_openat`);
    `args` are in the order written, each index once; `selectors` has at least one.
    """

    syscall: str
    call: str
    args: tuple[Arg, ...]
    selectors: tuple[Selector, ...]
    source: Source = field(compare=False)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a pod's labels; `values` are sorted and unique, empty for the two existence operators."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all hold, sorted by key, unique. Without any it selects every pod."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class PolicyKey:
    """What names a policy on a node; `namespace` is None for cluster-wide policies."""

    namespace: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.namespace is None else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    `namespace` is None for cluster-wide policies and a name for namespaced ones. `pod_selector` is None when the
    policy has none: a cluster-wide policy then applies to host processes too. `text_digest` is the SHA-256, in
    hexadecimal, of the content without positions, comments and server-written fields (see `digest`).
    """

    kind: PolicyKind
    name: str
    namespace: str | None
    hooks: tuple[SyscallHook, ...]
    pod_selector: LabelSelector | None
    source: Source = field(compare=False)
    text_digest: str

    @property
    def key(self) -> PolicyKey:
        """The namespace and name."""
        return PolicyKey(self.namespace, self.name)
