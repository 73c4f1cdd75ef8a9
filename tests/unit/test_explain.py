# SPDX-License-Identifier: Apache-2.0
"""Policies in words: the sentences say what the model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.node import look_at
from agent.policy.explain import Explanation, HookText, explain_policy
from agent.policy.explain_selectors import ACTION_TEXTS, VERBS, describe_actions
from agent.policy.explain_words import MAX_SHOWN, duration, either, error_name, expression, signal_name
from agent.policy.model import Action, ActionKind, ArgType, Cel, Operator
from agent.policy.operators import fitting
from agent.policy.reader import parse_policies
from tests.support.kernel_facts import SmallKernel

GOOD = sorted((Path(__file__).resolve().parents[1] / "data/policies/good").glob("*.yaml"))


def policy_text(spec: str, kind: str = "TracingPolicy") -> bytes:
    return f"apiVersion: cilium.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n".encode()


def explain(spec: str, kind: str = "TracingPolicy", *, here: bool = False) -> Explanation:
    """The only policy; here: on the small kernel."""
    (policy,) = parse_policies(policy_text(spec, kind), "p.yaml")
    return explain_policy(policy, look_at(policy, SmallKernel()) if here else None)


def explain_hook(hook: str, *, here: bool = False) -> HookText:
    """The only kprobe."""
    (found,) = explain(f"{{kprobes: [{hook}]}}", here=here).hooks
    return found


def when(args: str, selector: str) -> str:
    hook = explain_hook(f"{{call: sys_openat, args: [{args}], selectors: [{{{selector}}}]}}")
    return hook.selectors[0].when


def when_raw(args: str, selector: str) -> str:
    """Of a raw tracepoint, whose arguments can be objects of the kernel."""
    hook = f"{{subsystem: s, event: e, raw: true, args: [{args}], selectors: [{{{selector}}}]}}"
    return explain(f"{{tracepoints: [{hook}]}}").hooks[0].selectors[0].when


def then(actions: str, args: str = "") -> tuple[str, ...]:
    hook = explain_hook(f"{{call: sys_openat, args: [{args}], selectors: [{{matchActions: [{actions}]}}]}}")
    return hook.selectors[0].then


EVERYTHING = "every process of the node: host processes, all containers, and what runtimes do to set these up"
WEB, MAIN = "podSelector: {matchLabels: {app: web}}", "containerSelector: {matchLabels: {name: main}}"


@pytest.mark.parametrize(
    ("selectors", "text"),
    [
        ("", EVERYTHING),
        (MAIN, "the containers whose name is main of all pods; no host process"),
        (WEB, "all containers of the pods whose label app is web; no host process"),
        (f"{WEB}, {MAIN}", "the containers whose name is main of the pods whose label app is web; no host process"),
        ("hostSelector: {}", "host processes, and no container"),
        (f"hostSelector: {{}}, {MAIN}", "host processes, and the containers whose name is main of all pods"),
        (f"hostSelector: {{}}, {WEB}", "host processes, and all containers of the pods whose label app is web"),
        (
            f"hostSelector: {{}}, {WEB}, {MAIN}",
            "host processes, and the containers whose name is main of the pods whose label app is web",
        ),
        ("hostSelector: {}, podSelector: {}, containerSelector: {}", EVERYTHING),
        ("podSelector: {}", "all containers of all pods; no host process"),
    ],
)
def test_each_row_of_the_table_of_selectors(selectors: str, text: str) -> None:
    assert explain(f"{{{selectors}{', ' if selectors else ''}kprobes: [{{call: sys_lseek}}]}}").applies_to == text


def test_a_namespaced_policy_names_its_namespace() -> None:
    (policy,) = parse_policies(
        policy_text("{kprobes: [{call: sys_lseek}]}", "TracingPolicyNamespaced").replace(b"p}", b"p, namespace: shop}"),
        "p.yaml",
    )
    text = explain_policy(policy).applies_to
    assert text == "all containers of all pods in the namespace shop; no host process"


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        ("{key: tier, operator: NotIn, values: [a, b]}", "whose label tier is absent or none of a and b"),
        ("{key: tier, operator: Exists}", "that have a label tier"),
        ("{key: tier, operator: DoesNotExist}", "that have no label tier"),
        ("{key: k8s:io.kubernetes.pod.namespace, operator: In, values: [x]}", "whose namespace is x"),
        ("{key: k8s:io.kubernetes.pod.namespace, operator: NotIn, values: [x]}", "whose namespace is none of x"),
    ],
)
def test_label_requirements_in_words(requirement: str, text: str) -> None:
    spec = f"{{podSelector: {{matchExpressions: [{requirement}]}}, kprobes: [{{call: sys_lseek}}]}}"
    assert explain(spec).applies_to == f"all containers of the pods {text}; no host process"


STRING, INT = "{index: 1, type: string}", "{index: 2, type: int}"
BEGINS = (
    'matchArgs: [{index: 1, operator: Prefix, values: ["/etc/shadow", "/run/"]}, '
    '{index: 2, operator: Mask, values: ["3"]}]'
)


def test_conditions_are_joined_in_the_order_written() -> None:
    assert when(f"{STRING}, {INT}", BEGINS) == (
        'argument 1 (string) begins with "/etc/shadow" or "/run/", and argument 2 (int) has a bit in common with 0x3'
    )


@pytest.mark.parametrize(
    ("arg", "condition", "text"),
    [
        ("int", 'Equal, values: ["-1"]', "is -1"),
        ("int", 'NotEqual, values: ["1", "2"]', "is none of 1 and 2"),
        ("int", 'NotEqual, values: ["1"]', "is not 1"),
        ("int", 'GT, values: ["5"]', "is greater than 5"),
        ("int", 'InRange, values: ["1:3", "7:7"]', "is from 1 to 3 or 7"),
        ("int", 'NotInMap, values: ["1", "2"]', "is none of 1 and 2"),
        ("string", 'NotPostfix, values: [".so", ".o"]', 'does not end with ".so" or ".o"'),
        ("string", "SubStringIgnCase, values: [Key]", 'contains, in upper or lower case, "Key"'),
        ("fd", "FileType, values: [dir, socket]", "is of file type dir or sock"),
        ("sockaddr", 'SAddr, values: ["10.0.0.0/8", "fe80::1"]', "has its source address in 10.0.0.0/8 or fe80::1"),
        ("sockaddr", 'NotSPort, values: ["443"]', "does not have the source port 443"),
        ("sockaddr", "SPortPriv", "has a source port below 1024"),
        ("sockaddr", "Family, values: [AF_INET6]", "is of family AF_INET6"),
        ("capability", "Equal, values: [CAP_SYS_ADMIN]", "is CAP_SYS_ADMIN"),
        ("syscall64", "InMap, values: [openat, read]", "is openat or read"),
        ("cap_effective", "Mask, values: [CAP_CHOWN]", "has a bit in common with CAP_CHOWN"),
    ],
)
def test_operators_in_words(arg: str, condition: str, text: str) -> None:
    size = ", sizeArgIndex: 3" if arg == "sockaddr" else ""
    read = when_raw if arg in ("syscall64", "cap_effective") else when
    found = read(f"{{index: 1, type: {arg}{size}}}", f"matchArgs: [{{index: 1, operator: {condition}}}]")
    assert found == f"argument 1 ({arg}) {text}"


def test_every_operator_of_every_type_has_words() -> None:
    special = {Operator.CEL_EXPR, Operator.CAPABILITIES_GAINED}
    of_arguments = {operator for kind in ArgType for operator in fitting(kind)}
    assert {each.positive for each in of_arguments} - special == set(VERBS) - {Operator.IN}
    assert [each for each in of_arguments if each.negative and not VERBS[each.positive][1]] == []


def test_a_condition_on_data_and_one_with_a_label_say_what_they_look_at() -> None:
    hook = explain_hook(
        "{call: sys_openat, args: [{index: 1, type: string, label: path}], "
        "data: [{index: 0, type: int, source: current_task, resolve: cred.uid}], selectors: [{"
        "matchArgs: [{index: 1, operator: Equal, values: [/a]}], "
        'matchData: [{index: 0, operator: Equal, values: ["0"]}]}]}'
    )
    assert hook.selectors[0].when == 'argument 1 "path" (string) is "/a", and current_task.cred.uid (int) is 0'


def test_expressions_say_which_arguments_they_mean() -> None:
    found = when(f"{STRING}, {INT}", 'matchArgs: [{operator: CelExpr, values: ["arg1 > 3 && and(arg1, 1) != 0"]}]')
    assert found == "(arg1 > 3) && (and(arg1, 1) != 0) holds, where arg1 is argument 2 (int)"
    assert expression(Cel("!", (Cel("==", (Cel("arg"), Cel("const", value=-2))),))) == "!(arg0 == -2)"


def test_gained_capabilities_name_the_old_set_and_the_new() -> None:
    sets = "{index: 0, type: cap_effective}, {index: 1, type: cap_permitted}"
    gained = "matchArgs: [{operator: CapabilitiesGained, args: [0, 1]%s}]"
    end = "which argument 0 (cap_effective) does not have"
    assert when_raw(sets, gained % "") == f"argument 1 (cap_permitted) has a capability, {end}"
    named = when_raw(sets, gained % ", values: [CAP_CHOWN, CAP_BPF]")
    assert named == f"argument 1 (cap_permitted) has CAP_CHOWN or CAP_BPF, {end}"


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ("matchPIDs: [{operator: In, values: [1, 2]}]", "the process id is 1 or 2"),
        (
            "matchPIDs: [{operator: NotIn, values: [1], isNamespacePID: true, followForks: true}]",
            "neither the process id in its own pid namespace nor that of an ancestor is 1",
        ),
        (
            "matchPIDs: [{operator: In, values: [1], followForks: true}]",
            "the process id, or that of an ancestor, is 1",
        ),
        ("matchBinaries: [{operator: NotPrefix, values: [/usr/]}]", 'the binary does not begin with "/usr/"'),
        (
            "matchBinaries: [{operator: In, values: [/bin/sh], followChildren: true}]",
            """the binary, or an ancestor's, is "/bin/sh\"""",
        ),
        (
            "matchParentBinaries: [{operator: NotIn, values: [/a, /b], followChildren: true}]",
            """neither the parent's binary nor one of its ancestors' is "/a" or "/b\"""",
        ),
        (
            "matchNamespaces: [{namespace: Net, operator: NotIn, values: [host_ns]}]",
            "the Net namespace is not the host's",
        ),
        (
            "matchNamespaces: [{namespace: Pid, operator: In, values: [host_ns, '4026531836']}]",
            "the Pid namespace is the host's or 4026531836",
        ),
        (
            "matchNamespaceChanges: [{operator: In, values: [Mnt, Pid]}]",
            "the Mnt or Pid namespace is another than at the process's execve",
        ),
        (
            "matchCapabilities: [{type: Effective, operator: NotIn, values: [CAP_CHOWN], isNamespaceCapability: true}]",
            "the effective capability set has none of CAP_CHOWN, in whatever user namespace",
        ),
        (
            "matchCapabilityChanges: [{type: Permitted, operator: In, values: [CAP_CHOWN]}]",
            "the permitted capability set gained or lost CAP_CHOWN since the process's execve",
        ),
        (
            "matchWorkloads: {podSelector: {matchLabels: {a: b}}}",
            "the process is one of: all containers of the pods whose label a is b; no host process",
        ),
        ("label: x", "always"),
    ],
)
def test_conditions_on_the_process_in_words(selector: str, text: str) -> None:
    assert when(STRING, selector) == text


