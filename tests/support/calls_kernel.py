# SPDX-License-Identifier: Apache-2.0
"""Policies in force without an agent: what it does between a policy and its programs, for one cgroup."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.events.decoder import RawEvent, parse_event
from agent.events.ring import RingBuffer
from agent.kernel.base import BasePrograms
from agent.kernel.headers import ensure_tree
from agent.kernel.hookpoints import HookPoints, open_hookpoints
from agent.kernel.layout import map_specs
from agent.kernel.lineage import Lineage
from agent.kernel.loader import Loader, LoaderLimits
from agent.kernel.maps import Bindings, Maps, possible_cpus, read_counters, read_errors
from agent.kernel.mounts import ensure_bpffs
from agent.kernel.node_facts import NodeFacts
from agent.kernel.pins import Pins
from agent.kernel.process_scan import read_host_namespaces
from agent.kernel.rule_state import RuleState
from agent.placing import Placer, Resolved
from agent.policy.codegen_text import text_condition
from agent.policy.lineage import LineageNeeds, LineageTable, needs_of
from agent.policy.model import Policy, WorkloadSelector
from agent.policy.placed import PlacedPolicy
from agent.policy.plan import PointPlan, hook_points, plan_hooks
from agent.policy.resolve import resolve_policy
from agent.workload.identity import CgroupId, WorkloadId
from agent.workload.operations import Binding
from tests.support.names import unique_name
from tests.support.points import open_tracefs

RING_BYTES = 8 << 20  # of the events of one call, under all policies of a batch
WORKLOAD = WorkloadId(7)
LIMITS = LoaderLimits(deadline_s=300.0)


class Rules:
    """The kernel's side with policies of ours."""

    def __init__(self, maps: Maps, parts: HookPoints[PointPlan], lineage: Lineage, tracefs: Path) -> None:
        self.maps = maps
        self.state = RuleState(maps)
        self._points = parts
        self._lineage = lineage
        self._tracefs = tracefs
        self._bindings = Bindings(maps)
        self._ring = RingBuffer(maps.fileno("events"), RING_BYTES)

    def resolve(self, policies: Sequence[Policy]) -> list[Resolved]:
        with NodeFacts(self._tracefs) as facts:
            return [Resolved(policy, resolve_policy(policy, facts)) for policy in policies]

    def put(self, resolved: Sequence[Resolved]) -> list[PlacedPolicy]:
        """In force together, in one change; they select nobody yet."""
        hooks = (hook for each in resolved for hook in each.policy.hooks)
        table: LineageTable = self._lineage.change(needs_of(s for hook in hooks for s in hook.selectors))
        placed = Placer(read_host_namespaces()).place(list(resolved), (), table)
        for each in placed:
            self.state.prepare(each)
        points = frozenset().union(*map(hook_points, placed))
        plans = plan_hooks(placed, points)
        self._points.apply({point: plans[point] for point in points})
        return placed

    def select(
        self, cgroup: Path, placed: Sequence[PlacedPolicy], workloads: Collection[WorkloadSelector] = ()
    ) -> None:
        """These policies apply to a cgroup, and of their matchWorkloads those that are given."""
        chosen = [each.bit for each in placed]
        chosen += [bit for each in placed for part, bit in each.workload_bits.items() if part in workloads]
        mask = sum(1 << bit for bit in chosen)
        self._bindings.bind(CgroupId(cgroup.stat().st_ino), Binding(mask, WORKLOAD, True, 0))

    def release(self, cgroup: Path) -> None:
        self._bindings.delete(CgroupId(cgroup.stat().st_ino))

    def remove(self, placed: Sequence[PlacedPolicy]) -> None:
        points = frozenset().union(*map(hook_points, placed))
        self._points.apply(dict.fromkeys(points))
        tables = {number for each in placed for number in (*each.automata.values(), *each.sets.values())}
        self.state.forget(placed, tables)
        self._lineage.change(LineageNeeds())

    def events(self) -> list[RawEvent]:
        """Those that have come, the oldest first."""
        return [parse_event(data) for data in self._ring.read(1 << 20)]

    def counter(self, name: str) -> int:
        return read_counters(self.maps, possible_cpus())[name]

    def errors(self) -> list[tuple[str, int, int]]:
        return read_errors(self.maps)

    def programs(self) -> int:
        """How many there are on all hook points together."""
        return sum(status.programs for status in self._points.describe())

    def close(self) -> None:
        self._ring.close()


@contextmanager
def start_rules(folder: Path) -> Iterator[Rules]:
    """The base programs and no policy. folder: where tracefs may be mounted."""
    ensure_bpffs()
    with ExitStack() as stack:
        tracefs = stack.enter_context(open_tracefs(folder))
        pins = Pins(Path("/sys/fs/bpf") / unique_name("calls"))
        pins.prepare()
        stack.callback(pins.release)
        maps = Maps.create(map_specs(RING_BYTES, 64), pins.maps)
        stack.callback(maps.close)
        Bindings(maps).set_quarantine(0)
        loader = Loader(ensure_tree(), maps.descriptors(), LIMITS)
        base = BasePrograms.attach(loader, pins)
        stack.callback(base.close)
        points = open_hookpoints(loader, maps, tracefs, pins)
        stack.callback(points.close)
        lineage = Lineage(loader, maps, text_condition)
        stack.callback(lineage.close)
        rules = Rules(maps, points, lineage, tracefs)
        stack.callback(rules.close)
        yield rules
