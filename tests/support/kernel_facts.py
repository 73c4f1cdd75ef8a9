# SPDX-License-Identifier: Apache-2.0
"""A small kernel for tests of `resolve`: a few system calls, tracepoints and types, without a kernel."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from agent.kernel.btf import Btf, Kind
from agent.kernel.btf_files import Node
from agent.kernel.btf_types import BtfTypes
from agent.kernel.formats import parse_fields
from agent.kernel.kernel_btf import BtfSources, KernelBtf
from agent.policy.facts import (
    Abilities,
    FactsError,
    KernelFunction,
    NoFunctionError,
    RawTracepoint,
    RecordField,
    Types,
)
from agent.policy.user_facts import FileIdentity, UserFile, UserFileError
from tests.support.btf_blob import HEADER, BtfBlob, MemberSpec


def btf_in(directory: Path, configured: Path | None = None, root: Path | None = None) -> KernelBtf:
    """A kernel that shows its BTF in a directory and holds no other. root: of its node's files."""
    node = Node("6.12.0-test", root or directory / "no-root")
    return KernelBtf(BtfSources(directory, configured, node, lambda _: None, lambda: ()))


_COMMON = """name: {name}
ID: 1
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""
_SYSCALLS = {
    "accept": "int fd, struct sockaddr * upeer_sockaddr, int * upeer_addrlen",
    "bpf": "int cmd, union bpf_attr * uattr, unsigned int size",
    "chdir": "const char * filename, __data_loc char[] __filename_val",
    "connect": "int fd, struct sockaddr * uservaddr, int addrlen",
    "execve": "const char * filename, const char *const * argv, const char *const * envp",
    "getpid": "",
    "getsockopt": "int fd, int level, int optname, char * optval, int * optlen",
    "openat": "int dfd, const char * filename, int flags, umode_t mode",
    "process_vm_readv": "pid_t pid, const struct iovec * lvec, unsigned long liovcnt, const struct iovec * rvec, "
    "unsigned long riovcnt, unsigned long flags",
    "read": "unsigned int fd, char * buf, size_t count",
    "sethostname": "char * name, int len",
    "write": "unsigned int fd, const char * buf, size_t count",
    "writev": "unsigned long fd, const struct iovec * vec, unsigned long vlen",
}
_EVENTS = {
    "sched/sched_process_exec": (
        "__data_loc char[] filename;8;4;0",
        "pid_t pid;12;4;1",
        "pid_t old_pid;16;4;1",
    ),
    "raw_syscalls/sys_enter": ("long id;8;8;1", "unsigned long args[6];16;48;0"),
    "syscalls/sys_exit_openat": ("int __syscall_nr;8;4;1", "long ret;16;8;1"),
    "mixed/everything": (
        "char comm[16];8;16;0",
        "const char * name;24;8;0",
        "const void * skaddr;32;8;0",
        "const struct file * filp;40;8;0",
        "u8 saddr[4];48;4;0",
        "__data_loc u8[] payload;52;4;0",
        "__rel_loc char[] near;56;4;0",
        "bool ok;60;1;0",
        "u16 port;62;2;0",
        "size_t len;64;8;0",
        "char tail[];72;0;0",
        "unsigned long address;72;8;0",
    ),
}


def _lines(fields: Iterable[str]) -> str:
    lines = (line.split(";") for line in fields)
    return "".join(f"\tfield:{d};\toffset:{o};\tsize:{s};\tsigned:{g};\n" for d, o, s, g in lines)


def _syscall_fields(arguments: str) -> Iterable[str]:
    yield "int __syscall_nr;8;4;1"
    for place, declaration in enumerate(filter(None, arguments.split(", "))):
        yield f"{declaration};{16 + 8 * place};8;0"


def format_text(name: str) -> str:
    """The format file of one of the events here, as tracefs has it."""
    call = name.removeprefix("syscalls/sys_enter_")
    fields = _syscall_fields(_SYSCALLS[call]) if call in _SYSCALLS else _EVENTS[name]
    return _COMMON.format(name=name.partition("/")[2]) + _lines(fields) + '\nprint fmt: "%s", REC->name\n'


class _Named:
    """Types that refer to each other in any order: built twice, the second time with the ids of the first."""

    def __init__(self, ids: dict[str, int]) -> None:
        self.blob = BtfBlob()
        self.known = ids
        self.ids: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self.known.get(name, 0)

    def __setitem__(self, name: str, type_id: int) -> None:
        self.ids[name] = type_id

    def pointer(self, name: str) -> int:
        return self.blob.pointer(self[name])

    def struct(self, name: str, size: int, *members: MemberSpec, kind: Kind = Kind.STRUCT) -> int:
        self[name] = self.blob.composite(name, size, members, kind)
        return self.ids[name]

    def function(self, event: str, *parameters: int) -> None:
        """The types of a raw tracepoint."""
        body = b"".join(bytes(4) + each.to_bytes(4, "little") for each in (self.pointer("void"), *parameters))
        prototype = self.blob.add(Kind.FUNC_PROTO, "", 0, len(parameters) + 1, body=body)
        self.blob.typedef(f"btf_trace_{event}", self.blob.pointer(prototype))

    def routine(self, name: str, result: str, *parameters: tuple[str, int]) -> None:
        """A function of the kernel: the names and types of what it takes."""
        words = (word for each, type_id in parameters for word in (self.blob.text(each), type_id))
        body = b"".join(word.to_bytes(4, "little") for word in words)
        prototype = self.blob.add(Kind.FUNC_PROTO, "", self[result], len(parameters), body=body)
        self.blob.add(Kind.FUNC, name, prototype)


def _scalars(types: _Named) -> None:
    blob = types.blob
    types["int"] = blob.integer("int", 4, signed=True)
    types["u32"] = blob.typedef("u32", blob.integer("unsigned int", 4))
    types["ulong"] = blob.integer("unsigned long", 8)
    types["long"] = blob.integer("long", 8, signed=True)
    types["char"] = blob.integer("char", 1, signed=True)
    types["uchar"] = blob.integer("unsigned char", 1)
    types["bool"] = blob.integer("bool", 1)
    types["huge"] = blob.integer("__int128", 16, signed=True)
    types["pid_t"] = blob.typedef("pid_t", types["int"])
    types["const char"] = blob.alias(Kind.CONST, types["char"])
    types["user char"] = blob.alias(Kind.TYPE_TAG, types["char"], "user")
    types["state"] = blob.enum("state", {"RUNNING": 0, "DEAD": 1})


def _structures(types: _Named) -> None:
    blob = types.blob
    caps = types.struct("kernel_cap_struct", 8, ("val", types["ulong"], 0))
    caps_t = blob.typedef("kernel_cap_t", caps)
    types["kuid_t"] = blob.typedef("kuid_t", blob.composite("", 4, [("val", types["u32"], 0)]))
    types.struct("cred", 24, ("uid", types["u32"], 32), ("cap_effective", caps_t, 64))
    words = blob.composite("", 8, [("hash", types["u32"], 0), ("len", types["u32"], 32)])
    both = blob.composite("", 8, [("", words, 0), ("hash_len", types["ulong"], 0)], Kind.UNION)
    types.struct("qstr", 16, ("", both, 0), ("name", types.pointer("uchar"), 64))
    types.struct("dentry", 96, ("d_name", types["qstr"], 256), ("d_iname", blob.array(types["char"], 40), 384))
    types.struct("path", 16, ("mnt", types.pointer("void"), 0), ("dentry", types.pointer("dentry"), 64))
    types.struct("file", 128, ("f_mode", types["u32"], 0), ("f_path", types["path"], 512))
    types.struct("linux_binprm", 32, ("file", types.pointer("file"), 0), ("argc", types["int"], 64))
    types.struct("sock", 64, ("sk_state", types["uchar"], 144))
    types.struct("inet_sock", 96, ("sk", types["sock"], 0), ("inet_num", types["u32"], 512))
    types.struct("pt_regs", 168, ("di", types["ulong"], 8 * 112), ("cs", types["u32"], 8 * 136))
    types.struct("sockaddr_in", 16, ("sin_family", types["u32"], 0), ("sin_zero", blob.array(types["uchar"], 8), 64))
    types.struct("sockaddr", 16, ("sa_data", blob.array(types["char"], 14), 16))


def _task(types: _Named) -> None:
    blob = types.blob
    hidden = blob.composite("", 32, [("owner", types.pointer("task_struct"), 0), ("arg_start", types["ulong"], 128)])
    types.struct("mm_struct", 64, ("", hidden, 64), ("exe_file", types.pointer("file"), 320))
    function = blob.pointer(blob.function())
    types.struct(
        "task_struct",
        256,
        ("pid", types["pid_t"], 0, 0),
        ("comm", blob.array(types["char"], 16), 32, 0),
        ("mm", types.pointer("mm_struct"), 192, 0),
        ("cred", types.pointer("cred"), 256, 0),
        ("frozen", types["u32"], 320 + 5, 3),
        ("crossing", types["u32"], 320 + 30, 7),
        ("state", types["state"], 384, 0),
        ("path_text", types.pointer("user char"), 448, 0),
        ("fds", blob.array(types["u32"], 4), 512, 0),
        ("table", blob.pointer(types.pointer("file")), 640, 0),
        ("numbers", types.pointer("int"), 704, 0),
        ("huge", types["huge"], 768, 0),
        ("call", function, 896, 0),
        ("text", blob.array(types["char"], 0), 1024, 0),
        ("opaque", blob.pointer(blob.forward("elsewhere")), 960, 0),
        ("caps", types.pointer("kernel_cap_struct"), 1088, 0),
    )


def _functions(types: _Named) -> None:
    task = types.pointer("task_struct")
    types.function("sched_process_exec", task, types["pid_t"], types.pointer("linux_binprm"))
    types.function("sys_enter", types.pointer("pt_regs"), types["long"])
    types.function("bare_tp", types.pointer("const char"), types["ulong"], types.pointer("inet_sock"), types["file"])
    types.function("empty_tp")


def _routines(types: _Named) -> None:
    """Of the kernel. `many` has more arguments than registers, `wide`, `large`, `larger` and `tail` some that are
    structures of 16, 128 and 24 bytes.
    """
    file, mask, long = ("file", types.pointer("file")), ("mask", types["int"]), types["long"]
    types["sock *"] = types.pointer("sock")
    for name, result, parameters in (
        ("security_file_open", "int", (file,)),
        ("security_file_permission", "int", (file, mask)),
        ("security_path_chown", "int", (("path", types.pointer("path")), ("uid", types["kuid_t"]))),
        ("security_task_free", "", (("task", types.pointer("task_struct")),)),
        ("bpf_lsm_file_open", "int", (file,)),
        ("bpf_lsm_file_permission", "int", (file, mask)),
        ("bpf_lsm_path_chown", "int", (("path", types.pointer("path")), ("uid", types["u32"]))),
        ("bpf_lsm_task_free", "", (("task", types.pointer("task_struct")),)),
        ("commit_creds", "int", (("new", types.pointer("cred")),)),
        ("do_exit", "", (("code", long),)),
        ("tcp_connect", "int", (("sk", types["sock *"]),)),
        ("tcp_sendmsg", "int", (("sk", types["sock *"]), ("msg", types.pointer("void")), ("size", types["ulong"]))),
        ("sk_alloc", "sock *", (("family", types["int"]), ("kern", types["bool"]))),
        ("vfs_read", "long", (file, ("buf", types.pointer("user char")), ("count", types["ulong"]))),
        ("is_bad", "bool", (file,)),
        ("many", "int", tuple((f"a{n}", long) for n in range(8))),
        ("wide", "int", (("where", types["path"]), mask)),
        ("large", "int", (("by_value", types["file"]), mask)),
        ("larger", "ulong", (("by_value", types["cred"]), mask)),
        ("tail", "int", (*((f"a{n}", long) for n in range(5)), ("where", types["path"]), mask)),
        ("print", "int", (("format", types.pointer("const char")), ("", 0))),
        ("__x64_sys_exit", "long", (("regs", types.pointer("pt_regs")),)),
        ("__x64_sys_read", "long", (("regs", types.pointer("pt_regs")),)),
    ):
        types.routine(name, result, *parameters)


@cache
def kernel_btf() -> bytes:
    """The types of the small kernel."""
    ids: dict[str, int] = {}
    for _ in range(2):
        types = _Named(ids)
        for part in (_scalars, _structures, _task, _functions, _routines):
            part(types)
        ids = types.ids
    return types.blob.build()


class NoFunctions:
    """The part of Facts that is about functions, of a kernel that has none that can be hooked."""

    reason = "no kprobe PMU; the kernel needs CONFIG_KPROBE_EVENTS=y"

    def function(self, name: str) -> KernelFunction:
        raise NoFunctionError(f"this kernel has no function {name}", "hook a function that calls it")

    def functions_like(self, pattern: str) -> tuple[str, ...]:
        raise FactsError(f"nobody can tell which functions match {pattern}", "list them")

    def lsm_hook(self, name: str) -> KernelFunction:
        raise NoFunctionError(f"this kernel has no LSM hook {name}", "write one as file_open")

    def abilities(self) -> Abilities:
        return Abilities(self.reason, self.reason, self.reason, self.reason, preemptible=True)

    def override_refusal(self, function: str) -> str:  # noqa: ARG002 - of the protocol
        return self.reason


class SmallKernel(NoFunctions):
    """Implements the Facts and UserFacts of a node without programs. btf: b"" for a kernel without BTF."""

    def __init__(self, btf: bytes | None = None) -> None:
        self._btf = kernel_btf() if btf is None else btf
        self._parsed: BtfTypes | None = None

    def syscall(self, name: str) -> tuple[RecordField, ...] | None:
        fields = self.tracepoint(f"syscalls/sys_enter_{name}")
        return None if fields is None else tuple(field for field in fields[5:] if not field.is_dynamic)

    def tracepoint(self, name: str) -> tuple[RecordField, ...] | None:
        return parse_fields(format_text(name)) if name in self.tracepoint_names() else None

    def tracepoint_names(self) -> Iterable[str]:
        return [*_EVENTS, *(f"syscalls/sys_enter_{call}" for call in _SYSCALLS)]

    def raw_tracepoint(self, event: str) -> RawTracepoint | None:
        return self._types().raw_tracepoint(event)

    def raw_tracepoint_names(self) -> Iterable[str]:
        return self._types().raw_tracepoint_names()

    def types(self, module: str = "") -> Types:
        if module:
            raise FactsError(f"there is no BTF of {module}", "load the module")
        return self._types()

    def open_file(self, path: str) -> AbstractContextManager[UserFile]:
        raise UserFileError(f"{path}: no such file", "correct `path`")

    def identity(self, path: str) -> FileIdentity:
        raise UserFileError(f"{path}: no such file", "correct `path`")

    def file_types(self, path: str) -> Types:
        raise UserFileError(f"{path}: no such file", "correct `path`")

    def write_refusal(self) -> str:
        return ""

    def _types(self) -> BtfTypes:
        if not self._btf:
            raise FactsError("there is no BTF of vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y")
        if self._parsed is None:
            self._parsed = BtfTypes(Btf.parse(self._btf))
        return self._parsed


def split_blob(base: bytes) -> bytes:
    """The BTF of a module: a struct with a pointer to the kernel's `file`, and a raw tracepoint with one."""
    kernel = Btf.parse(base)
    file = kernel.find(Kind.STRUCT, "file")
    assert file is not None
    first, shift = len(kernel), HEADER.unpack_from(base)[7]
    names = b"module_struct\0member\0btf_trace_module_event\0"
    at = {name: shift + names.index(name) for name in (b"module_struct", b"member", b"btf_trace")}
    records = [
        (0, Kind.PTR << 24, file),
        (at[b"module_struct"], Kind.STRUCT << 24 | 1, 8),
        (at[b"member"], first, 0),
        (0, Kind.FUNC_PROTO << 24 | 2, 0),
        (0, first, 0),
        (0, Kind.PTR << 24, first + 2),
        (at[b"btf_trace"], Kind.TYPEDEF << 24, first + 3),
    ]
    types = b"".join(b"".join(word.to_bytes(4, "little") for word in record) for record in records)
    # The two parameters have two words each, not three.
    types = types[: 12 * 4] + _btf_words(0, first, 0, first) + types[12 * 5 :]
    header = HEADER.pack(0xEB9F, 1, 0, HEADER.size, 0, len(types), len(types), len(names))
    return header + types + names


def _btf_words(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)
