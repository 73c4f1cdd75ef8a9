# SPDX-License-Identifier: Apache-2.0
"""Policies that are in force and processes that make calls: what the kernel does with each call, against what the plain
evaluator of the model says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from agent.events.decoder import Item, RawEvent
from agent.events.layout import NO_SELECTOR, UNREADABLE
from agent.kernel.process_scan import read_host_namespaces
from agent.policy.access import PointHook
from agent.policy.evaluate import Verdict, evaluate, sent_together
from agent.policy.evaluate_seen import Call, Process, Seen, Text
from agent.policy.evaluate_values import typed
from agent.policy.lineage import Predicate, needs_of
from agent.policy.model import (
    Action,
    ActionKind,
    Arg,
    ArgFilter,
    ArgType,
    Hook,
    HookKind,
    NamespaceType,
    Operator,
    Policy,
    PolicyKind,
    Selector,
    WorkloadSelector,
    posts,
)
from agent.policy.placed import PlacedPolicy
from tests.support.calls import (
    NEW_IPC,
    NEW_NAMESPACES,
    NEW_USER,
    Caller,
    CallerFacts,
    Done,
    MadeCall,
    Place,
    read_facts,
    read_snapshot,
    with_lineage,
)
from tests.support.calls_brief import brief
from tests.support.calls_kernel import Rules
from tests.support.calls_main import FIRST_FD
from tests.support.calls_seen import observe
from tests.support.strategies import SOURCE
from tests.support.strategies_calls import Fds
from tests.support.strategies_filters import Pool

NET_RAW, SETPCAP = 1 << 13, 1 << 8
MEANT = WorkloadSelector(host=True)  # of the two that policies name, the one that the callers belong to
MARKER, MARK = "getpriority", 0x5EED  # between calls: a call that no policy is about
MAX_SHOWN = 3  # rules of one disagreement
FILES = ("read", "write", "deleted", "null", "pipe", "unix", "udp", "udp6", "folder")
SILENT = ("write", "deleted", "null", "read")
FDS = Fds(
    tuple(range(FIRST_FD, FIRST_FD + len(FILES))),
    tuple(FIRST_FD + n for n, kind in enumerate(FILES) if kind in SILENT),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A hook of a policy that is in force."""

    placed: PlacedPolicy
    number: int

    @property
    def point(self) -> PointHook:
        return self.placed.hooks[self.number]

    @property
    def call(self) -> str:
        return self.point.point.name.rpartition("sys_enter_")[2]


@dataclass(slots=True)
class Crowd:
    """The processes that make calls, in one cgroup. processes: what the kernel's side has to know of each."""

    callers: list[Caller]
    facts: list[CallerFacts]
    host: dict[NamespaceType, int]
    processes: list[Process] = field(default_factory=list)

    def know(self, predicates: frozenset[Predicate]) -> None:
        """At the moment when the policies come into force: what was before counts for nothing but lineage."""
        known = [with_lineage(facts, predicates) for facts in self.facts]
        self.processes = [replace(process, at_execve=process.now) for process in known]

    def change(self) -> None:
        """One of them goes into another namespace, and gives up capabilities."""
        self.callers[1].unshare(NEW_IPC)
        self.callers[1].tell(drop=NET_RAW | SETPCAP)
        self.processes[1] = replace(self.processes[1], now=read_snapshot(self.processes[1].pid))

    @property
    def pool(self) -> Pool:
        """As many values on every machine, so that a seed gives the same policies."""
        binaries = {facts.process.binary.data for facts in self.facts if facts.process.binary}
        pids = [pid for facts in self.facts for pid in (facts.process.pid, facts.ancestor_pids[0])]
        spaces = {
            kind: tuple(facts.process.now.namespaces.get(kind, 0) for facts in self.facts) for kind in NamespaceType
        }
        paths = [self.facts[0].files[fd].data for fd in FDS.all]
        return Pool(tuple(paths), (*sorted(binaries), b"/usr/bin/nobody", b"/sbin/init"), tuple(pids), spaces)


@contextmanager
def gather(group: Path, folder: Path) -> Iterator[Crowd]:
    """One like the test itself, one that is in other namespaces and will be in yet others, one in a user namespace.

    group: their cgroup; folder: for the files that they have open.
    """
    paths = {"read": folder / "A/read", "write": folder / "b", "deleted": folder / "gone", "folder": folder}
    paths["null"] = Path("/dev/null")
    (folder / "A").mkdir()
    (folder / "A/read").write_text("x")
    kinds = {"null": "write", "folder": "read"}
    with ExitStack() as stack:
        callers = []
        for number in range(3):
            caller = Caller()
            stack.callback(caller.close)
            (group / "cgroup.procs").write_text(str(caller.pid))
            caller.tell(files=[[kinds.get(kind, kind), str(paths.get(kind, ""))] for kind in FILES])
            if number:
                caller.unshare(NEW_NAMESPACES if number == 1 else NEW_USER, fork=number == 1)
            callers.append(caller)
        yield Crowd(callers, [read_facts(caller.pid) for caller in callers], dict(read_host_namespaces()))


