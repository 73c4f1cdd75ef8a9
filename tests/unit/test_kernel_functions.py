# SPDX-License-Identifier: Apache-2.0
"""What is read of the kernel's symbols, of tracefs and of debugfs about functions, from files that look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kernel import abilities, bpf
from agent.kernel.abilities import read_preemptible, try_abilities, try_lsm
from agent.kernel.btf import Btf
from agent.kernel.btf_types import BtfTypes
from agent.kernel.errors import KernelError
from agent.kernel.functions import MAX_NEAR, MAX_VARIANTS, KernelFunctions, Symbols, Traceable
from agent.policy.facts import FactsError, NoFunctionError
from agent.policy.patterns import Pattern
from tests.support.kernel_facts import kernel_btf

SYMBOLS = """\
ffffffff81000000 T _stext
ffffffff81000010 T security_file_open
ffffffff81000020 T security_file_permission
ffffffff81000030 t twice
ffffffff81000040 t twice
ffffffff81000050 t split.isra.0
ffffffff81000060 t split.part.0.cold
ffffffff81000070 D tcp_connect_data
ffffffff81000080 T tcp_connect
ffffffff81000090 t untouchable
ffffffff810000a0 W weak_function
ffffffff810000b0 T bpf_lsm_file_open
ffffffff810000c0 t also_of_module
ffffffffc0000010 t ovl_open\t[overlay]
ffffffffc0000020 t also_of_module\t[overlay]
"""
TRACEABLE = "security_file_open\nsplit.isra.0\ntcp_connect\ntwice\ntwice\ntcp_listen [x]\novl_open [overlay]\n"


def types_of(module: str) -> BtfTypes:
    """Of the kernel only."""
    if module:
        raise FactsError(f"there is no BTF of {module}", "load the module")
    return BtfTypes(Btf.parse(kernel_btf()))


def read_nothing(kind: str, name: str) -> bytes:
    raise KernelError(f"{kind} {name}", 2)


def read_blacklist(kind: str, name: str) -> bytes:
    assert (kind, name) == ("debugfs", "kprobes/blacklist")
    return b"0xffffffff81000090-0xffffffff810000a0\tuntouchable\n"


@pytest.fixture
def functions(tmp_path: Path) -> KernelFunctions:
    (tmp_path / "kallsyms").write_text(SYMBOLS)
    (tmp_path / "available_filter_functions").write_text(TRACEABLE)
    return KernelFunctions(tmp_path, types_of, tmp_path / "kallsyms", read_blacklist)


def test_a_function_of_the_kernel(functions: KernelFunctions) -> None:
    found = functions.function("security_file_open")
    assert (found.name, found.module, found.traceable) == ("security_file_open", "", True)
    assert found.prototype is not None
    assert [each.name for each in found.prototype.parameters] == ["file"]
    types = found.prototype.types
    assert types.describe(types.describe(found.prototype.parameters[0].type_id).target).names == ("file",)
    assert types.describe(found.prototype.result).names == ("int",)


def test_a_function_of_a_module_without_types(functions: KernelFunctions) -> None:
    found = functions.function("ovl_open")
    assert (found.module, found.traceable, found.prototype) == ("overlay", True, None)


def test_a_function_that_cannot_be_traced(functions: KernelFunctions) -> None:
    assert not functions.function("security_file_permission").traceable
    assert not functions.function("weak_function").traceable


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", 'there are 2 functions "twice", of the kernel, and nothing says which'),
        ("also_of_module", 'there are 2 functions "also_of_module", of the kernel or overlay'),
        ("untouchable", 'the kernel lets nobody probe "untouchable"'),
    ],
)
def test_functions_that_cannot_be_hooked(functions: KernelFunctions, name: str, message: str) -> None:
    with pytest.raises(FactsError, match=message) as caught:
        functions.function(name)
    assert not isinstance(caught.value, NoFunctionError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("split", 'has changed the function "split": this kernel has only split.isra.0, split.part.0.cold'),
        ("tcp_conect", r"the compiler put it into its callers, did you mean tcp_connect\?"),
        ("ecurity_file_open", r"did you mean security_file_open\?"),
        ("tcp_connect_data", "this kernel has no function"),
        ("zzz", "hook a function that calls it"),
        ("security_file", "this kernel has no function"),
        ("", "this kernel has no function"),
    ],
)
def test_functions_that_are_not_there(functions: KernelFunctions, name: str, message: str) -> None:
    with pytest.raises(NoFunctionError, match=message):
        functions.function(name)


def test_what_nobody_may_read_is_not_in_the_way(tmp_path: Path) -> None:
    """The kernel refuses a probe when it is attached; without a list nothing is known to be traceable."""
    (tmp_path / "kallsyms").write_text(SYMBOLS)
    functions = KernelFunctions(tmp_path, types_of, tmp_path / "kallsyms", read_nothing)
    assert not functions.function("untouchable").traceable
    with pytest.raises(FactsError, match="available_filter_functions: No such file"):
        functions.functions_like("tcp")
    without = KernelFunctions(tmp_path, types_of, tmp_path / "nothing", read_nothing)
    with pytest.raises(FactsError, match="nothing: No such file"):
        without.function("tcp_connect")


def test_functions_of_one_name_where_addresses_are_hidden() -> None:
    text = b"0000000000000000 T f\n0000000000000000 t f\n0000000000000000 T g\n"
    assert [len(Symbols(text).find(name)) for name in "fg"] == [2, 1]


def test_two_entries_of_one_address_are_one_function() -> None:
    text = b"ffffffff81000000 T f\nffffffff81000000 t f\n"
    assert len(Symbols(text).find("f")) == 1


def test_the_search_for_near_names_has_bounds() -> None:
    lines = [f"ffffffff8100{n:04x} t common_{n:04}\n" for n in range(4 * MAX_NEAR)]
    lines += [f"ffffffff8200{n:04x} t split.part.{n}\n" for n in range(2 * MAX_VARIANTS)]
    symbols = Symbols("".join(lines).encode())
    assert len(symbols.near("common_x")) == MAX_NEAR
    assert len(symbols.variants("split")) == MAX_VARIANTS
    assert symbols.near("") == ()


def test_functions_by_pattern(functions: KernelFunctions) -> None:
    assert functions.functions_like("^tcp_") == ("tcp_connect", "tcp_listen")
    assert functions.functions_like("open$") == ("ovl_open", "security_file_open")
    assert functions.functions_like("^tcp_c|^ovl") == ("ovl_open", "tcp_connect")
    assert functions.functions_like("^tcp_*connect") == ("tcp_connect",)
    assert functions.functions_like("^twice|^split") == ()
    with pytest.raises(FactsError, match="pattern: a "):
        functions.functions_like("(")


def test_names_in_a_list_without_an_end() -> None:
    assert Traceable(b"one\ntwo").matching(Pattern("o"), "") == ("one",)
    assert not Traceable(b"one\ntwo").has("two", "")


def test_lsm_hooks(functions: KernelFunctions) -> None:
    found = functions.lsm_hook("file_open")
    assert (found.name, found.module) == ("bpf_lsm_file_open", "")
    assert found.prototype is not None
    with pytest.raises(NoFunctionError, match=r'no LSM hook "file_opem", did you mean file_open\?'):
        functions.lsm_hook("file_opem")


@pytest.mark.parametrize(
    ("text", "version", "preemptible"),
    [
        ("none (voluntary) full lazy \n", "#1 SMP PREEMPT_DYNAMIC", False),
        ("(none) voluntary full \n", "#1 SMP PREEMPT_DYNAMIC", False),
        ("none voluntary (full) lazy \n", "#1 SMP", True),
        ("full (lazy) \n", "#1 SMP", True),
        ("", "#1 SMP PREEMPT_DYNAMIC", True),
        ("", "#1 SMP PREEMPT", True),
        ("", "#1 SMP PREEMPT_RT", True),
        ("", "#1 SMP PREEMPT_LAZY", True),
        ("", "#1 SMP Debian", False),
        ("none voluntary full\n", "#1 SMP PREEMPT_DYNAMIC", True),
    ],
)
def test_preemption_by_what_the_kernel_says(text: str, version: str, preemptible: bool) -> None:
    def read(kind: str, name: str) -> bytes:
        assert (kind, name) == ("debugfs", "sched/preempt")
        return text.encode() if text else read_nothing(kind, name)

    assert read_preemptible(read, version) is preemptible


def test_preemption_is_asked_for_each_batch(tmp_path: Path) -> None:
    chosen = ["none (voluntary) full"]
    functions = [KernelFunctions(tmp_path, types_of, tmp_path, lambda *_: chosen[-1].encode()) for _ in range(2)]
    assert not functions[0].abilities.preemptible
    chosen.append("none voluntary (full)")
    assert not functions[0].abilities.preemptible
    assert functions[1].abilities.preemptible


def test_a_kernel_without_types_has_kprobes_at_most(tmp_path: Path) -> None:
    def no_types(_module: str) -> BtfTypes:
        raise FactsError("there is no BTF of vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y")

    found = KernelFunctions(tmp_path, no_types, tmp_path, read_nothing).abilities
    assert "no function security_file_open in the kernel's BTF" in found.fentry
    assert found.fmod_ret == found.fentry
    assert "CONFIG_BPF_LSM=y" in found.lsm


def test_what_is_refused_is_told_with_what_would_make_it_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> None:
        def load(*_: object) -> None:
            raise KernelError("bpf(PROG_LOAD pg_probe)", code, "the verifier's words")

        monkeypatch.setattr(bpf, "load_program", load)
        try_abilities.cache_clear()
        abilities.override_program_refusal.cache_clear()

    refuse(22)
    found = try_abilities(1, 2)
    assert "the verifier's words; the kernel needs CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y" in found.fentry
    assert "CONFIG_BPF_LSM=y" in found.lsm
    refusal = "no helper bpf_override_return; the kernel needs CONFIG_FUNCTION_ERROR_INJECTION=y"
    assert abilities.override_refusal("f").startswith(refusal)
    refuse(1)
    assert "CAP_BPF and CAP_PERFMON" in try_abilities(1, 2).kprobe
    assert "lockdown" in abilities.override_refusal("f")
    try_abilities.cache_clear()
    abilities.override_program_refusal.cache_clear()


class _Nothing:
    """A descriptor, of a program or a link."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


@pytest.fixture
def obliging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes every program."""
    monkeypatch.setattr(bpf, "load_program", lambda *_: _Nothing())
    monkeypatch.setattr(bpf, "open_raw_tracepoint", lambda *_: _Nothing())


@pytest.mark.usefixtures("obliging")
def test_an_lsm_hook_needs_its_module_to_be_active() -> None:
    try_lsm(1, lambda *_: b"lockdown,capability,bpf\n")
    with pytest.raises(KernelError, match="boot with lsm=lockdown,bpfilter,bpf"):
        try_lsm(1, lambda *_: b"lockdown,bpfilter\n")


@pytest.mark.usefixtures("obliging")
def test_a_function_that_the_kernel_does_not_let_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    abilities.override_program_refusal.cache_clear()

    def attach(_program: object, function: str) -> None:
        if function != "listed":
            raise KernelError("bpf(LINK_CREATE)", 22 if function == "other" else 2)

    monkeypatch.setattr(abilities, "_attach_kprobe", attach)
    assert abilities.override_refusal("listed") == ""
    assert "does not let other be overridden; it is not among" in abilities.override_refusal("other")
    assert "ENOENT" in abilities.override_refusal("absent")
    abilities.override_program_refusal.cache_clear()
