# SPDX-License-Identifier: Apache-2.0
"""Traps and costs: told where they are there, and not where they are not."""

from __future__ import annotations

import pytest

from agent.cli.node import look_at
from agent.policy.explain import Explanation, explain_policy
from agent.policy.explain_cost import LIGHT, MODERATE
from agent.policy.model import Policy
from agent.policy.reader import parse_policies
from tests.support.kernel_facts import SmallKernel

STRING, FD = "{index: 1, type: string}", "{index: 0, type: fd}"


def explain(spec: str, *, here: bool = False) -> Explanation:
    """A policy for pods; here: on the small kernel."""
    policy = parse(f"podSelector: {{}}, {spec}")
    return explain_policy(policy, look_at(policy, SmallKernel()) if here else None)


def parse(spec: str) -> Policy:
    head = "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\nmetadata: {name: p}\n"
    (policy,) = parse_policies(f"{head}spec: {{{spec}}}\n".encode(), "p.yaml")
    return policy


def matching(operator: str, *values: str, index: int = 1) -> str:
    """A selector's condition."""
    quoted = ", ".join(f'"{value}"' for value in values)
    return f"matchArgs: [{{index: {index}, operator: {operator}, values: [{quoted}]}}]"


def opening(selector: str) -> str:
    """A hook of openat that looks at its path."""
    return f"{{call: sys_openat, args: [{STRING}], selectors: [{{{selector}}}]}}"


def traps(selectors: str, call: str = "sys_openat", args: str = STRING, more: str = "") -> list[str]:
    """Those of one kprobe, each with its place in the hook."""
    hook = f"{{call: {call}, args: [{args}], selectors: [{selectors}]{more}}}"
    found = explain(f"kprobes: [{hook}]").traps
    return [f"{trap.where.removeprefix('kprobes[0]')}: {trap.text}" for trap in found]


def some(found: list[str], words: str) -> list[str]:
    return [text for text in found if words in text]


KILL = "matchActions: [{action: Sigkill}]"


def test_a_kill_is_told_not_to_prevent() -> None:
    (found,) = some(traps(f"{{{KILL}}}"), "kill is not prevent")
    assert "the signal comes when the call is done" in found
    assert some(traps("{matchActions: [{action: Post, rateLimit: 1s}]}"), "kill is not prevent") == []


def test_a_kill_at_a_probe_is_told_differently() -> None:
    kill = explain(f"uprobes: [{{path: /bin/x, symbols: [f], selectors: [{{{KILL}}}]}}]").traps
    assert ["on the way back to the process's own code" in trap.text for trap in kill] == [True]


def test_text_of_the_process_can_change_after_the_comparison() -> None:
    compared = "{matchArgs: [{index: 1, operator: Postfix, values: [x]}]}"
    assert len(some(traps(compared), "time of check, time of use")) == 1
    assert some(traps(compared, args="{index: 1, type: fd}"), "time of check") == []
    assert len(some(traps(compared, args="{index: 1, type: fd}"), "dup2")) == 1
    number = '{matchArgs: [{index: 1, operator: Equal, values: ["1"]}]}'
    assert traps(number, call="sys_lseek", args="{index: 1, type: int}") == []
    reported = explain("kprobes: [{call: sys_chdir, args: [{index: 0, type: string}]}]")
    assert reported.traps == ()


@pytest.mark.parametrize(
    ("operator", "value", "told"),
    [("Prefix", "/etc/", True), ("Equal", "/x", True), ("Postfix", "/x", False), ("Equal", "x", False)],
)
def test_a_path_is_compared_as_written(operator: str, value: str, told: bool) -> None:
    found = traps(f"{{matchArgs: [{{index: 1, operator: {operator}, values: [{value}]}}]}}")
    assert bool(some(found, "symbolic link")) is told


