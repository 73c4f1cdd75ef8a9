# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of policies that it accepts."""

import json
import time
from pathlib import Path

import pytest

from agent.policy.errors import MAX_ERRORS, PolicyError, PolicyErrors
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgMatch,
    ArgType,
    LabelOperator,
    LabelSelector,
    Operator,
    Policy,
    PolicyKey,
    PolicyKind,
    Requirement,
    Selector,
    Source,
)
from agent.policy.reader import parse_policies

_GOOD = Path(__file__).parent.parent / "data" / "policies" / "good"


def _load(name: str) -> tuple[Policy, ...]:
    return parse_policies((_GOOD / f"{name}.yaml").read_bytes(), "p.yaml")


def _policy(**kprobe: object) -> bytes:
    document = {
        "apiVersion": "cilium.io/v1alpha1",
        "kind": "TracingPolicy",
        "metadata": {"name": "x"},
        "spec": {"kprobes": [{"call": "openat", **kprobe}]},
    }
    return json.dumps(document).encode()


def _match(arg_type: str, operator: str, *values: str) -> ArgMatch:
    arg = {"index": 0, "type": arg_type} | ({"sizeArgIndex": 2} if arg_type == "char_buf" else {})
    match = {"index": 0, "operator": operator, "values": values}
    (policy,) = parse_policies(_policy(args=[arg], selectors=[{"matchArgs": [match]}]), "f")
    return policy.hooks[0].selectors[0].match_args[0]


def _errors(text: bytes) -> tuple[PolicyError, ...]:
    with pytest.raises(PolicyErrors) as caught:
        parse_policies(text, "f")
    return caught.value.errors


def test_namespaced_policy_is_read_whole() -> None:
    (policy,) = _load("namespaced")
    assert (policy.kind, policy.key) == (PolicyKind.NAMESPACED, PolicyKey("shop", "guard-shadow"))
    assert policy.source == Source("p.yaml", 1, 1)
    assert policy.pod_selector == LabelSelector(
        (
            Requirement("app.kubernetes.io/name", LabelOperator.IN, ("web",)),
            Requirement("canary", LabelOperator.DOES_NOT_EXIST),
            Requirement("k8s:io.kubernetes.pod.namespace", LabelOperator.IN, ("shop",)),
            Requirement("tier", LabelOperator.NOT_IN, ("cache", "db")),
        )
    )
    opened, written = policy.hooks
    assert (opened.syscall, opened.call, opened.source.line) == ("openat", "__x64_sys_openat", 15)
    assert opened.args == (Arg(1, ArgType.STRING), Arg(2, ArgType.INT))
    assert opened.selectors == (
        Selector(
            (
                ArgMatch(1, Operator.PREFIX, (b"/etc/shadow", b"/etc/gshadow")),
                ArgMatch(2, Operator.MASK, (1, 2)),
            ),
            (Action(ActionKind.NO_POST), Action(ActionKind.SIGKILL)),
        ),
        Selector((ArgMatch(2, Operator.LT, (-1,)),), (Action(ActionKind.SIGNAL, 19),)),
    )
    assert written.args == (Arg(0, ArgType.FD), Arg(1, ArgType.CHAR_BUF, 2), Arg(2, ArgType.SIZE_T))
    assert [match.values for match in written.selectors[0].match_args] == [
        (b"/passwd",),
        ("héllo".encode(), b""),
        (2**64 - 2,),
    ]


def test_selectors_tell_whether_they_post_and_which_signals_they_send() -> None:
    killing, stopping = _load("namespaced")[0].hooks[0].selectors
    assert (killing.posts, killing.signals) == (False, (9,))
    assert (stopping.posts, stopping.signals) == (True, (19,))
    assert (Selector().posts, Selector().signals) == (True, ())


def test_spelled_out_defaults_mean_the_same_as_none() -> None:
    assert _load("defaults-spelled-out") == _load("minimal")


def test_hook_without_selectors_always_posts() -> None:
    (policy,) = _load("minimal")
    assert policy.hooks[0].selectors == (Selector(),)
    assert policy.pod_selector is None


def test_file_may_have_several_documents_and_json() -> None:
    one, two = _load("several")
    assert [str(policy.key) for policy in (one, two)] == ["one", "default/two"]
    assert one.pod_selector == LabelSelector(())
    assert [hook.syscall for policy in (one, two) for hook in policy.hooks] == ["umount2", "uname", "uname"]


