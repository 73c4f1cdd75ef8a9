# SPDX-License-Identifier: Apache-2.0
"""What a tracing policy says, as frozen values.

Semantics (those of the `cilium.io/v1alpha1` custom resources):

- The selectors of a hook are tried in order; the first that matches runs its actions, later ones are not tried.
- A selector matches when all its filters do. Within one filter the positive operators hold when any value does, the
  negative ones (`Not…`) when no value does.
- A hook always has at least one selector here: the reader writes the one that always posts when a policy has none.
- A hook with `returns` reports at its return. Its selectors with a return part form a second list: the first of them
  whose `return_args` hold runs its `return_actions`. When there are such selectors and none matches, nothing is
  reported.

Macros are expanded and lists are named by their values here; nothing depends on the node. Positions never take part
in comparisons: two policies are equal when they mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from types import MappingProxyType

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
class HookKind(Enum):
    """What a hook stands on, by the field of the specification that it is written in; kprobes with and without
    `syscall: true`, tracepoints with and without `raw: true` are two each.
    """

    SYSCALL = "syscall"
    KPROBE = "kprobe"
    FENTRY = "fentry"
    LSM = "lsmhook"
    TRACEPOINT = "tracepoint"
    RAW_TRACEPOINT = "raw tracepoint"
    UPROBE = "uprobe"
    USDT = "usdt"


@unique
class ArgType(Enum):
    """The type of an argument, by its name in a policy."""

    AUTO = "auto"
    NOP = "nop"
    INT = "int"
    UINT = "uint"
    LONG = "long"
    ULONG = "ulong"
    SIZE_T = "size_t"
    SINT8 = "sint8"
    INT8 = "int8"
    UINT8 = "uint8"
    SINT16 = "sint16"
    INT16 = "int16"
    UINT16 = "uint16"
    SINT32 = "sint32"
    INT32 = "int32"
    UINT32 = "uint32"
    SINT64 = "sint64"
    INT64 = "int64"
    UINT64 = "uint64"
    SYSCALL64 = "syscall64"
    CAPABILITY = "capability"
    BPF_CMD = "bpf_cmd"
    STRING = "string"
    CHAR_BUF = "char_buf"
    CONST_BUF = "const_buf"
    CHAR_IOVEC = "char_iovec"
    DATA_LOC = "data_loc"
    FD = "fd"
    FILE = "file"
    FILENAME = "filename"
    PATH = "path"
    DENTRY = "dentry"
    KIOCB = "kiocb"
    IOV_ITER = "iov_iter"
    LINUX_BINPRM = "linux_binprm"
    SOCK = "sock"
    SOCKET = "socket"
    SKB = "skb"
    SOCKADDR = "sockaddr"
    SOCKADDR_UN = "sockaddr_un"
    NET_DEVICE = "net_device"
    CRED = "cred"
    USER_NAMESPACE = "user_namespace"
    KERNEL_CAP_T = "kernel_cap_t"
    CAP_INHERITABLE = "cap_inheritable"
    CAP_PERMITTED = "cap_permitted"
    CAP_EFFECTIVE = "cap_effective"
    BPF_ATTR = "bpf_attr"
    BPF_MAP = "bpf_map"
    BPF_PROG = "bpf_prog"
    PERF_EVENT = "perf_event"
    LOAD_INFO = "load_info"
    MODULE = "module"

    @property
    def is_number(self) -> bool:
        """Whether values are integers of at most 64 bits."""
        return self in _NUMBERS

    @property
    def is_text(self) -> bool:
        """Whether string operators apply: text, bytes, or the path of a file."""
        return self in _TEXTS

    @property
    def is_path(self) -> bool:
        """Whether the text is the path of a file, whose type is known as well."""
        return self in _PATHS

    @property
    def is_capability_set(self) -> bool:
        """Whether the value is a mask of capabilities."""
        return self in _CAPABILITY_SETS

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
    ArgType.SINT8: (8, True),
    ArgType.INT8: (8, True),
    ArgType.UINT8: (8, False),
    ArgType.SINT16: (16, True),
    ArgType.INT16: (16, True),
    ArgType.UINT16: (16, False),
    ArgType.SINT32: (32, True),
    ArgType.INT32: (32, True),
    ArgType.UINT32: (32, False),
    ArgType.SINT64: (64, True),
    ArgType.INT64: (64, True),
    ArgType.UINT64: (64, False),
    ArgType.SYSCALL64: (64, False),
    ArgType.CAPABILITY: (32, True),
    ArgType.BPF_CMD: (32, True),
    ArgType.KERNEL_CAP_T: (64, False),
    ArgType.CAP_INHERITABLE: (64, False),
    ArgType.CAP_PERMITTED: (64, False),
    ArgType.CAP_EFFECTIVE: (64, False),
}
_CAPABILITY_SETS = frozenset(
    {ArgType.KERNEL_CAP_T, ArgType.CAP_INHERITABLE, ArgType.CAP_PERMITTED, ArgType.CAP_EFFECTIVE}
)
_PATHS = frozenset({ArgType.FD, ArgType.FILE, ArgType.PATH, ArgType.DENTRY, ArgType.KIOCB, ArgType.LINUX_BINPRM})
_TEXTS = _PATHS | {
    ArgType.STRING,
    ArgType.CHAR_BUF,
    ArgType.CONST_BUF,
    ArgType.CHAR_IOVEC,
    ArgType.DATA_LOC,
    ArgType.FILENAME,
    ArgType.NET_DEVICE,
    ArgType.LOAD_INFO,
    ArgType.MODULE,
    ArgType.SOCKADDR_UN,
    ArgType.BPF_ATTR,
    ArgType.BPF_MAP,
    ArgType.BPF_PROG,
    ArgType.PERF_EVENT,
}


@unique
class Operator(Enum):
    """How something is compared. Synonyms (`GreaterThan`, `SubStringIgnoreCase`, …) are read as these."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"
    GT = "GT"
    LT = "LT"
    MASK = "Mask"
    """The argument and the value have a bit in common."""
    IN_RANGE = "InRange"
    NOT_IN_RANGE = "NotInRange"
    IN_MAP = "InMap"
    """Equal to one of many numbers."""
    NOT_IN_MAP = "NotInMap"
    PREFIX = "Prefix"
    NOT_PREFIX = "NotPrefix"
    POSTFIX = "Postfix"
    NOT_POSTFIX = "NotPostfix"
    SUBSTRING = "SubString"
    SUBSTRING_IGNORE_CASE = "SubStringIgnCase"
    FILE_TYPE = "FileType"
    NOT_FILE_TYPE = "NotFileType"
    SADDR = "SAddr"
    NOT_SADDR = "NotSAddr"
    DADDR = "DAddr"
    NOT_DADDR = "NotDAddr"
    SPORT = "SPort"
    NOT_SPORT = "NotSPort"
    DPORT = "DPort"
    NOT_DPORT = "NotDPort"
    SPORT_PRIV = "SPortPriv"
    """A port below 1024; no values."""
    NOT_SPORT_PRIV = "NotSPortPriv"
    DPORT_PRIV = "DPortPriv"
    NOT_DPORT_PRIV = "NotDPortPriv"
    PROTOCOL = "Protocol"
    FAMILY = "Family"
    STATE = "State"
    CAPABILITIES_GAINED = "CapabilitiesGained"
    CEL_EXPR = "CelExpr"

    @property
    def positive(self) -> Operator:
        """What this operator negates, or itself."""
        return _NEGATIVE.get(self, self)

    @property
    def negative(self) -> bool:
        """Whether it holds when no value does."""
        return self in _NEGATIVE