def test_events_of_hot_calls_are_told_when_nothing_narrows_them() -> None:
    hot = "an event for nearly every call of write"
    write = {"call": "sys_write", "args": "{index: 2, type: size_t}"}
    assert len(some(traps("{label: x}", **write), hot)) == 1
    assert len(some(traps('{matchArgs: [{index: 2, operator: NotEqual, values: ["1"]}]}', **write), hot)) == 1
    assert some(traps('{matchArgs: [{index: 2, operator: Equal, values: ["1"]}]}', **write), hot) == []
    assert some(traps("{matchBinaries: [{operator: In, values: [/x]}]}", **write), hot) == []
    assert some(traps("{matchActions: [{action: Post, rateLimit: 1m}]}", **write), hot) == []
    assert some(traps("{matchActions: [{action: NoPost}]}", **write), hot) == []
    assert some(traps("{label: x}", call="sys_unlink"), "nearly every call") == []


def test_selectors_behind_one_that_always_holds_are_never_reached() -> None:
    found = some(
        traps("{label: a}, {matchArgs: [{index: 1, operator: Equal, values: [x]}]}, {label: c}"), "never reached"
    )
    assert found == [
        ".selectors[1]: is never reached: selectors[0] is tried first and always holds",
        ".selectors[2]: is never reached: selectors[0] is tried first and always holds",
    ]


def test_a_selector_with_the_conditions_of_an_earlier_one_is_never_reached() -> None:
    equal = "{index: 1, operator: Equal, values: [x]}"
    wide, narrow = f"{{matchArgs: [{equal}]}}", f"{{matchArgs: [{equal}], matchPIDs: [{{operator: In, values: [1]}}]}}"
    assert some(traps(f"{wide}, {narrow}"), "never") == [
        ".selectors[1]: is never reached: selectors[0] is tried first and holds whenever this one does"
    ]
    assert some(traps(f"{narrow}, {wide}"), "never") == []


def test_conditions_on_arguments_and_on_data_are_not_the_same() -> None:
    data = ", data: [{index: 0, type: string, source: current_task, resolve: comm}]"
    found = traps(
        "{matchArgs: [{index: 1, operator: Postfix, values: [x]}]}, "
        "{matchData: [{index: 0, operator: Postfix, values: [x]}]}",
        more=data,
    )
    assert some(found, "never") == []


def test_selectors_of_the_return_can_be_hidden_too() -> None:
    late = 'matchReturnArgs: [{index: 0, operator: LT, values: ["0"]}]'
    returns = ", return: true, returnArg: {index: 0, type: int}"
    ask, act = f"{{{late}}}", "{matchReturnActions: [{action: Post}]}"
    found = some(traps(f"{act}, {ask}", more=returns), "never")
    assert found == [
        ".selectors[1]: is never reached: selectors[0] is tried first and always holds; at the return it is asked",
        ".selectors[1]: is never asked at the return: selectors[0] is tried first and holds whenever this one does",
    ]
    assert some(traps(f"{ask}, {act}", more=returns), "never asked") == []


def test_negative_operators_hold_for_what_cannot_be_read() -> None:
    (text,) = some(traps("{matchArgs: [{index: 1, operator: NotPrefix, values: [/a]}]}"), "NotPrefix holds too")
    assert text == ".selectors[0]: NotPrefix holds too when argument 1 (string) cannot be read or was cut"
    register = traps('{matchArgs: [{index: 1, operator: NotEqual, values: ["1"]}]}', args="{index: 1, type: int}")
    assert some(register, "holds too") == []
    (binary,) = some(traps("{matchBinaries: [{operator: NotIn, values: [/a]}]}"), "holds too")
    assert "when its path cannot be read" in binary


def test_process_ids_are_told_to_be_the_hosts() -> None:
    assert len(some(traps("{matchPIDs: [{operator: In, values: [1]}]}"), "isNamespacePID")) == 1
    inside = "{matchPIDs: [{operator: In, values: [1], isNamespacePID: true}]}"
    assert some(traps(inside), "isNamespacePID") == []


def test_a_policy_that_kills_everywhere_is_told() -> None:
    kills = parse(f"kprobes: [{{call: sys_lseek, selectors: [{{{KILL}}}]}}]")
    observes = parse("kprobes: [{call: sys_lseek}]")
    first = explain_policy(kills).traps[0]
    assert (first.where, str(first.source)) == ("", "p.yaml:1:1")
    assert "every process of the node, container runtimes and kubelet included" in first.text
    assert [trap for trap in explain_policy(observes).traps if not trap.where] == []