@pytest.mark.parametrize("text", [b"", b"\n# nothing\n", b"---\n---\n", b"null"])
def test_file_without_documents_has_no_policies(text: bytes) -> None:
    assert parse_policies(text, "f") == ()


@pytest.mark.parametrize("call", ["openat", "sys_openat", "__x64_sys_openat"])
def test_three_spellings_of_a_call_mean_one_system_call(call: str) -> None:
    (policy,) = parse_policies(_policy(call=call), "f")
    assert (policy.hooks[0].syscall, policy.hooks[0].call) == ("openat", call)


@pytest.mark.parametrize(
    ("arg_type", "least", "greatest"),
    [
        ("int", -(2**31), 2**31 - 1),
        ("uint", 0, 2**32 - 1),
        ("long", -(2**63), 2**63 - 1),
        ("ulong", 0, 2**64 - 1),
        ("size_t", 0, 2**64 - 1),
    ],
)
def test_numbers_are_checked_against_their_type(arg_type: str, least: int, greatest: int) -> None:
    assert _match(arg_type, "Equal", str(least), hex(greatest)).values == (least, greatest)
    for outside in (least - 1, greatest + 1):
        with pytest.raises(PolicyErrors, match=f"does not fit type {arg_type}, write a number from {least} to"):
            _match(arg_type, "Equal", str(outside))


@pytest.mark.parametrize("arg_type", [each.value for each in ArgType])
@pytest.mark.parametrize("operator", [each.value for each in Operator])
def test_operators_fit_their_types(arg_type: str, operator: str) -> None:
    is_number = arg_type in ("int", "uint", "long", "ulong", "size_t")
    fits = operator in ("Equal", "NotEqual") or (operator in ("GT", "LT", "Mask")) == is_number
    if fits:
        assert _match(arg_type, operator, "7").values == ((7,) if is_number else (b"7",))
    else:
        with pytest.raises(PolicyErrors, match=f"operator {operator} does not fit"):
            _match(arg_type, operator, "7")


def test_operator_synonyms() -> None:
    assert _match("int", "GreaterThan", "1").operator is Operator.GT
    assert _match("int", "LessThan", "1").operator is Operator.LT


def test_text_value_may_have_4095_bytes_and_not_one_more() -> None:
    longest = "/" + "é" * 2047
    assert _match("string", "Equal", longest).values == (longest.encode(),)
    with pytest.raises(PolicyErrors, match="a value has 4096 bytes and the limit is 4095, shorten it"):
        _match("string", "Equal", longest + "a")


def test_any_number_of_values_arguments_and_selectors() -> None:
    args = [{"index": index, "type": "ulong"} for index in range(6)]
    match = {"index": 5, "operator": "Equal", "values": [str(value) for value in range(1000)]}
    (policy,) = parse_policies(_policy(args=args, selectors=[{"matchArgs": [match] * 10}] * 10), "f")
    hook = policy.hooks[0]
    assert len(hook.args) == 6
    assert [len(selector.match_args) for selector in hook.selectors] == [10] * 10
    assert hook.selectors[9].match_args[9].values == tuple(range(1000))


def test_signals_are_1_to_64() -> None:
    actions = [{"action": "Signal", "argSig": number} for number in (1, 64)]
    (policy,) = parse_policies(_policy(selectors=[{"matchActions": actions}]), "f")
    assert policy.hooks[0].selectors[0].signals == (1, 64)
    for number in (0, 65, -1):
        (error,) = _errors(_policy(selectors=[{"matchActions": [{"action": "Signal", "argSig": number}]}]))
        assert error.what == "argSig is out of range"


@pytest.mark.parametrize("name", ["a", "a.b-c.d", "0", "x" * 253])
def test_names_that_kubernetes_accepts(name: str) -> None:
    (policy,) = parse_policies(_policy().replace(b'"x"', json.dumps(name).encode()), "f")
    assert policy.name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a..b", "a_b", "a\n", ".a", "x" * 254])
def test_names_that_kubernetes_refuses(name: str) -> None:
    (error,) = _errors(_policy().replace(b'"x"', json.dumps(name).encode()))
    assert error.what.endswith("is not a policy's name")


