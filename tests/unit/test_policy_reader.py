# SPDX-License-Identifier: Apache-2.0
"""What the reader makes of policies that it accepts: the resource, whom it selects, and its digest."""

import json
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agent.policy.errors import MAX_ERRORS
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    HookKind,
    LabelOperator,
    LabelSelector,
    Operator,
    Policy,
    PolicyKey,
    PolicyKind,
    PolicyMode,
    Requirement,
    Selector,
    Source,
    WorkloadSelector,
)
from agent.policy.reader import parse_policies
from tests.support.policy_text import errors_of, kprobe_text, policy_text, read_hook, read_policy

_GOOD = Path(__file__).parent.parent / "data" / "policies" / "good"


def _load(name: str) -> tuple[Policy, ...]:
    return parse_policies((_GOOD / f"{name}.yaml").read_bytes(), "p.yaml")


def test_namespaced_policy_is_read_whole() -> None:
    (policy,) = _load("namespaced")
    assert (policy.kind, policy.key) == (PolicyKind.NAMESPACED, PolicyKey("shop", "guard-shadow"))
    assert policy.source == Source("p.yaml", 1, 1)
    pods = LabelSelector(
        (
            Requirement("app.kubernetes.io/name", LabelOperator.IN, ("web",)),
            Requirement("canary", LabelOperator.DOES_NOT_EXIST),
            Requirement("k8s:io.kubernetes.pod.namespace", LabelOperator.IN, ("shop",)),
            Requirement("tier", LabelOperator.NOT_IN, ("cache", "db")),
        )
    )
    assert policy.workloads == WorkloadSelector(pods)
    opened, written = policy.hooks
    assert (opened.kind, opened.calls, opened.call) == (HookKind.SYSCALL, ("openat",), "__x64_sys_openat")
    assert (opened.source.line, opened.section, written.section) == (15, "kprobes[0]", "kprobes[1]")
    assert opened.args == (Arg(1, ArgType.STRING), Arg(2, ArgType.INT))
    assert opened.selectors == (
        Selector(
            args=(
                ArgFilter((0,), Operator.PREFIX, (b"/etc/shadow", b"/etc/gshadow")),
                ArgFilter((1,), Operator.MASK, (1, 2)),
            ),
            actions=(Action(ActionKind.NO_POST), Action(ActionKind.SIGKILL)),
        ),
        Selector(args=(ArgFilter((1,), Operator.LT, (-1,)),), actions=(Action(ActionKind.SIGNAL, 19),)),
    )
    assert written.args == (Arg(0, ArgType.FD), Arg(1, ArgType.CHAR_BUF, 2), Arg(2, ArgType.SIZE_T))
    assert [each.values for each in written.selectors[0].args] == [
        (b"/passwd",),
        ("héllo".encode(), b""),
        (2**64 - 2,),
    ]


def test_places_in_the_file_are_kept() -> None:
    (policy,) = _load("namespaced")
    opened = policy.hooks[0]
    sources = [opened.args[0].source, opened.selectors[0].args[1].source, opened.selectors[0].actions[0].source]
    assert [source and source.line for source in sources] == [17, 22, 24]


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
    assert policy.workloads.is_unset
    assert (policy.mode, policy.nodes, policy.enforcers, dict(policy.options)) == (PolicyMode.ENFORCE, None, (), {})


def test_file_may_have_several_documents_and_json() -> None:
    one, two = _load("several")
    assert [str(policy.key) for policy in (one, two)] == ["one", "default/two"]
    assert one.workloads == WorkloadSelector(LabelSelector())
    assert [hook.calls for policy in (one, two) for hook in policy.hooks] == [("umount2",), ("uname",), ("uname",)]


@pytest.mark.parametrize("text", [b"", b"\n# nothing\n", b"---\n---\n", b"null"])
def test_file_without_documents_has_no_policies(text: bytes) -> None:
    assert parse_policies(text, "f") == ()


@pytest.mark.parametrize("name", ["a", "a.b-c.d", "0", "x" * 253])
def test_names_that_kubernetes_accepts(name: str) -> None:
    (policy,) = parse_policies(kprobe_text().replace(b'"x"', json.dumps(name).encode()), "f")
    assert policy.name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a..b", "a_b", "a\n", ".a", "x" * 254])
def test_names_that_kubernetes_refuses(name: str) -> None:
    (error,) = errors_of(kprobe_text().replace(b'"x"', json.dumps(name).encode()))
    assert error.what.endswith("is not a policy's name")