def test_what_no_node_does_is_refused_without_one() -> None:
    notify = "selectors: [{matchActions: [{action: NotifyEnforcer, argError: -1}]}]"
    spec = f"enforcers: [{{calls: [sys_openat]}}], kprobes: [{{call: sys_openat, {notify}}}]"
    offline, here = explain(spec), explain(spec, here=True)
    assert (offline.asked, here.asked) == (False, True)
    assert [error.what for error in offline.refusals] == [error.what for error in here.refusals]
    assert "argError is not possible here" in offline.refusals[0].what


def test_what_a_node_cannot_override_is_refused_there_alone() -> None:
    spec = "kprobes: [{call: sys_openat, selectors: [{matchActions: [{action: Override, argError: -1}]}]}]"
    assert explain(spec).refusals == ()
    (refusal,) = explain(spec, here=True).refusals
    assert "Override is not possible here" in refusal.what


def test_what_a_node_lacks_is_refused_there_alone() -> None:
    spec = "kprobes: [{call: sys_openat}, {call: sys_mount}], tracepoints: [{subsystem: nosuch, event: event}]"
    assert explain(spec).refusals == ()
    here = explain(spec, here=True)
    assert [(error.line, error.what.partition('"')[0]) for error in here.refusals] == [
        (4, "this kernel has no system call "),
        (4, "this kernel has no tracepoint "),
    ]
    assert [hook.places for hook in here.hooks] == [("openat",), (), ()]
    assert here.cost.programs is None


def test_an_enforcers_call_that_the_node_lacks_is_a_refusal() -> None:
    kill = "selectors: [{matchActions: [{action: NotifyEnforcer, argSig: 9}]}]"
    found = explain(f"enforcers: [{{calls: [sys_mount]}}], kprobes: [{{call: sys_openat, {kill}}}]", here=True)
    assert ['"mount"' in error.what for error in found.refusals] == [True]


def test_a_hook_with_too_many_values_is_a_refusal_with_the_policys_place() -> None:
    texts = ", ".join(f"{{index: {n}, type: string}}, {{index: {n}, type: fd}}" for n in range(6))
    task = "{index: 0, type: string, source: current_task, resolve: comm}"
    found = explain(f"kprobes: [{{call: sys_process_vm_readv, args: [{texts}], data: [{task}]}}]", here=True)
    assert [(error.line, error.column) for error in found.refusals] == [(1, 1)]
    assert "a program has room for" in found.refusals[0].what


@pytest.mark.parametrize(
    ("hook", "compares", "watches"),
    [
        ("{call: sys_getpid}", False, False),
        ("{call: sys_openat, args: [{index: 1, type: string}]}", False, False),
        ("{call: sys_openat, return: true, returnArg: {index: 0, type: int}}", False, True),
        (opening(matching("Equal", "x")), True, True),
        (f"{{call: sys_read, args: [{FD}], selectors: [{{{matching('Equal', 'x', index=0)}}}]}}", True, False),
        ("{call: sys_getpid, selectors: [{matchBinaries: [{operator: In, values: [/x]}]}]}", True, False),
    ],
)  # fmt: skip
def test_the_cost_is_the_same_in_kind_with_and_without_a_node(hook: str, compares: bool, watches: bool) -> None:
    for cost in (explain(f"kprobes: [{hook}]").cost, explain(f"kprobes: [{hook}]", here=True).cost):
        assert (cost.hook_points, cost.compares_text, cost.watches_return) == (1, compares, watches)


def test_programs_are_counted_on_a_node() -> None:
    found = explain(
        "kprobes: [{call: sys_getpid}, {call: sys_read, return: true, returnArg: {index: 0, type: int}}]", here=True
    )
    assert (found.cost.hook_points, found.cost.programs) == (2, 3)
    assert explain("kprobes: [{call: sys_getpid}]").cost.programs is None


def paths(count: int) -> str:
    """A condition on so many."""
    return matching("Equal", *(f"/a/long/path/of/some/file/somewhere/{n:06}" for n in range(count)))


def test_the_estimate_grows_with_the_values_in_the_program() -> None:
    def estimate(selectors: int, count: int) -> tuple[int, str]:
        hook = opening("}, {".join([paths(count)] * selectors))
        cost = explain(f"kprobes: [{hook}]", here=True).cost
        return cost.weight, cost.estimate.partition(":")[0]

    sizes = [estimate(*size) for size in ((1, 1), (3, 30), (30, 30))]
    assert estimate(1, 33) == estimate(1, 1000) < estimate(1, 32)
    assert [word for _, word in sizes] == ["light", "moderate", "heavy"]
    assert sizes[0][0] <= LIGHT < sizes[1][0] <= MODERATE < sizes[2][0]