@pytest.mark.parametrize(
    ("actions", "texts"),
    [
        ("", ("an event",)),
        ("{action: NoPost}, {action: Sigkill}", ("no event", "SIGKILL to the calling process")),
        ("{action: Signal, argSig: 15}", ("an event", "SIGTERM to the calling process")),
        (
            "{action: Override, argError: -1}",
            (
                "an event",
                "the call returns -EPERM without being carried out, by bpf_override_return; a node that cannot do that "
                "refuses the policy",
            ),
        ),
        (
            "{action: Post, rateLimit: 5, rateLimitScope: process, kernelStackTrace: true, userStackTrace: true}",
            ("an event with the kernel's stack and the process's stack, of equal ones at most one in 5 s per process",),
        ),
        ("{action: GetUrl, argUrl: 'http://x/'}", ("an event", "the agent fetches http://x/, where it is allowed to")),
        ("{action: DnsLookup, argFqdn: x.y}", ("an event", "the agent looks up x.y, where it is allowed to")),
    ],
)
def test_actions_in_words(actions: str, texts: tuple[str, ...]) -> None:
    assert then(actions.replace("rateLimit: 5", 'rateLimit: "5"')) == texts


def test_every_action_but_the_two_of_events_has_words() -> None:
    assert set(ActionKind) - set(ACTION_TEXTS) == {ActionKind.POST, ActionKind.NO_POST}
    hook = parse_policies(policy_text(f"{{kprobes: [{{call: sys_openat, args: [{INT}]}}]}}"), "p.yaml")[0].hooks[0]
    texts = [describe_actions((Action(kind, signal=40, error=1, text="x"),), hook)[1:] for kind in ACTION_TEXTS]
    assert [text for text in texts if len(text) != 1 or not text[0]] == []


