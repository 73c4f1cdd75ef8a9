# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of conditions on arguments: operators, types and values."""

from typing import Any

import pytest

from agent.policy.errors import PolicyErrors
from agent.policy.model import ArgFilter, ArgType, Cel, Network, Operator, Range
from agent.policy.operators import fitting
from agent.policy.spec_words import OPERATOR_SYNONYMS
from tests.support.policy_text import errors_of, kprobe_text, policy_text, read_policy, read_selector


def _matches(matches: list[dict[str, Any]], *types: str, **spec: Any) -> tuple[ArgFilter, ...]:
    """Conditions on the arguments of a tracepoint, which has every type."""
    args = [{"index": place, "type": each} for place, each in enumerate(types)]
    hook = {"subsystem": "s", "event": "e", "args": args, "selectors": [{"matchArgs": matches}]}
    return read_policy(tracepoints=[hook], **spec).hooks[0].selectors[0].args


def _match(arg_type: str, operator: str, *values: str, **spec: Any) -> ArgFilter:
    (found,) = _matches([{"index": 0, "operator": operator, "values": values}], arg_type, **spec)
    return found


@pytest.mark.parametrize(
    ("arg_type", "least", "greatest"),
    [
        ("int", -(2**31), 2**31 - 1),
        ("uint", 0, 2**32 - 1),
        ("sint8", -128, 127),
        ("uint8", 0, 255),
        ("int16", -(2**15), 2**15 - 1),
        ("uint16", 0, 2**16 - 1),
        ("sint32", -(2**31), 2**31 - 1),
        ("uint32", 0, 2**32 - 1),
        ("long", -(2**63), 2**63 - 1),
        ("ulong", 0, 2**64 - 1),
        ("size_t", 0, 2**64 - 1),
        ("syscall64", 0, 2**64 - 1),
        ("capability", -(2**31), 2**31 - 1),
        ("kernel_cap_t", 0, 2**64 - 1),
        ("bpf_cmd", -(2**31), 2**31 - 1),
    ],
)
def test_numbers_are_checked_against_their_type(arg_type: str, least: int, greatest: int) -> None:
    assert _match(arg_type, "Equal", str(least), hex(greatest)).values == (least, greatest)
    assert _match(arg_type, "NotInRange", f"{least}:{greatest}").values == (Range(least, greatest),)
    for outside in (least - 1, greatest + 1):
        with pytest.raises(PolicyErrors, match=f"does not fit type {arg_type}, write a number from {least} to"):
            _match(arg_type, "InMap", str(outside))


_VALUES = {
    Operator.IN_RANGE: "1:2",
    Operator.NOT_IN_RANGE: "1:2",
    Operator.FILE_TYPE: "reg",
    Operator.NOT_FILE_TYPE: "reg",
    Operator.SADDR: "10.0.0.1",
    Operator.NOT_SADDR: "10.0.0.1",
    Operator.DADDR: "10.0.0.1",
    Operator.NOT_DADDR: "10.0.0.1",
}
_WITHOUT = {Operator.SPORT_PRIV, Operator.NOT_SPORT_PRIV, Operator.DPORT_PRIV, Operator.NOT_DPORT_PRIV}
_SEVERAL = {Operator.CEL_EXPR, Operator.CAPABILITIES_GAINED}
_STRINGS = {"Equal", "NotEqual", "Prefix", "NotPrefix", "Postfix", "NotPostfix", "SubString", "SubStringIgnCase"}
_NUMBERS = {"Equal", "NotEqual", "GT", "LT", "Mask", "InRange", "NotInRange", "InMap", "NotInMap", "CelExpr"}
_SOURCE = {"SAddr", "NotSAddr", "SPort", "NotSPort", "SPortPriv", "NotSPortPriv", "Family"}
_DESTINATION = {"DAddr", "NotDAddr", "DPort", "NotDPort", "DPortPriv", "NotDPortPriv"}