_NEGATIVE = {
    Operator.NOT_EQUAL: Operator.EQUAL,
    Operator.NOT_IN: Operator.IN,
    Operator.NOT_IN_RANGE: Operator.IN_RANGE,
    Operator.NOT_IN_MAP: Operator.IN_MAP,
    Operator.NOT_PREFIX: Operator.PREFIX,
    Operator.NOT_POSTFIX: Operator.POSTFIX,
    Operator.NOT_FILE_TYPE: Operator.FILE_TYPE,
    Operator.NOT_SADDR: Operator.SADDR,
    Operator.NOT_DADDR: Operator.DADDR,
    Operator.NOT_SPORT: Operator.SPORT,
    Operator.NOT_DPORT: Operator.DPORT,
    Operator.NOT_SPORT_PRIV: Operator.SPORT_PRIV,
    Operator.NOT_DPORT_PRIV: Operator.DPORT_PRIV,
}


@unique
class ActionKind(Enum):
    """What a matching selector does."""

    POST = "Post"
    NO_POST = "NoPost"
    SIGKILL = "Sigkill"
    SIGNAL = "Signal"
    OVERRIDE = "Override"
    NOTIFY_ENFORCER = "NotifyEnforcer"
    CLEANUP_ENFORCER = "CleanupEnforcerNotification"
    TRACK_SOCK = "TrackSock"
    UNTRACK_SOCK = "UntrackSock"
    GET_URL = "GetUrl"
    DNS_LOOKUP = "DnsLookup"
    SET = "Set"

    @property
    def enforces(self) -> bool:
        """Whether it changes what the process does; monitor mode leaves these out."""
        return self in _ENFORCING