_KPROBES = [{"call": "openat"}]
_TRUE = LabelSelector()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, WorkloadSelector()),
        ({"podSelector": None, "containerSelector": None, "hostSelector": None}, WorkloadSelector()),
        ({"containerSelector": {}}, WorkloadSelector(None, _TRUE)),
        ({"podSelector": {}}, WorkloadSelector(_TRUE)),
        ({"podSelector": {}, "containerSelector": {}}, WorkloadSelector(_TRUE, _TRUE)),
        ({"hostSelector": {}}, WorkloadSelector(host=True)),
        ({"hostSelector": {}, "containerSelector": {}}, WorkloadSelector(None, _TRUE, True)),
        ({"hostSelector": {}, "podSelector": {}, "containerSelector": {}}, WorkloadSelector(_TRUE, _TRUE, True)),
    ],
)
def test_workload_fields_are_kept_apart_from_absent_ones(spec: dict[str, Any], expected: WorkloadSelector) -> None:
    assert read_policy(kprobes=_KPROBES, **spec).workloads == expected


def test_containers_are_selected_by_name_and_by_repository_with_port_and_path() -> None:
    found = read_policy(
        kprobes=_KPROBES,
        containerSelector={
            "matchLabels": {"repo": "registry:5000/team/app"},
            "matchExpressions": [{"key": "name", "operator": "NotIn", "values": ["proxy"]}],
        },
    )
    assert found.workloads.containers == LabelSelector(
        (
            Requirement("name", LabelOperator.NOT_IN, ("proxy",)),
            Requirement("repo", LabelOperator.IN, ("registry:5000/team/app",)),
        )
    )


def test_options_enforcers_and_nodes() -> None:
    found = read_policy(
        kprobes=_KPROBES,
        nodeSelector={"matchLabels": {"pool": "edge"}},
        options=[
            {"name": "policy-mode", "value": "monitor"},
            {"name": "override-method", "value": "override-return"},
            {"name": "disable-kprobe-multi", "value": "1"},
            {"name": "disable-uprobe-multi", "value": "false"},
            {"name": "sleepable-preload-size", "value": "32"},
        ],
        lists=[{"name": "dups", "type": "syscalls", "values": ["sys_dup", "dup2"]}],
        enforcers=[{"calls": ["list:dups", "dup"]}, {"calls": ["security_file_open", "__x64_sys_openat"]}],
    )
    assert found.mode is PolicyMode.MONITOR
    assert found.nodes == LabelSelector((Requirement("pool", LabelOperator.IN, ("edge",)),))
    assert found.enforcers == ("dup", "dup2", "security_file_open", "openat")
    assert found.options == MappingProxyType(
        {
            "override-method": "override-return",
            "disable-kprobe-multi": "1",
            "disable-uprobe-multi": "false",
            "sleepable-preload-size": "32",
        }
    )


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
        {"index": 1, "operator": "InRange", "values": ["1:2"]},
        {"operator": "CelExpr", "values": ["arg1 == 1"]},
        {"operator": "CelExpr", "values": ["arg1 != 1"]},
    ]
    args = [{"index": 0, "type": "string"}, {"index": 1, "type": "int"}]
    actions: list[object] = [[{"action": "Post"}], *([{"action": "Signal", "argSig": number}] for number in (9, 10))]
    actions += [[{"action": "Post", "rateLimit": "1s"}], [{"action": "Post", "kernelStackTrace": True}]]
    variants: list[dict[str, object]] = [
        {},
        {"call": "open"},
        {"call": "sys_openat"},
        {"message": "mm"},
        {"tags": ["mm"]},
        {"ignore": {"callNotFound": True}},
        {"return": True, "returnArg": {"type": "int"}},
        {"return": True, "returnArg": {"type": "long"}},
        {"args": [{"index": 0, "type": "int"}]},
        {"args": [{"index": 0, "type": "int", "label": "a"}]},
        {"args": [{"index": 0, "type": "int", "resolve": "a.b"}]},
        {"args": [{"index": 0, "type": "char_buf", "sizeArgIndex": 2}]},
        {"args": [{"index": 0, "type": "char_buf", "sizeArgIndex": 3}]},
        {"selectors": [{}, {}]},
        {"selectors": [{"label": "a"}]},
        {"selectors": [{"matchPIDs": [{"operator": "In", "values": [1]}]}]},
        {"selectors": [{"matchPIDs": [{"operator": "In", "values": [1], "followForks": True}]}]},
    ]
    variants += [{"selectors": [{"matchActions": each}]} for each in actions]
    variants += [{"args": args, "selectors": [{"matchArgs": [match]}]} for match in matches]
    return variants