def test_digest_is_of_the_meaning_not_of_the_text() -> None:
    digests = {policy.text_digest for policy in (*_load("minimal"), *_load("defaults-spelled-out"))}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def _variants() -> list[dict[str, object]]:
    """Kprobes that all differ in one thing."""
    matches = [
        {"index": 0, "operator": "Equal", "values": ["1"]},
        {"index": 0, "operator": "Equal", "values": ["1", "2"]},
        {"index": 0, "operator": "NotEqual", "values": ["1"]},
        {"index": 1, "operator": "Equal", "values": ["1"]},
    ]
    args = [{"index": 0, "type": "string"}, {"index": 1, "type": "int"}]
    actions: list[object] = [[{"action": "Post"}], *([{"action": "Signal", "argSig": number}] for number in (9, 10))]
    variants: list[dict[str, object]] = [
        {},
        {"call": "open"},
        {"call": "sys_openat"},
        {"args": [{"index": 0, "type": "int"}]},
        {"args": [{"index": 0, "type": "char_buf", "sizeArgIndex": 2}]},
        {"args": [{"index": 0, "type": "char_buf", "sizeArgIndex": 3}]},
        {"selectors": [{}, {}]},
    ]
    variants += [{"selectors": [{"matchActions": each}]} for each in actions]
    variants += [{"args": args, "selectors": [{"matchArgs": [match]}]} for match in matches]
    return variants


def test_digest_differs_for_each_difference() -> None:
    texts = [_policy(**variant) for variant in _variants()]
    texts += [
        _policy().replace(b'"x"', b'"y"'),
        _policy().replace(b'"TracingPolicy"', b'"TracingPolicyNamespaced"'),
        _policy().replace(b'"TracingPolicy"', b'"TracingPolicyNamespaced"').replace(b'"x"', b'"x", "namespace": "n"'),
        _policy().replace(b'"spec": {', b'"spec": {"podSelector": {}, '),
        _policy().replace(b'"spec": {', b'"spec": {"podSelector": {"matchLabels": {"a": "b"}}, '),
    ]
    digests = [parse_policies(text, "f")[0].text_digest for text in texts]
    assert len(set(digests)) == len(texts)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tags", "{}"), ("tags", '""'), ("ignore", "[]"), ("message", "false"), ("message", "0"), ("returnArg", "0")],
)
def test_empty_value_of_another_type_does_not_pass_for_an_absent_field(field: str, value: str) -> None:
    (error,) = _errors(_policy().replace(b'"call"', f'"{field}": {value}, "call"'.encode()))
    assert error.what == f"{field} is not supported yet"


def test_error_has_fields_and_one_line_of_text() -> None:
    (error,) = _errors(_policy(syscal=True))
    assert (error.file, error.line, error.what) == ("f", 1, 'unknown field "syscal" in a kprobe')
    assert str(error) == f"f:1:{error.column}: {error.what}, did you mean syscall?"


def test_text_of_a_policy_in_an_error_is_short_and_printable() -> None:
    (error,) = _errors(_policy(call="a\nb\u2028" + "c" * 5000))
    assert error.what == 'unknown system call "a\\nb\\u2028' + "c" * 55 + '…"'


def test_at_most_20_errors_are_collected() -> None:
    errors = _errors(_policy(args=[{}] * 1000))
    assert len(errors) == MAX_ERRORS


def test_errors_of_all_documents_are_reported_in_the_order_of_the_file() -> None:
    text = b"\n---\n".join([_policy(foo=1), _policy(bar=2)])
    assert [error.line for error in _errors(text)] == [1, 3, 3]


def test_faulty_argument_type_is_reported_once() -> None:
    match = {"index": 0, "operator": "Equal", "values": ["x"]}
    errors = _errors(_policy(args=[{"index": 0, "type": "strin"}], selectors=[{"matchArgs": [match]}]))
    assert [error.advice for error in errors] == ["did you mean string?"]


def test_small_policy_takes_less_than_3_ms() -> None:
    text = (_GOOD / "namespaced.yaml").read_bytes()
    parse_policies(text, "f")
    best = min(_cpu_time(text) for _ in range(10))
    assert best < 0.003


def _cpu_time(text: bytes) -> float:
    start = time.process_time()
    parse_policies(text, "f")
    return time.process_time() - start
