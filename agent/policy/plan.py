# SPDX-License-Identifier: Apache-2.0
"""From resolved policies to the plan of each hook point: all rules of all policies on it, in programs that fit.

A rule is one hook of one policy at one hook point. What rules compare or report is a value; a program reads each of
its values at most once for a call, whatever the number of rules that look at it. Rules that do not fit into one program
go on in further ones, *chunks*, which tail-call each other; each chunk has its own values.

What bounds a chunk is the verifier: it walks every path through the program and gives up after a million instructions,
and a jump reaches 32,767. Nobody can tell beforehand what a program comes to, so rules have a weight, and a plan whose
programs are refused is made anew with lighter ones (`halve`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.policy.access import OVERRIDING, TWO_SIDED, VERDICTS, HookPoint, Input, InputKind, Memory, PointKind, Value
from agent.policy.model import (
    ArgType,
    Policy,
)
from agent.policy.placed import PlacedPolicy, Rule
from agent.policy.sockets import CLOSES, changes_owners, owned_values, tracks

MAX_CHUNKS = 31  # the kernel allows 33 tail calls in a row, one of them the dispatcher's
MAX_RULES = 64  # of a chunk: PG_MAX_HITS, and the bits of a word
MAX_VALUES = 64  # of a chunk: the bits of a word
MAX_TEXTS = 12  # PG_TEXTS of bpf/maps/strings.h
MAX_NUMBERS = 40  # PG_NUMBERS of bpf/maps/call.h
MAX_INPUTS = 12  # PG_INPUTS
SYSCALL_ARGS = 6
BPF_COMMAND = Input(InputKind.ARGUMENT, 0)  # of bpf(2) and what it calls with its attributes
MAX_WEIGHT = 6000  # of a chunk: some 20,000 instructions
EXEC_CALLS = frozenset({"execve", "execveat"})


class PlanError(Exception):
    """The policies of one hook point cannot be compiled together."""

    def __init__(self, point: str, reason: str) -> None:
        super().__init__(point, reason)
        self.point = point
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.point}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rules of one program. inputs: what is kept of the context, in order. values: each distinct one, in order;
    numbers and texts: the places of those that are stored, by value.
    """

    rules: tuple[Rule, ...]
    inputs: tuple[Input, ...]
    values: tuple[Value, ...]
    numbers: Mapping[Value, int]
    texts: Mapping[Value, int]

    def mask(self, values: Iterable[Value]) -> int:
        """Bit n for value n."""
        wanted = set(values)
        return sum(1 << n for n, value in enumerate(self.values) if value in wanted)

    @property
    def sockets(self) -> tuple[Value, ...]:
        """The rules are asked of the owner of the first of these that is tracked."""
        return self.rules[0].sockets if self.rules else ()

    @property
    def words(self) -> dict[int, int]:
        """Word of the bindings' bits -> the bits of the rules' policies in it."""
        masks: dict[int, int] = defaultdict(int)
        for rule in self.rules:
            masks[rule.placed.bit // 64] |= 1 << (rule.placed.bit % 64)
        return dict(sorted(masks.items()))

    @property
    def workload_words(self) -> frozenset[int]:
        """Words with bits of selectors' matchWorkloads."""
        bits = (bit for rule in self.rules for bit in rule.placed.workload_bits.values())
        return frozenset(bit // 64 for bit in bits)


@dataclass(frozen=True, slots=True)
class PointPlan:
    """All rules of one hook point, and its programs. enforced: it is a call that NotifyEnforcer acts on. forgets: a
    socket that is closed there has no owner any more.
    """

    point: HookPoint
    rules: tuple[Rule, ...]
    chunks: tuple[Chunk, ...]
    enforced: bool = False
    max_weight: int = MAX_WEIGHT
    forgets: bool = False

    @property
    def is_exec(self) -> bool:
        return self.point.is_syscall and self.point.name in EXEC_CALLS

    @property
    def words(self) -> dict[int, int]:
        """Of all chunks."""
        masks: dict[int, int] = defaultdict(int)
        for chunk in self.chunks:
            for word, mask in chunk.words.items():
                masks[word] |= mask
        return dict(sorted(masks.items()))

    @property
    def asks_owners(self) -> bool:
        """Whether rules are asked of the owners of sockets."""
        return any(rule.sockets for rule in self.rules)

    @property
    def deals_with_sockets(self) -> bool:
        """Whether any program needs to know of their owners, or changes them."""
        return self.asks_owners or self.forgets or any(map(changes_owners, (rule.hook for rule in self.rules)))

    @property
    def shares_inputs(self) -> bool:
        """Whether all chunks have the same inputs: where a call has a return, they are kept until then."""
        return self.point.kind in TWO_SIDED

    @property
    def may_defer(self) -> bool:
        """Whether an argument may be unreadable at the entry, so that the exit has to be watched too."""
        return self.point.is_syscall and any(can_fault(value) for rule in self.rules for value in rule.compared)

    @property
    def overriding_words(self) -> dict[int, int]:
        """Of the policies for whose sake a call may not be made: word of the bindings' bits -> their bits in it. Where
        programs can be interrupted, those that only send signals are among them: a call that cannot be checked then
        is not made.
        """
        masks: dict[int, int] = defaultdict(int)
        for rule in self.rules if self.point.kind in OVERRIDING else ():
            if rule.overrides or (self.point.kind in VERDICTS and rule.enforces):
                masks[rule.placed.bit // 64] |= 1 << (rule.placed.bit % 64)
        return dict(sorted(masks.items()))

    @property
    def overrides(self) -> bool:
        """Whether any rule may keep a call from being made."""
        return bool(self.overriding_words)

    @property
    def has_return(self) -> bool:
        """Whether a program at the return is needed."""
        return self.may_defer or any(rule.returns for rule in self.rules) or self.enforced

    def halve(self) -> PointPlan:
        """The same rules in lighter programs. Raises PlanError when one rule alone is too heavy."""
        heaviest = max((sum(rule.weight for rule in chunk.rules) for chunk in self.chunks), default=0)
        if all(len(chunk.rules) < 2 for chunk in self.chunks):
            raise PlanError(str_point(self.point), "one hook is too large for a program: use fewer or shorter values")
        lighter = max(min(heaviest, self.max_weight) // 2, 1)
        return make_plan(self.point, self.rules, self.enforced, lighter, forgets=self.forgets)


def can_fault(value: Value) -> bool:
    """Whether reading it needs the process's memory."""
    from_user = value.memory is not Memory.KERNEL and not (value.type.is_number or value.type is ArgType.FD)
    reads = (read for read in (value.read, value.length) if read)
    return from_user or any(read.memory is Memory.USER and not read.is_direct for read in reads)


def str_point(point: HookPoint) -> str:
    """For people: `openat`, `sched/sched_process_exec`, `/bin/bash+0x1234`."""
    return f"{point.name}+{point.offset:#x}" if point.kind in (PointKind.UPROBE, PointKind.USDT) else point.name


def hook_points(placed: PlacedPolicy) -> frozenset[HookPoint]:
    """Where a policy has rules, where it enforces, and where sockets that it tracks are closed."""
    points = frozenset(hook.point for hook in placed.hooks) | enforced_points(placed.policy)
    return points | {CLOSES} if tracks(placed.policy) else points


def changed_points(changed: Iterable[PlacedPolicy], others: Iterable[PlacedPolicy]) -> frozenset[HookPoint]:
    """Whose rules are others when policies come or go: with those that track sockets also hook points of other policies
    that look at sockets.
    """
    found = list(changed)
    points = frozenset().union(*map(hook_points, found))
    if not any(tracks(each.policy) for each in found):
        return points
    return points | {hook.point for each in others for hook in each.hooks if owned_values(hook)}


def enforced_points(policy: Policy) -> frozenset[HookPoint]:
    """The calls that NotifyEnforcer of a policy acts on."""
    return frozenset(HookPoint(PointKind.SYSCALL, name) for name in policy.enforcers)


def plan_hooks(policies: Iterable[PlacedPolicy], points: Iterable[HookPoint]) -> dict[HookPoint, PointPlan]:
    """The plans of the hook points named; one that no policy hooks has no entry. Raises PlanError."""
    wanted = frozenset(points)
    rules: dict[HookPoint, list[Rule]] = defaultdict(list)
    enforced: set[HookPoint] = set()
    ordered = sorted(policies, key=lambda p: p.serial)
    tracking = any(tracks(placed.policy) for placed in ordered)
    for placed in ordered:
        enforced |= enforced_points(placed.policy) & wanted
        for number, hook in enumerate(placed.hooks):
            if hook.point in wanted:
                rules[hook.point].append(Rule(placed, number, hook, owned_values(hook) if tracking else ()))
    forgets = {CLOSES} & wanted if tracking else set()
    found = sorted(set(rules) | enforced | forgets, key=lambda point: point.sort_key)
    return {
        point: make_plan(point, _in_company(point, rules[point]), point in enforced, forgets=point in forgets)
        for point in found
    }


def _in_company(point: HookPoint, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Those of the process that runs first, then those of the same sockets together: a program is asked of one process.
    Of each, those first that never have to wait for a call's exit. The order of each of these groups stays.
    """
    groups: dict[tuple[Value, ...], list[Rule]] = {(): []}
    for rule in rules:
        groups.setdefault(rule.sockets, []).append(rule)
    return tuple(
        rule
        for group in groups.values()
        for waits in (False, True)
        for rule in group
        if _company(point, rule)[1] is waits
    )


def _company(point: HookPoint, rule: Rule) -> tuple[tuple[Value, ...], bool]:
    """What the rules of one program have in common. A program that cannot read what one of its rules compares is run
    again at the exit: where calls can be kept from being made, the others must not come too late for that.
    """
    waits = point.kind is PointKind.SYSCALL_OVERRIDE and any(map(can_fault, rule.compared))
    return rule.sockets, waits


def make_plan(
    point: HookPoint,
    rules: tuple[Rule, ...],
    enforced: bool = False,
    max_weight: int = MAX_WEIGHT,
    forgets: bool = False,
) -> PointPlan:
    """Raises PlanError when the rules need too many programs, or one of them more than a program has."""
    chunks = [builder.build() for builder in _fill(point, rules, max_weight)]
    if len(chunks) > MAX_CHUNKS:
        reason = f"{len(rules)} rules need {len(chunks)} programs, at most {MAX_CHUNKS} can follow each other"
        raise PlanError(str_point(point), reason)
    return PointPlan(point, rules, tuple(chunks), enforced, max_weight, forgets)


def _fill(point: HookPoint, rules: tuple[Rule, ...], max_weight: int) -> list[_Builder]:
    builders = [_Builder(point)]
    for rule in rules:
        if not builders[-1].add(rule, max_weight):
            builders.append(_Builder(point))
            if point.kind in TWO_SIDED:
                builders[-1].inputs = builders[-2].inputs
            if not builders[-1].add(rule, max_weight):
                raise PlanError(str_point(point), f"a hook of policy {rule.placed.policy.key} {_too_many(rule)}")
    return builders


def _too_many(rule: Rule) -> str:
    return (
        f"has {len(set(_values(rule)))} values: a program has room for {MAX_VALUES}, of them {MAX_TEXTS} texts and "
        f"{MAX_NUMBERS} numbers from memory, from {MAX_INPUTS} arguments or registers"
    )


def _values(rule: Rule) -> tuple[Value, ...]:
    return tuple(dict.fromkeys((*rule.compared, *rule.reported, *rule.reported_late)))


def _inputs(value: Value) -> Iterator[Input]:
    if value.type is ArgType.BPF_ATTR and value.length and value.read.input.kind is InputKind.ARGUMENT:
        yield BPF_COMMAND
    for read in (value.read, value.length):
        for each in (read.input, read.index) if read else ():
            if each and each.kind not in (InputKind.CONSTANT, InputKind.RETURN):
                yield _whole(each)


def _whole(wanted: Input) -> Input:
    """Of an argument the whole register is kept."""
    return Input(InputKind.ARGUMENT, wanted.number) if wanted.kind is InputKind.ARGUMENT else wanted


def input_place(chunk: Chunk, wanted: Input) -> int:
    """Where a chunk keeps an input."""
    return chunk.inputs.index(_whole(wanted))


def is_stored_number(value: Value) -> bool:
    """Whether it is a number that has to be read from memory."""
    return value.type.is_number and not value.read.is_direct


@dataclass(slots=True)
class _Builder:
    point: HookPoint
    rules: list[Rule] = field(default_factory=list)
    inputs: dict[Input, None] = field(default_factory=dict)
    values: dict[Value, None] = field(default_factory=dict)
    weight: int = 0

    def __post_init__(self) -> None:
        if self.point.is_syscall:
            self.inputs = {Input(InputKind.ARGUMENT, number): None for number in range(SYSCALL_ARGS)}

    def add(self, rule: Rule, max_weight: int) -> bool:
        """False when there is no room for it."""
        values = self.values | dict.fromkeys(_values(rule))
        inputs = self.inputs | {each: None for value in _values(rule) for each in _inputs(value)}
        weight = self.weight + rule.weight
        texts = sum(not value.type.is_number for value in values)
        stored = sum(map(is_stored_number, values))
        others = bool(self.rules) and _company(self.point, self.rules[0]) != _company(self.point, rule)
        full = others or len(self.rules) == MAX_RULES or (bool(self.rules) and weight > max_weight)
        if full or len(values) > MAX_VALUES or texts > MAX_TEXTS or stored > MAX_NUMBERS or len(inputs) > MAX_INPUTS:
            return False
        self.rules.append(rule)
        self.values, self.weight = values, weight
        self.inputs |= inputs
        return True

    def build(self) -> Chunk:
        values = tuple(self.values)
        numbers = {value: n for n, value in enumerate(filter(is_stored_number, values))}
        texts = {value: n for n, value in enumerate(v for v in values if not v.type.is_number)}
        return Chunk(tuple(self.rules), tuple(self.inputs), values, numbers, texts)