def test_digest_differs_for_each_difference() -> None:
    texts = [kprobe_text(**variant) for variant in _variants()]
    plain = kprobe_text()
    texts += [
        plain.replace(b'"x"', b'"y"'),
        plain.replace(b'"TracingPolicy"', b'"TracingPolicyNamespaced"'),
        plain.replace(b'"TracingPolicy"', b'"TracingPolicyNamespaced"').replace(b'"x"', b'"x", "namespace": "n"'),
    ]
    specs: list[dict[str, Any]] = [
        {"podSelector": {}},
        {"containerSelector": {}},
        {"hostSelector": {}},
        {"nodeSelector": {}},
        {"podSelector": {"matchLabels": {"a": "b"}}},
        {"options": [{"name": "policy-mode", "value": "monitor"}]},
        {"options": [{"name": "sleepable-preload-size", "value": "1"}]},
        {"enforcers": [{"calls": ["openat"]}]},
    ]
    texts += [policy_text(kprobes=_KPROBES, **spec) for spec in specs]
    digests = [parse_policies(text, "f")[0].text_digest for text in texts]
    assert len(set(digests)) == len(texts)


@pytest.mark.parametrize(("value", "refused"), [("false", False), ("null", False), ("[]", True), ("true", True)])
def test_refused_field_may_be_there_with_its_empty_value(value: str, refused: bool) -> None:
    text = policy_text(kprobes=_KPROBES).replace(b'"kprobes"', f'"loader": {value}, "kprobes"'.encode())
    if not refused:
        assert parse_policies(text, "f")
        return
    (error,) = errors_of(text)
    assert error.what.startswith("loader is not supported: ")


def test_error_has_fields_and_one_line_of_text() -> None:
    (error,) = errors_of(kprobe_text(syscal=True))
    assert (error.file, error.line, error.what) == ("f", 1, 'unknown field "syscal" in a kprobe')
    assert str(error) == f"f:1:{error.column}: {error.what}, did you mean syscall?"


def test_text_of_a_policy_in_an_error_is_short_and_printable() -> None:
    (error,) = errors_of(kprobe_text(call="a\nb\u2028" + "c" * 5000))
    assert error.what == 'unknown system call "a\\nb\\u2028' + "c" * 55 + '…"'


def test_at_most_20_errors_are_collected() -> None:
    assert len(errors_of(kprobe_text(args=[{}] * 1000))) == MAX_ERRORS


def test_same_fault_of_what_is_used_twice_is_reported_once() -> None:
    lists = [{"name": "a", "type": "syscalls", "values": ["opnat"]}]
    (error,) = errors_of(policy_text(lists=lists, kprobes=[{"call": "list:a"}, {"call": "list:a"}]))
    assert error.what == 'unknown system call "opnat"'


def test_errors_of_all_documents_are_reported_in_the_order_of_the_file() -> None:
    text = b"\n---\n".join([kprobe_text(foo=1), kprobe_text(bar=2)])
    assert [error.line for error in errors_of(text)] == [1, 3, 3]


def test_faulty_argument_type_is_reported_once() -> None:
    match = {"index": 0, "operator": "Equal", "values": ["x"]}
    errors = errors_of(kprobe_text(args=[{"index": 0, "type": "strin"}], selectors=[{"matchArgs": [match]}]))
    assert [error.advice for error in errors] == ["did you mean string?"]


def test_long_messages_and_tags_are_cut_to_what_an_event_carries() -> None:
    hook = read_hook(message="é" * 300, tags=["t" * 200, 'quoted "text"'])
    assert hook.message == "é" * 256
    assert hook.tags == ("t" * 128, 'quoted "text"')


def test_small_policy_takes_less_than_3_ms() -> None:
    text = (_GOOD / "namespaced.yaml").read_bytes()
    parse_policies(text, "f")
    best = min(_cpu_time(text) for _ in range(10))
    assert best < 0.003


def _cpu_time(text: bytes) -> float:
    start = time.process_time()
    parse_policies(text, "f")
    return time.process_time() - start