@pytest.mark.parametrize("arg_type", ArgType)
@pytest.mark.parametrize("operator", [each for each in Operator if each not in (Operator.IN, Operator.NOT_IN)])
def test_operators_fit_their_types(arg_type: ArgType, operator: Operator) -> None:
    values = () if operator in _WITHOUT else (_VALUES.get(operator, "7"),)
    if operator in _SEVERAL or arg_type is ArgType.NOP:
        return
    if operator in fitting(arg_type):
        assert _match(arg_type.value, operator.value, *values).operator is operator
    else:
        with pytest.raises(PolicyErrors, match=f"operator {operator.value} does not fit"):
            _match(arg_type.value, operator.value, *values)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("int", "long", "uint8", "capability", "bpf_cmd", "syscall64"), _NUMBERS),
        (("kernel_cap_t", "cap_effective"), _NUMBERS | {"CapabilitiesGained"}),
        (("string", "char_buf", "char_iovec", "filename", "net_device", "module", "data_loc"), _STRINGS),
        (("file", "path", "fd", "dentry", "kiocb", "linux_binprm"), _STRINGS | {"FileType", "NotFileType"}),
        (("sock", "skb", "socket"), _SOURCE | _DESTINATION | {"Protocol", "State"}),
        (("sockaddr",), _SOURCE),
        (("sockaddr_un",), _STRINGS | {"Family"}),
        (("nop", "cred", "user_namespace", "iov_iter"), set()),
    ],
)
def test_which_operators_fit(types: tuple[str, ...], expected: set[str]) -> None:
    for each in types:
        assert {operator.value for operator in fitting(ArgType(each))} == expected, each


@pytest.mark.parametrize(("spelled", "operator"), OPERATOR_SYNONYMS.items())
def test_operator_synonyms(spelled: str, operator: Operator) -> None:
    arg_type = "sock" if operator in _WITHOUT else "string" if "String" in spelled else "int"
    values = () if operator in _WITHOUT else ("1",)
    assert _match(arg_type, spelled, *values).operator is operator


def test_text_value_may_have_4095_bytes_and_not_one_more() -> None:
    longest = "/" + "é" * 2047
    assert _match("string", "Equal", longest).values == (longest.encode(),)
    with pytest.raises(PolicyErrors, match="a value has 4096 bytes and the limit is 4095, shorten it"):
        _match("string", "Equal", longest + "a")


def test_a_text_that_no_table_has_room_for_is_refused_with_its_place() -> None:
    """A table has bytes times different bytes; other operators need none."""
    many = "".join(map(chr, range(0x21, 0x7F))) * 2
    assert _match("string", "Equal", many).values == (many.encode(),)
    for spelled in ("SubString", "SubStringIgnCase"):
        with pytest.raises(PolicyErrors, match=r"^f:1:\d+: a SubString value of 188 bytes .* shorten it, or use"):
            _match("string", spelled, "short", many)


def test_any_number_of_values_arguments_and_selectors() -> None:
    args = [{"index": index, "type": "ulong"} for index in range(6)]
    match = {"index": 5, "operator": "Equal", "values": [str(value) for value in range(600)]}
    kprobe = {"call": "openat", "args": args, "selectors": [{"matchArgs": [match] * 10}] * 10}
    hook = read_policy(kprobes=[kprobe]).hooks[0]
    assert len(hook.args) == 6
    assert [len(selector.args) for selector in hook.selectors] == [10] * 10
    assert hook.selectors[9].args[9].values == tuple(range(600))


@pytest.mark.parametrize(
    ("operator", "text", "expected"),
    [
        ("SAddr", "10.1.2.3", Network(bytes([10, 1, 2, 3]), 32)),
        ("NotDAddr", "10.1.2.3/8", Network(bytes([10, 0, 0, 0]), 8)),
        ("DAddr", "fe80::1/10", Network(b"\xfe\x80" + bytes(14), 10)),
        ("SAddr", "::1", Network(bytes(15) + b"\x01", 128)),
        ("SAddr", "0.0.0.0/0", Network(bytes(4), 0)),
        ("SPort", "80", Range(80, 80)),
        ("SPort", "80:80", Range(80, 80)),
        ("DPort", "0:65535", Range(0, 65535)),
        ("NotDPort", "0x10:0x20", Range(16, 32)),
        ("Protocol", "IPPROTO_TCP", 6),
        ("Protocol", "udp", 17),
        ("Protocol", "IPPROTO_MPTCP", 262),
        ("Protocol", "132", 132),
        ("Family", "AF_INET6", 10),
        ("Family", "unix", 1),
        ("Family", "AF_LOCAL", 1),
        ("State", "TCP_LISTEN", 10),
        ("State", "TCP_NEW_SYN_RECV", 12),
        ("State", "1", 1),
    ],
)
def test_values_of_sockets(operator: str, text: str, expected: object) -> None:
    assert _match("sock", operator, text).values == (expected,)


@pytest.mark.parametrize(
    ("names", "mode"),
    [
        ("reg regular", 0o100000),
        ("dir", 0o040000),
        ("lnk link", 0o120000),
        ("blk block", 0o060000),
        ("chr char", 0o020000),
        ("fifo pipe", 0o010000),
        ("sock socket", 0o140000),
    ],
)
def test_file_types_are_bits_of_a_mode(names: str, mode: int) -> None:
    assert set(_match("file", "FileType", *names.split()).values) == {mode}