def test_several_programs_for_one_call_are_told() -> None:
    hook = opening("}, {".join([paths(30)] * 25))
    cost = explain(f"kprobes: [{hook}, {hook}]", here=True).cost
    assert "the rules at openat take 2 programs, one after the other" in cost.notes
    assert cost.programs == 4


def test_what_else_is_paid_is_told() -> None:
    binaries = "matchBinaries: [{operator: In, values: [/x], followChildren: true}]"
    selector = f"{{{binaries}, {matching('SubString', 'x', index=0)}}}"
    notes = explain(f"kprobes: [{{call: sys_read, args: [{FD}], selectors: [{selector}]}}]").cost.notes
    for words in ("path of a binary", "path of a file", "SubString", "forks and execves"):
        assert len([note for note in notes if words in note]) == 1, words
    assert len(explain("kprobes: [{call: sys_getpid}]").cost.notes) == 1


def test_cost_tells_the_values_in_maps() -> None:
    conditions = (
        f"{{index: 1, operator: {operator}, values: [{', '.join(map(repr, map(str, range(1000))))}]}}"
        for operator in ("Equal", "Prefix")
    )
    hook = opening(f"matchArgs: [{', '.join(conditions)}]")
    cost = explain(f"kprobes: [{hook}]").cost
    (note,) = (note for note in cost.notes if "in maps" in note)
    assert note.startswith("2,000 values are in 2 sets in maps, ")
    assert note.endswith(
        "KiB of kernel memory: 2 look-ups when all are asked, each about 0.1 µs however many values there are"
    )
    assert cost.weight < 100


def test_other_calls_that_do_the_same_are_told_unless_the_policy_has_them() -> None:
    words = "the policy does not hook"
    one = [trap.text for trap in explain(f"kprobes: [{opening(KILL)}]").traps]
    told = "to open a file there are other calls, which the policy does not hook: open, openat2, creat"
    assert any(text.startswith(told) for text in some(one, words))
    group = ("unlink", "unlinkat")
    hooks = [f"{{call: sys_{call}, syscall: true, selectors: [{{{KILL}}}]}}" for call in group]
    assert some([trap.text for trap in explain(f"kprobes: [{', '.join(hooks)}]").traps], words) == []
    assert some(traps(f"{{{KILL}}}", call="sys_lseek", args="{index: 0, type: int}"), words) == []


RAW_CALLS = "subsystem: raw_syscalls, event: sys_enter"


@pytest.mark.parametrize("subsystem", ["syscalls", "sched"])
def test_tracepoints_of_system_calls_see_native_calls_only(subsystem: str) -> None:
    found = explain(f"tracepoints: [{{subsystem: {subsystem}, event: some, selectors: [{{{KILL}}}]}}]").traps
    assert len(some([trap.text for trap in found], "x32 calls")) == (subsystem == "syscalls")


@pytest.mark.parametrize(
    ("more", "index", "kind", "told"),
    [
        ("", 4, "int64", True),
        ("", 4, "syscall64", False),
        ("", 5, "uint64", False),
        (", raw: true", 1, "int64", True),
        (", raw: true", 1, "syscall64", False),
    ],
)
def test_numbers_of_calls_are_told_to_be_of_several_tables(more: str, index: int, kind: str, told: bool) -> None:
    selector = f"{{{matching('Equal', '59', index=index)}}}"
    hook = f"{{{RAW_CALLS}{more}, args: [{{index: {index}, type: {kind}}}], selectors: [{selector}]}}"
    found = [trap.text for trap in explain(f"tracepoints: [{hook}]").traps]
    assert len(some(found, "numbers of a table of their own")) == told
    unfiltered = f"{{{RAW_CALLS}{more}, args: [{{index: {index}, type: {kind}}}]}}"
    found = [trap.text for trap in explain(f"tracepoints: [{unfiltered}]").traps]
    assert some(found, "numbers of a table of their own") == []
