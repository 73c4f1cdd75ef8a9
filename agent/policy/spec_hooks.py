# SPDX-License-Identifier: Apache-2.0
"""The field table of hooks and their arguments."""

from dataclasses import replace

from agent.policy.model import ArgType, DataSource
from agent.policy.spec_selectors import KPROBE_SELECTOR
from agent.policy.spec_types import BOOLEAN, INTEGER, MAX_ADDRESS, MAX_U32, STRING, Field, ListOf, Ref, Rule, Struct
from agent.policy.spec_words import RETURN_ARG_ACTIONS, words

MAX_TAGS = 16

_TYPE = Field(
    "type",
    STRING,
    "How the argument is read.",
    default=ArgType.AUTO.value,
    enum=words(ArgType),
    note="`auto` takes the type from a tracepoint's format, or from what BTF says of a function or LSM hook. "
    "`uint` is an addition: the low 32 bits, unsigned.",
)
_RESOLVE = Field(
    "resolve",
    STRING,
    "Members to follow from the argument's type to what is meant, with dots between: `mm.owner.pid`.",
    note="To any depth. Needs BTF of the kernel, of a module (`btfTypeModule`) or of a file (`btfPath`).",
)
_SOURCE = Field(
    "source",
    STRING,
    "Where the value begins: the calling task or its registers.",
    enum=words(DataSource),
)

ARG = Struct(
    "KProbeArg",
    "an argument",
    "An argument that is compared or reported.",
    (
        Field(
            "index",
            INTEGER,
            "The argument's place in the call, from 0; of a tracepoint the field's place in its format.",
            required=True,
            minimum=0,
            maximum=MAX_U32,
        ),
        _TYPE,
        _RESOLVE,
        Field(
            "sizeArgIndex",
            INTEGER,
            "`char_buf`, `char_iovec`, `sockaddr`: the argument with the length, counted from 1; 0: none.",
            default=0,
            minimum=0,
            maximum=MAX_U32,
        ),
        Field(
            "returnCopy",
            BOOLEAN,
            "The argument is read when the call returns, for what the call fills in. Needs `return`.",
            default=False,
        ),
        Field(
            "maxData",
            BOOLEAN,
            "`char_buf`: up to 327,360 bytes are reported instead of 4,096.",
            default=False,
            note="What is compared is the first 4,096 bytes, with it as without.",
        ),
        Field("label", STRING, "A name for the argument in events."),
        Field("btfType", STRING, "The name of the argument's structure in BTF, where the kernel cannot tell it."),
        Field("btfTypeModule", STRING, "The kernel module in whose BTF `btfType` is."),
        replace(
            _SOURCE,
            refused="only an entry of data has a source",
        ),
    ),
)

DATA = replace(
    ARG,
    name="DataArg",
    title="an entry of data",
    description="A value that is no argument: reported and compared like one.",
    fields=tuple(
        {
            "index": replace(ARG.field("index"), required=False, default=0, description="Of no meaning here."),
            "resolve": replace(_RESOLVE, required=True, min_length=1),
            "source": replace(_SOURCE, required=True),
        }.get(each.name, each)
        for each in ARG.fields
    ),
)

RETURN_ARG = replace(
    ARG,
    name="ReturnArg",
    title="returnArg",
    description="How the value that the call returns is read.",
    fields=tuple(
        replace(each, required=False, default=0, description="Of no meaning here.") if each.name == "index" else each
        for each in ARG.fields
    ),
)

_MESSAGE = Field(
    "message",
    STRING,
    "A text for people in every event of this hook; 2 to 256 characters.",
)
_ARGS = Field("args", ListOf(Ref(ARG.name)), "The arguments that are compared or reported.")
_DATA = Field("data", ListOf(Ref(DATA.name)), "Values that are no arguments, compared and reported like them.")
_SELECTORS = Field(
    "selectors",
    ListOf(Ref(KPROBE_SELECTOR.name)),
    "Tried in order, the first that matches acts. Without any, every hit makes an event.",
    note="Any number.",
)
_TAGS = Field("tags", ListOf(STRING), "Words in every event of this hook.", min_length=2, max_items=MAX_TAGS)
_RETURN = Field(
    "return", BOOLEAN, "The event is made when the call returns, with the value of `returnArg`.", default=False
)
_RETURN_ARG = Field("returnArg", Ref(RETURN_ARG.name), "How the value that the call returns is read.")
_RETURN_RULE = Rule(
    "!has(self.__return__) || !self.__return__ || has(self.returnArg)",
    "return: true needs returnArg, the type of the value that the call returns",
)

KPROBE_IGNORE = Struct(
    "KProbeIgnore",
    "ignore",
    "Faults that are taken for granted.",
    (
        Field(
            "callNotFound",
            BOOLEAN,
            "A node whose kernel has no such call or function leaves this hook out, instead of refusing the policy.",
            default=False,
        ),
    ),
)