def test_capabilities_have_names() -> None:
    assert _match("capability", "Equal", "CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "7").values == (0, 40, 7)
    assert _match("cap_permitted", "Mask", "CAP_SYS_ADMIN", "1").values == (1 << 21, 1)


def test_numbers_of_system_calls_have_names_and_lists() -> None:
    lists = [{"name": "dups", "type": "syscalls", "values": ["sys_dup", "dup2"]}]
    assert _match("syscall64", "InMap", "list:dups", "close", "257", lists=lists).values == (32, 33, 3, 257)
    assert _match("syscall64", "Equal", "__x64_sys_openat").values == (257,)
    assert len(_match("syscall64", "InMap", "list:a", lists=[{"name": "a", "type": "generated_syscalls"}]).values) > 350


def test_capabilities_gained_names_two_places_and_what_counts() -> None:
    types = ("cap_effective", "kernel_cap_t")
    found = _matches([{"operator": "CapabilitiesGained", "args": [1, 0]}], *types)
    assert found == (ArgFilter((1, 0), Operator.CAPABILITIES_GAINED, ()),)
    match = {"operator": "CapabilitiesGained", "args": [0, 1], "values": ["CAP_BPF", "CAP_CHOWN"]}
    assert _matches([match], *types)[0].values == (1 << 39 | 1,)


def test_argument_is_named_by_its_place_in_the_call_or_in_the_policy() -> None:
    args = [{"index": 2, "type": "int"}, {"index": 0, "type": "int"}, {"index": 0, "type": "fd"}]
    matches = [
        {"index": 2, "operator": "Equal", "values": ["1"]},
        {"args": [1], "index": 0, "operator": "Equal", "values": ["1"]},
        {"args": [2], "operator": "Equal", "values": ["/a"]},
    ]
    found = read_selector({"matchArgs": matches}, args=args).args
    assert [(each.positions, each.values) for each in found] == [((0,), (1,)), ((1,), (1,)), ((2,), (b"/a",))]


def test_index_is_0_by_default() -> None:
    assert _matches([{"operator": "Equal", "values": ["1"]}], "int")[0].positions == (0,)


def test_expression_names_its_arguments() -> None:
    found = _matches([{"operator": "CelExpr", "index": 0, "values": ["arg2 > arg0"]}], "int", "string", "long")
    tree = Cel(">", (Cel("arg", value=2), Cel("arg", value=0)))
    assert found == (ArgFilter((0, 2), Operator.CEL_EXPR, (tree,)),)


def test_data_and_returned_values_are_compared() -> None:
    selector = {
        "matchData": [{"index": 1, "operator": "LT", "values": ["-1"]}],
        "matchReturnArgs": [{"index": 4, "operator": "Equal", "values": ["/a"]}],
    }
    data = [
        {"type": "uint8", "resolve": "a", "source": "pt_regs"},
        {"type": "int", "resolve": "b", "source": "pt_regs"},
    ]
    found = read_selector(selector, data=data, **{"return": True, "returnArg": {"index": 4, "type": "fd"}})
    assert found.data == (ArgFilter((1,), Operator.LT, (-1,)),)
    assert found.return_args == (ArgFilter((), Operator.EQUAL, (b"/a",)),)


def _auto(operator: str, value: str) -> tuple[object, ...]:
    return _match("auto", operator, value).values


def test_values_of_an_auto_argument_wait_for_its_type() -> None:
    assert _auto("Equal", "7") == _auto("NotEqual", "7") == _auto("Prefix", "7") == (b"7",)
    assert _auto("GT", "7") == _auto("Mask", "0x7") == (7,)
    assert _auto("GT", str(2**64 - 1)) == (2**64 - 1,)
    assert _auto("InRange", "-1:9") == (Range(-1, 9),)
    assert _auto("InMap", "openat") == (257,)
    assert _auto("SAddr", "10.0.0.1") == (Network(bytes([10, 0, 0, 1]), 32),)
    assert _auto("FileType", "dir") == (0o040000,)


def test_faulty_operator_is_reported_at_its_value() -> None:
    args = [{"index": 0, "type": "int"}]
    text = kprobe_text(args=args, selectors=[{"matchArgs": [{"index": 0, "operator": "Prefix", "values": ["a"]}]}])
    (error,) = errors_of(text)
    assert text[error.column - 1 :].startswith(b'"Prefix"')


def test_values_are_counted_with_lists_and_macros_written_out() -> None:
    macro = {"matchPIDs": [{"operator": "In", "values": list(range(1000))}]}
    selectors = [{"macros": ["m"]}]
    text = policy_text(selectorsMacros={"m": macro}, kprobes=[{"call": "openat", "selectors": selectors * 70}])
    (error,) = errors_of(text)
    assert error.what.startswith("the file has more than 65536 filters, values and calls")