_ENFORCING = frozenset(
    {ActionKind.SIGKILL, ActionKind.SIGNAL, ActionKind.OVERRIDE, ActionKind.NOTIFY_ENFORCER, ActionKind.SET}
)


@unique
class LabelOperator(Enum):
    """How one label is matched."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@unique
class NamespaceType(Enum):
    """The namespaces of a process, by their names in a policy."""

    UTS = "Uts"
    IPC = "Ipc"
    MNT = "Mnt"
    PID = "Pid"
    PID_FOR_CHILDREN = "PidForChildren"
    NET = "Net"
    TIME = "Time"
    TIME_FOR_CHILDREN = "TimeForChildren"
    CGROUP = "Cgroup"
    USER = "User"


@unique
class CapabilityType(Enum):
    """Which of a process's capability sets."""

    EFFECTIVE = "Effective"
    INHERITABLE = "Inheritable"
    PERMITTED = "Permitted"


@unique
class DataSource(Enum):
    """Where an entry of `data` begins."""

    CURRENT_TASK = "current_task"
    PT_REGS = "pt_regs"


@unique
class RateScope(Enum):
    """Among what two events count as equal."""

    THREAD = "thread"
    PROCESS = "process"
    GLOBAL = "global"


@unique
class PolicyMode(Enum):
    """Whether enforcing actions are carried out, or only counted."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Arg:
    """One entry of `args`, of `data`, or `returnArg`.

    index: the argument's place in the call, from 0; of a tracepoint the field's place in its format, of an entry of
    `data` 0. size_arg: the argument with a buffer's length in bytes, its place in the call from 0. resolve: member
    names from the argument's type on, empty for the argument itself. source: only in `data`.
    """

    index: int
    type: ArgType
    size_arg: int | None = None
    resolve: tuple[str, ...] = ()
    label: str = ""
    max_data: bool = False
    return_copy: bool = False
    btf_type: str = ""
    btf_module: str = ""
    data_source: DataSource | None = None
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Network:
    """A CIDR: `address` has 4 or 16 bytes, its first `bits` bits count and the others are zero."""

    address: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Cel:
    """A node of an expression over arguments, all in 64-bit arithmetic.

    op: `const` (value), `arg` (value: a place in the hook's `args` list), `int32` and `uint32` (one operand: its low
    32 bits, extended), `+ - == != < <= > >= && || !`, and the bit operations `and or xor not`.
    """

    op: str
    operands: tuple[Cel, ...] = ()
    value: int = 0


FilterValue = int | bytes | Range | Network | Cel


@dataclass(frozen=True, slots=True)
class ArgFilter:
    """One condition on declared values.

    positions: places in the hook's `args` (or `data`) tuple; one, two for CapabilitiesGained, those that are named for
    CelExpr; none in a filter on the return value. values, by operator: integers in the range of the type (also
    FileType: S_IFMT bits; Protocol, Family, State: the kernel's numbers), bytes without NUL, Range (InRange, ports: a
    single port is a Range of one), Network, one Cel; none for the Priv operators and CapabilitiesGained (there:
    one integer, the mask of capabilities that count, when the policy names some).
    """

    positions: tuple[int, ...]
    operator: Operator
    values: tuple[FilterValue, ...]
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class PidFilter:
    """operator: IN or NOT_IN."""

    operator: Operator
    values: tuple[int, ...]
    namespace_pid: bool = False
    follow_forks: bool = False


@dataclass(frozen=True, slots=True)
class BinaryFilter:
    """operator: IN, NOT_IN, PREFIX, NOT_PREFIX, POSTFIX, NOT_POSTFIX. Paths as the process sees them."""

    operator: Operator
    values: tuple[bytes, ...]
    follow_children: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceFilter:
    """operator: IN or NOT_IN. values: inode numbers; host: `host_ns` is among the values."""

    namespace: NamespaceType
    operator: Operator
    values: tuple[int, ...]
    host: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceChangeFilter:
    """operator: IN: one of these namespaces is another than at the process's execve; NOT_IN: none is."""

    operator: Operator
    namespaces: tuple[NamespaceType, ...]