def test_enforcers_are_named_and_what_they_get() -> None:
    found = explain(
        "{enforcers: [{calls: [sys_dup]}], kprobes: [{call: sys_openat, selectors: [{matchActions: "
        "[{action: NotifyEnforcer, argSig: 9}]}]}]}"
    )
    assert found.enforcers == ("dup",)
    assert found.hooks[0].selectors[0].then == ("an event", "the next enforced call of this thread gets SIGKILL")


RETURNS = "{call: sys_openat, return: true, returnArg: {index: 0, type: int}%s}"


def test_an_event_at_the_return_is_told_as_one() -> None:
    hook = explain_hook(RETURNS % "")
    assert (hook.returns, hook.at_return) == (True, ())
    assert hook.selectors[0].then == ("an event at the return",)
    assert hook.values[-1] == "what is returned (int): a number of 32 bits, signed"
    assert hook.through == ("the system call openat",)
    here = explain_hook(RETURNS % "", here=True)
    assert here.through == ("the system call openat, at syscalls/sys_enter_openat and syscalls/sys_exit_openat",)


def test_selectors_of_the_return_have_their_conditions_and_actions() -> None:
    late = 'matchReturnArgs: [{index: 0, operator: LT, values: ["0"]}], matchReturnActions: [{action: Sigkill}]'
    hook = explain_hook(RETURNS % f", selectors: [{{label: x, {late}}}]")
    assert hook.selectors[0].then == ("the selectors of the return are asked then",)
    (at_return,) = hook.at_return
    assert (at_return.number, at_return.label, at_return.when) == (0, "x", "what is returned is less than 0")
    assert at_return.then == ("an event", "SIGKILL to the calling process")