KPROBE = Struct(
    "KProbeSpec",
    "a kprobe",
    "A hook on a system call or on a function of the kernel.",
    (
        Field(
            "call",
            STRING,
            "The system call (`openat`, `sys_openat` and `__x64_sys_openat` are the same), the function, or "
            "`list:NAME` for all that a list has.",
            required=True,
            min_length=1,
        ),
        Field("syscall", BOOLEAN, "Whether `call` is a system call.", default=True),
        _MESSAGE,
        _ARGS,
        _DATA,
        _RETURN,
        _RETURN_ARG,
        Field(
            "returnArgAction",
            STRING,
            "What to do with a socket that the call returns.",
            enum=RETURN_ARG_ACTIONS,
            note="`Post` has no effect. The others are refused when the policy is added: track the socket where it is "
            "an argument.",
        ),
        _SELECTORS,
        _TAGS,
        Field("ignore", Ref(KPROBE_IGNORE.name), "Faults that are taken for granted."),
    ),
    (
        _RETURN_RULE,
        Rule(
            "!has(self.returnArgAction) || has(self.returnArg)",
            "returnArgAction needs returnArg, the socket that the call returns",
        ),
    ),
)

TRACEPOINT = Struct(
    "TracepointSpec",
    "a tracepoint",
    "A hook on a tracepoint of the kernel.",
    (
        Field("subsystem", STRING, "The tracepoint's subsystem: `syscalls`, `sched`.", required=True, min_length=1),
        Field("event", STRING, "The tracepoint's name.", required=True, min_length=1),
        Field(
            "raw",
            BOOLEAN,
            "Arguments are those of the tracepoint's function, by place, not the fields of its format.",
            default=False,
        ),
        _MESSAGE,
        _ARGS,
        _SELECTORS,
        _TAGS,
    ),
)

UPROBE_IGNORE = Struct(
    "UProbeIgnore",
    "ignore",
    "Faults that are taken for granted.",
    (
        Field(
            "digestVerificationFailure",
            BOOLEAN,
            "A node whose file has none of `binaryDigests` leaves this hook out, instead of refusing the policy.",
            default=False,
        ),
    ),
)

_PLACES = ("symbols", "offsets", "addrs")
_PLACE_COUNT = " + ".join(f"(has(self.{name}) && size(self.{name}) > 0 ? 1 : 0)" for name in _PLACES)
_PLACES_NUMBER = " + ".join(f"(has(self.{name}) ? size(self.{name}) : 0)" for name in _PLACES)

UPROBE = Struct(
    "UProbeSpec",
    "a uprobe",
    "A hook on places in a program or a library.",
    (
        Field("path", STRING, "The file, as the node sees it.", required=True, min_length=1),
        Field(
            "symbols",
            ListOf(STRING),
            "Functions, each of which may have an offset: `main+0x10`.",
            min_length=1,
        ),
        Field(
            "offsets", ListOf(INTEGER), "Places in the file, in bytes from its begin.", minimum=0, maximum=MAX_ADDRESS
        ),
        Field("addrs", ListOf(INTEGER), "Virtual addresses, as in the file's tables.", minimum=0, maximum=MAX_ADDRESS),
        Field(
            "refCtrOffsets",
            ListOf(INTEGER),
            "Of each place the offset of its reference counter in the file, which is raised while it is hooked.",
            minimum=0,
            maximum=MAX_ADDRESS,
        ),
        Field(
            "btfPath",
            STRING,
            "A file with the BTF of the program's types, for `resolve`.",
        ),
        Field(
            "binaryDigests",
            ListOf(STRING),
            "What the file must be, one of these: `sha256:` (`sha1:`, `sha384:`, `sha512:`) and its digest, or "
            "`build-id:` and its build id, in hexadecimal.",
            pattern="^(sha1:[0-9a-fA-F]{40}|sha256:[0-9a-fA-F]{64}|sha384:[0-9a-fA-F]{96}|sha512:[0-9a-fA-F]{128}"
            "|build-id:([0-9a-fA-F]{2})+)$",
        ),
        _MESSAGE,
        _ARGS,
        _DATA,
        _RETURN,
        _RETURN_ARG,
        _SELECTORS,
        _TAGS,
        Field("ignore", Ref(UPROBE_IGNORE.name), "Faults that are taken for granted."),
    ),
    (
        Rule(f"({_PLACE_COUNT}) == 1", "give one of symbols, offsets and addrs"),
        Rule(
            "!has(self.refCtrOffsets) || size(self.refCtrOffsets) == 0 || "
            f"size(self.refCtrOffsets) == {_PLACES_NUMBER}",
            "refCtrOffsets needs as many entries as there are places",
        ),
        _RETURN_RULE,
    ),
)

USDT = Struct(
    "UsdtSpec",
    "a usdt",
    "A hook on a probe that a program's authors put there.",
    (
        Field("path", STRING, "The file, as the node sees it.", required=True, min_length=1),
        Field("provider", STRING, "The probe's provider.", required=True, min_length=1),
        Field("name", STRING, "The probe's name.", required=True, min_length=1),
        Field("btfPath", STRING, "A file with the BTF of the program's types, for `resolve`."),
        _MESSAGE,
        _ARGS,
        _SELECTORS,
        _TAGS,
    ),
)

LSM_HOOK = Struct(
    "LsmHookSpec",
    "an lsmhook",
    "A hook on a decision of the kernel's security modules.",
    (
        Field("hook", STRING, "The hook's name: `file_open`.", required=True, min_length=1),
        _MESSAGE,
        _ARGS,
        _SELECTORS,
        _TAGS,
    ),
)

STRUCTS = (
    KPROBE,
    TRACEPOINT,
    UPROBE,
    USDT,
    LSM_HOOK,
    KPROBE_IGNORE,
    UPROBE_IGNORE,
    ARG,
    DATA,
    RETURN_ARG,
)