@dataclass(frozen=True, slots=True)
class CapabilityFilter:
    """operator: IN: the set has one of `mask`; NOT_IN: it has none. namespaced: capabilities in a user namespace other
    than the host's count as well.
    """

    type: CapabilityType
    operator: Operator
    mask: int
    namespaced: bool = False


@dataclass(frozen=True, slots=True)
class CapabilityChangeFilter:
    """operator: IN: one of `mask` was gained or lost since the process's execve; NOT_IN: none was."""

    type: CapabilityType
    operator: Operator
    mask: int
    namespaced: bool = False


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on a label; `values` are sorted and unique, empty for the two existence operators."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements that must all hold, sorted by key, unique. Without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadSelector:
    """To which processes something applies; None where the policy has no such field. host: `hostSelector: {}`.

    A container selector's keys are `name` and `repo`.
    """

    pods: LabelSelector | None = None
    containers: LabelSelector | None = None
    host: bool = False

    @property
    def is_unset(self) -> bool:
        """Whether no field is given."""
        return self.pods is None and self.containers is None and not self.host


@dataclass(frozen=True, slots=True)
class Action:
    """One action and its parameters; those that do not belong to its kind have their defaults.

    signal: 1..64, SIGNAL. error: a positive errno, OVERRIDE and NOTIFY_ENFORCER (0: none); there `signal` may be 0.
    rate_ms: least time between two equal events, POST. position: place in `args`, SET. value: 32 bits, SET.
    sock: index of the argument, TRACK_SOCK and UNTRACK_SOCK. text: URL or name, GET_URL and DNS_LOOKUP.
    registers, new_symbol, new_address, new_offset: OVERRIDE of a uprobe.
    """

    kind: ActionKind
    signal: int = 0
    error: int = 0
    rate_ms: int = 0
    rate_scope: RateScope = RateScope.THREAD
    kernel_stack: bool = False
    user_stack: bool = False
    ima_hash: bool = False
    position: int = 0
    value: int = 0
    sock: int = 0
    text: str = ""
    registers: tuple[str, ...] = ()
    new_symbol: str = ""
    new_address: int = 0
    new_offset: int = 0
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Selector:
    """Filters that must all hold, and what to do then; what to ask and do at the return."""

    label: str = ""
    args: tuple[ArgFilter, ...] = ()
    data: tuple[ArgFilter, ...] = ()
    pids: tuple[PidFilter, ...] = ()
    binaries: tuple[BinaryFilter, ...] = ()
    parent_binaries: tuple[BinaryFilter, ...] = ()
    namespaces: tuple[NamespaceFilter, ...] = ()
    namespace_changes: tuple[NamespaceChangeFilter, ...] = ()
    capabilities: tuple[CapabilityFilter, ...] = ()
    capability_changes: tuple[CapabilityChangeFilter, ...] = ()
    workloads: tuple[WorkloadSelector, ...] = ()
    actions: tuple[Action, ...] = ()
    return_args: tuple[ArgFilter, ...] = ()
    return_actions: tuple[Action, ...] = ()

    @property
    def asks_return(self) -> bool:
        """Whether it takes part in the second list, at the return."""
        return bool(self.return_args or self.return_actions)

    @property
    def posts(self) -> bool:
        """Whether a match makes an event: unless an action says NoPost."""
        return posts(self.actions)

    @property
    def signals(self) -> tuple[int, ...]:
        """The signals that a match sends to the calling process, in the order written."""
        return signals(self.actions)