def test_values_say_what_they_are_and_how_they_are_read() -> None:
    hook = "{call: sys_openat, args: [%s], data: [{index: 0, type: file, source: current_task, resolve: mm.exe_file}]}"
    said = explain_hook(hook % f"{STRING}, {INT}")
    assert said.values == (
        "argument 1 (string): text up to its NUL in the process's memory, at most 4,096 bytes",
        "argument 2 (int): a number of 32 bits, signed",
        "current_task.mm.exe_file (file): the path of a file as the process sees it, and what kind of file it is",
    )
    here = explain_hook(hook % f"{STRING}, {INT}", here=True)
    assert [each.rpartition("; ")[2] for each in here.values] == [
        "here in the process's memory",
        "here without reading memory",
        "here 2 steps through the kernel's memory",
    ]


def test_a_type_that_the_node_decides_is_told() -> None:
    spec = "{tracepoints: [{subsystem: sched, event: sched_process_exec, args: [{index: 5, type: auto}]}]}"
    assert explain(spec).hooks[0].values == ("field 5 (auto): of the type that the node has for it",)
    assert explain(spec, here=True).hooks[0].values == (
        "field 5 (auto): a number of 32 bits, signed; here of type int32; here without reading memory",
    )


def test_a_buffer_names_the_argument_with_its_length() -> None:
    hook = explain_hook("{call: sys_write, args: [{index: 1, type: char_buf, sizeArgIndex: 3}]}")
    assert hook.values == ("argument 1 (char_buf): bytes, as many as argument 2 says, at most 4,096",)