def marker_policy() -> Policy:
    """An event for each marker, with its number."""
    arg = Arg(0, ArgType.INT), Arg(1, ArgType.INT)
    chosen = Selector(args=(ArgFilter((0,), Operator.EQUAL, (MARK,)),))
    hook = Hook(HookKind.SYSCALL, (MARKER,), MARKER, arg, (chosen,), SOURCE)
    return Policy(PolicyKind.CLUSTER, "marker", None, (hook,), WorkloadSelector(), SOURCE, "")


class Batch:
    """Policies in force together, and what they should have done so far."""

    def __init__(self, rules: Rules, group: Path, crowd: Crowd, chosen: Sequence[Policy]) -> None:
        self._rules = rules
        self._crowd = crowd
        self._group = group
        needs = needs_of(s for policy in chosen for hook in policy.hooks for s in hook.selectors)
        crowd.know(needs.predicates)
        self.placed = rules.put(rules.resolve([marker_policy(), *chosen]))
        self.marker, *self.policies = self.placed
        # Every eighth policy is about somebody else.
        self.selected = [placed for n, placed in enumerate(self.policies) if n % 8 != 7]
        rules.select(group, [self.marker, *self.selected], [MEANT])
        self.expected: Counter[tuple[int, int, int, bool, str]] = Counter()
        self._marks = 0

    @cached_property
    def rules_by_call(self) -> dict[str, list[Rule]]:
        found: dict[str, list[Rule]] = {}
        for placed in self.selected:
            for number in range(len(placed.hooks)):
                rule = Rule(placed, number)
                found.setdefault(rule.call, []).append(rule)
        return found

    def make(self, made: MadeCall) -> tuple[Done, list[RawEvent]]:
        """The call between two markers, and the events between those."""
        self._marks += 2
        begin, end = (MadeCall(MARKER, (MARK, self._marks + n)) for n in (0, 1))
        done = self._crowd.callers[made.caller].make(begin, made, end)
        events = self._rules.events()
        at = [n for n, event in enumerate(events) if event.policy == self.marker.serial]
        assert len(at) == 2, f"{len(at)} markers"
        return replace(done, results=done.results[1:2]), events[at[0] + 1 : at[1]]

    def check(self, made: MadeCall) -> None:
        process = self._crowd.processes[made.caller]
        done, events = self.make(made)
        seen, verdicts = {}, {}
        for rule in self.rules_by_call.get(made.name, []):
            key = (rule.placed.serial, rule.number)
            facts = self._crowd.facts[made.caller]
            call = observe(rule.point, made, done, facts, process, [MEANT], self._crowd.host)
            seen[key] = call
            verdicts[key] = evaluate(rule.point.hook, call, rule.placed.policy.mode)
        self._compare(made, done, events, seen, verdicts)
        self._count(verdicts)

    def check_end(self, made: MadeCall) -> int:
        """Of a call that a new process makes, the signal that ends it, if any. It has no filters on processes."""
        facts, process = self._crowd.facts[made.caller], self._crowd.processes[made.caller]
        ended, done = self._crowd.callers[made.caller].make_last(made)
        events = self._rules.events()
        verdicts = {}
        for rule in self.rules_by_call.get(made.name, []):
            call = observe(rule.point, made, done, facts, process, [MEANT], self._crowd.host)
            verdicts[rule.placed.serial, rule.number] = evaluate(rule.point.hook, call, rule.placed.policy.mode)
        sent = sent_together(verdict.at_entry for verdict in verdicts.values())
        assert ended == (sent[0] if sent else 0), f"{ended} and not {sent}: {brief(made)}"
        came = Counter((e.policy, e.rule, e.selector, e.return_selector) for e in events)
        assert came == Counter(_expected(key, verdict) for key, verdict in verdicts.items() if verdict.event)
        return ended

    def _compare(
        self,
        made: MadeCall,
        done: Done,
        events: list[RawEvent],
        seen: dict[tuple[int, int], Call],
        verdicts: dict[tuple[int, int], Verdict],
    ) -> None:
        came = Counter((e.policy, e.rule, e.selector, e.return_selector) for e in events)
        meant = Counter(_expected(key, verdict) for key, verdict in verdicts.items() if verdict.event)
        if came != meant:
            wrong = {(policy, number) for policy, number, *_ in [*(came - meant), *(meant - came)]}
            raise AssertionError(self._explain(made, done, wrong, seen))
        entry = sent_together(verdict.at_entry for verdict in verdicts.values())
        late = sent_together(verdict.at_return for verdict in verdicts.values())
        assert done.signals == tuple(sorted({*entry, *late})), f"signals {done.signals} and not {entry} {late}: {made}"
        for event in events:
            self._compare_values(made, event, seen[event.policy, event.rule])

    def _explain(
        self, made: MadeCall, done: Done, wrong: set[tuple[int, int]], seen: dict[tuple[int, int], Call]
    ) -> str:
        """Rules that the two do not agree on, with what the kernel counts when it is asked again."""
        lines = [f"{brief(made)} gave {brief(done)}"]
        for serial, number in sorted(wrong)[:MAX_SHOWN]:
            placed = self._find(serial)
            hook = placed.hooks[number].hook
            model = evaluate(hook, seen[serial, number], placed.policy.mode)
            lines.append(f"the model: {brief(model)}; the kernel: {self._counted_by_kernel(placed, made)}")
            lines.append(f"    {hook.call} {brief(placed.policy.mode)} args {brief(hook.args)} data {brief(hook.data)}")
            lines += [f"    {n}: {brief(selector)}" for n, selector in enumerate(hook.selectors)]
            lines.append(f"    seen {brief(seen[serial, number])}")
        return "\n".join(lines)

    def _counted_by_kernel(self, placed: PlacedPolicy, made: MadeCall) -> dict[tuple[int, int, bool], Counter[str]]:
        before = self._rules.state.selector_counts(placed)
        self.make(made)
        after = self._rules.state.selector_counts(placed)
        return {key: found for key in after if (found := after[key] - before.get(key, Counter()))}

    def _find(self, serial: int) -> PlacedPolicy:
        return next(placed for placed in self.placed if placed.serial == serial)

    def _compare_values(self, made: MadeCall, event: RawEvent, call: Call) -> None:
        """What an event tells is what the call had."""
        placed = self._find(event.policy)
        point = placed.hooks[event.rule]
        pairs = [(*pair, seen) for pair, seen in zip((*point.args, *point.data), (*call.args, *call.data), strict=True)]
        if point.return_value and point.hook.return_arg:
            pairs.append((point.hook.return_arg, point.return_value, call.returned))
        for arg, value, seen in pairs:
            assert value
            item = event.items.get(placed.value_ids[value])
            if item is None and event.is_cut:
                continue
            assert item is not None, f"no {brief(arg)} in the event of {brief(made)}"
            # What is reported and not compared is not waited for.
            late = item.flags & UNREADABLE and any(isinstance(each, Place) and each.cold for each in made.arguments)
            assert late or _is_reported(item, typed(seen, arg.type)), (
                f"{brief(arg)}: {item} of {brief(seen)} in {brief(made)}"
            )

    def _count(self, verdicts: dict[tuple[int, int], Verdict]) -> None:
        for (serial, number), verdict in verdicts.items():
            hook = self._find(serial).hooks[number].hook
            for outcome, late in ((verdict.at_entry, False), (verdict.at_return, True)):
                if outcome is None:
                    continue
                selector = hook.selectors[outcome.selector]
                actions = selector.return_actions if late else selector.actions
                waits = hook.returns and not late and (bool(hook.return_selectors) or posts(actions))
                for name in _counted(actions, outcome.withheld, waits):
                    self.expected[serial, number, outcome.selector, late, name] += 1
            # Without a list for the return, the entry's selector is what posts there.
            if hook.returns and not hook.return_selectors and verdict.event:
                self.expected[serial, number, verdict.event.selector, False, "post"] += 1

    def check_counters(self) -> None:
        found: Counter[tuple[int, int, int, bool, str]] = Counter()
        for placed in self.policies:
            for (number, selector, late), counts in self._rules.state.selector_counts(placed).items():
                found.update({(placed.serial, number, selector, late, name): n for name, n in counts.items()})
        assert found == self.expected
        counters = ("events_lost", "no_context", "return_lost", "signal_failed")
        assert [self._rules.counter(name) for name in counters] == [0, 0, 0, 0]

    def end(self) -> None:
        self._rules.release(self._group)
        self._rules.remove(self.placed)
        self._rules.events()


def _expected(key: tuple[int, int], verdict: Verdict) -> tuple[int, int, int, int]:
    event = verdict.event
    assert event
    return (*key, event.selector, NO_SELECTOR if event.return_selector is None else event.return_selector)


def _is_reported(item: Item, seen: Seen) -> bool:
    if seen is None:
        return bool(item.flags & UNREADABLE)
    if item.flags & UNREADABLE:
        return False
    if isinstance(seen, int):
        return item.is_number and item.number == seen & (1 << 64) - 1
    return not isinstance(seen, Text) or item.data == seen.data


def _counted(actions: tuple[Action, ...], withheld: tuple[Action, ...], waits: bool) -> Iterator[str]:
    prefix = "monitor_" if withheld else ""
    if any(action.kind is ActionKind.SIGKILL for action in actions):
        yield prefix + "sigkill"
    if any(action.kind is ActionKind.SIGNAL for action in actions):
        yield prefix + "signal"
    if not waits:
        yield "post" if posts(actions) else "nopost"