def posts(actions: tuple[Action, ...]) -> bool:
    """Whether actions leave the event in place."""
    return all(action.kind is not ActionKind.NO_POST for action in actions)


def signals(actions: tuple[Action, ...]) -> tuple[int, ...]:
    """The signals that actions send to the calling process."""
    numbers = (SIGKILL if a.kind is ActionKind.SIGKILL else a.signal for a in actions if a.kind in _SIGNALLING)
    return tuple(number for number in numbers if number)


_SIGNALLING = frozenset({ActionKind.SIGKILL, ActionKind.SIGNAL})


@dataclass(frozen=True, slots=True)
class UprobeTarget:
    """Where in a file. addresses: file offsets (`offsets`) or virtual addresses (`addrs`) as `by_address` says; of
    symbols each may be `name+0x10`. ref_counters: as many as probes, or none. digests: `algorithm:hex`.
    """

    path: str
    symbols: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()
    addresses: tuple[int, ...] = ()
    ref_counters: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    ignore_digest: bool = False
    btf_path: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """One entry of kprobes, tracepoints, uprobes, usdts, lsmhooks or fentries.

    calls: what it hooks, at least one: names of system calls in the kernel's table (`openat`), kernel functions, LSM
    hooks, `subsystem/event` of a tracepoint, `provider/name` of a USDT probe; empty for a uprobe. call: the policy's
    own text (`sys_openat`, `list:files`), for people. section: the field that it stands in, `kprobes[0]`. return_arg:
    its index is of no meaning. With `ignore_missing`, calls may have names that are in no table. call_pattern: of a
    `generated_ftrace` list; calls is then empty, and the kernel's functions that match are meant.
    """

    kind: HookKind
    calls: tuple[str, ...]
    call: str
    args: tuple[Arg, ...]
    selectors: tuple[Selector, ...]
    source: Source = field(compare=False)
    section: str = ""
    data: tuple[Arg, ...] = ()
    returns: bool = False
    return_arg: Arg | None = None
    return_arg_action: ActionKind | None = None
    message: str = ""
    tags: tuple[str, ...] = ()
    ignore_missing: bool = False
    target: UprobeTarget | None = None
    call_pattern: str = ""

    @property
    def return_selectors(self) -> tuple[tuple[int, Selector], ...]:
        """The second list: each with its number in `selectors`."""
        return tuple((n, selector) for n, selector in enumerate(self.selectors) if selector.asks_return)


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

    `namespace` is None for cluster-wide policies and a name for namespaced ones. `workloads` is unset when the policy
    has no selector: a cluster-wide policy then applies to host processes too. `mode` is the option `policy-mode`.
    `enforcers`: the system calls and functions that NotifyEnforcer acts on. `options`: the others that were given, by
    name. `text_digest` is the SHA-256, in hexadecimal, of the content without positions, comments and server-written
    fields (see `digest`).
    """

    kind: PolicyKind
    name: str
    namespace: str | None
    hooks: tuple[Hook, ...]
    workloads: WorkloadSelector
    source: Source = field(compare=False)
    text_digest: str
    mode: PolicyMode = PolicyMode.ENFORCE
    nodes: LabelSelector | None = None
    enforcers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def key(self) -> PolicyKey:
        """The namespace and name."""
        return PolicyKey(self.namespace, self.name)

    @property
    def enforces(self) -> bool:
        """Whether any action, at the return too, changes what a process does."""
        return any(
            action.kind.enforces
            for hook in self.hooks
            for selector in hook.selectors
            for action in (*selector.actions, *selector.return_actions)
        )