def test_hooks_say_what_they_stand_on() -> None:
    found = explain(
        "{tracepoints: [{subsystem: sched, event: sched_process_exec}, {subsystem: sched, event: sched_process_exec, "
        "raw: true}], uprobes: [{path: /bin/x, symbols: [f, g]}, {path: /bin/x, offsets: [16], return: true, "
        "returnArg: {index: 0, type: int}}], usdts: [{path: /bin/x, provider: p, name: n}], "
        "lsmhooks: [{hook: bprm_check}], kprobes: [{call: vfs_read, syscall: false}]}"
    )
    assert {hook.section: hook.through for hook in found.hooks} == {
        "tracepoints[0]": ("the tracepoint sched/sched_process_exec",),
        "tracepoints[1]": ("the raw tracepoint sched/sched_process_exec",),
        "uprobes[0]": ('a uprobe at f and g of "/bin/x"',),
        "uprobes[1]": ('a uprobe and a uretprobe at offset 0x10 of "/bin/x"',),
        "usdts[0]": ('a uprobe at each location of the USDT probe p/n of "/bin/x"',),
        "lsmhooks[0]": ("the LSM hook bprm_check",),
        "kprobes[0]": ("the kernel function vfs_read",),
    }


def test_the_mode_says_whether_anything_is_enforced() -> None:
    kill = "selectors: [{matchActions: [{action: Sigkill}]}]"
    spec = "{%skprobes: [{call: sys_lseek, %s}]}"
    monitor = "options: [{name: policy-mode, value: monitor}], "
    assert explain(spec % ("", "")).mode == "enforce: it has no action that enforces, and only observes"
    assert explain(spec % ("", kill)).mode == "enforce: actions that enforce are carried out"
    assert explain(spec % (monitor, kill)).mode == "monitor: actions that enforce are counted and left out"


def test_long_lists_are_cut_with_their_number() -> None:
    assert either(["a"]) == "a"
    assert either(["a", "b"], "and") == "a and b"
    many = either(map(str, range(MAX_SHOWN + 3)))
    assert many == "0, 1, 2, 3, 4, 5, 6, 7 or one of 3 more"
    assert either(map(str, range(MAX_SHOWN + 1)), "and").endswith("7 and 1 more")


def test_numbers_have_the_names_that_people_know() -> None:
    assert [duration(each) for each in (500, 5000, 60_000, 7_200_000, 90_000, 0)] == [
        "500 ms", "5 s", "1 min", "2 h", "90 s", "0 ms",
    ]  # fmt: skip
    assert (signal_name(9), signal_name(40), error_name(13)) == ("SIGKILL", "signal 40", "-EACCES")


def test_what_a_policy_writes_cannot_forge_lines() -> None:
    hook = explain_hook(
        '{call: sys_openat, args: [{index: 1, type: string, label: "a\nb"}], selectors: [{label: "c\nd", '
        'matchArgs: [{index: 1, operator: Equal, values: ["x\ny"]}]}]}'
    )
    assert "\n" not in hook.selectors[0].when + "".join(hook.values)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_every_policy_that_reads_well_is_explained(file: Path) -> None:
    for policy in parse_policies(file.read_bytes(), file.name):
        found = explain_policy(policy)
        assert len(found.hooks) == len(policy.hooks)
        assert all(selector.when and selector.then for hook in found.hooks for selector in hook.selectors)
        assert found.cost.hook_points > 0
        there = explain_policy(policy, look_at(policy, SmallKernel()))
        assert bool(there.refusals) == (there.cost.programs is None)
