# SPDX-License-Identifier: Apache-2.0
"""From the plans of hook points to programs in the kernel: compiled and loaded many at a time, and with smaller
programs where the compiler or the verifier gives up on one.

The further programs of a chain are in their slots when `load` returns. Those slots are new, so nothing leads there
before the chain's first program is put into the head of its hook point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from agent.kernel import bpf
from agent.kernel.attach import through
from agent.kernel.errors import LoaderError
from agent.kernel.loader import ProgramForm, ProgramSource
from agent.kernel.point_arrays import PointArrays
from agent.kernel.targets import Targets
from agent.policy.access import HookPoint
from agent.policy.codegen_unit import Placement, ProgramName, Side
from agent.policy.plan import PlanError

# In one request to the loader, unless one chunk alone is more. 100 KB of C took 11 s of its 30 on two busy processors,
# 0.1 ms a byte. A chunk has a program for each side: fewer than its MAX_PROGRAMS.
MAX_TEXT = 100_000
MAX_CHUNKS = 100


class Plan(Protocol):
    """What this needs of a PointPlan. Equal plans are the same programs."""

    @property
    def point(self) -> HookPoint: ...

    @property
    def chunks(self) -> Sequence[object]: ...

    @property
    def has_return(self) -> bool: ...

    def halve(self) -> Self: ...


P = TypeVar("P", bound=Plan)


class Compiler(Protocol[P]):
    """agent/policy/codegen.py."""

    def programs(self, plan: P, placement: Placement, /) -> Sequence[ProgramName]: ...

    def compile_module(self, plans: list[tuple[P, Placement]], chunks: Collection[int] | None = None, /) -> str: ...


class Loads(Protocol):
    """What is used of a Loader."""

    def load(self, source: ProgramSource) -> dict[str, bpf.Fd]: ...


@dataclass(frozen=True, slots=True)
class Loaded(Generic[P]):
    """A plan's programs. heads: the first of each side; the others are in their slots. halvings: how often the plan
    had to be halved.
    """

    plan: P
    placement: Placement
    heads: Mapping[Side, bpf.Fd]
    halvings: int


@dataclass(frozen=True, slots=True)
class Draft(Generic[P]):
    """A plan as it is to be tried, after so many halvings."""

    plan: P
    halvings: int = 0

    def halve(self, error: LoaderError) -> Draft[P]:
        """Smaller programs. Raises PlanError when one rule alone is too large, or the error when it would not help."""
        smaller = self.plan.halve()
        if len(smaller.chunks) <= len(self.plan.chunks):
            raise error
        return Draft(smaller, self.halvings + 1)


def make_draft(plan: P, halvings: int) -> Draft[P]:
    """As small as it had to be the last time, or as small as it gets."""
    draft = Draft(plan)
    for _ in range(halvings):
        try:
            draft = Draft(draft.plan.halve(), draft.halvings + 1)
        except PlanError:
            break
    return draft


Place = Callable[[P], Placement]
Placed = tuple[Draft[P], Placement]


class PointLoader(Generic[P]):
    """arrays: those that `place` has its slots of. targets: the caller releases it."""

    def __init__(self, loader: Loads, compiler: Compiler[P], arrays: PointArrays, targets: Targets) -> None:
        self._loader = loader
        self._compiler = compiler
        self._arrays = arrays
        self._targets = targets

    def load(self, drafts: Sequence[Draft[P]], place: Place[P]) -> dict[HookPoint, Loaded[P]]:
        """place: gives a plan its slots; asked again when the number of its chunks has changed. Raises KernelError,
        LoaderError or PlanError.
        """
        loaded: dict[HookPoint, Loaded[P]] = {}
        for batch in self._batches([(draft, place(draft.plan)) for draft in drafts]):
            loaded |= self._load_batch(batch, place)
        return loaded

    def _batches(self, placed: Sequence[Placed[P]]) -> Iterator[list[Placed[P]]]:
        """At least one in each."""
        batch: list[Placed[P]] = []
        text = chunks = 0
        for draft, placement in placed:
            size = len(self._compiler.compile_module([(draft.plan, placement)]))
            number = len(draft.plan.chunks)
            if batch and (text + size > MAX_TEXT or chunks + number > MAX_CHUNKS):
                yield batch
                batch, text, chunks = [], 0, 0
            batch.append((draft, placement))
            text, chunks = text + size, chunks + number
        if batch:
            yield batch

    def _load_batch(self, placed: Sequence[Placed[P]], place: Place[P]) -> dict[HookPoint, Loaded[P]]:
        drafts = [draft for draft, _ in placed]
        try:
            return self._request(placed)
        except LoaderError as error:
            if not error.too_large:
                if named := self._named(error, placed):
                    raise named from error
                raise
            guilty = self._guilty(error, placed)
            if guilty:
                smaller = [draft.halve(error) if draft.plan.point in guilty else draft for draft in drafts]
                return self.load(smaller, place)
            if len(drafts) == 1:
                raise
        half = len(drafts) // 2
        return self.load(drafts[:half], place) | self.load(drafts[half:], place)

    def _named(self, error: LoaderError, placed: Sequence[Placed[P]]) -> LoaderError | None:
        """With the hook point whose program it was: that says more to people than the program's name."""
        for draft, placement in placed:
            for program in self._compiler.programs(draft.plan, placement):
                if program.name in error.programs:
                    where = through(draft.plan.point, program.side)
                    return LoaderError(error.stage, f"{where}: {error.log}", False, error.programs)
        return None

    def _guilty(self, error: LoaderError, placed: Sequence[Placed[P]]) -> set[HookPoint]:
        """Whose programs were too large; nobody's when it may have been all of them together."""
        if not error.programs:
            return {placed[0][0].plan.point} if len(placed) == 1 and error.stage != "deadline" else set()
        names = set(error.programs)
        return {
            draft.plan.point
            for draft, placement in placed
            if any(program.name in names for program in self._compiler.programs(draft.plan, placement))
        }

    def _request(self, placed: Sequence[Placed[P]]) -> dict[HookPoint, Loaded[P]]:
        programs: dict[str, bpf.Fd] = {}
        with ExitStack() as undo:
            for chunks in self._shares(placed):
                for name, fd in self._load_chunks(placed, chunks).items():
                    undo.callback(fd.close)
                    programs[name] = fd
            undo.pop_all()
        return {draft.plan.point: self._fill(draft, placement, programs) for draft, placement in placed}

    def _shares(self, placed: Sequence[Placed[P]]) -> Sequence[Collection[int] | None]:
        """The chunks of one request after the other, of a plan that is too long for one; None: all of them."""
        (draft, placement), *others = placed
        if others or len(draft.plan.chunks) == 1:
            return [None]
        shares: list[list[int]] = []
        room = 0
        for number in range(len(draft.plan.chunks)):
            size = len(self._compiler.compile_module([(draft.plan, placement)], [number]))
            if not shares or size > room or len(shares[-1]) == MAX_CHUNKS:
                shares.append([])
                room = MAX_TEXT
            shares[-1].append(number)
            room -= size
        return shares if len(shares) > 1 else [None]

    def _load_chunks(self, placed: Sequence[Placed[P]], chunks: Collection[int] | None) -> dict[str, bpf.Fd]:
        forms: dict[str, ProgramForm] = {}
        maps: dict[str, int] = {}
        for draft, placement in placed:
            maps |= self._arrays.descriptors(placement.attachment)
            for program in self._compiler.programs(draft.plan, placement):
                if chunks is None or program.chunk in chunks:
                    forms[program.name] = self._targets.form(draft.plan.point, program.side)
        text = self._compiler.compile_module([(draft.plan, placement) for draft, placement in placed], chunks)
        return self._loader.load(ProgramSource(text, forms, maps))

    def _fill(self, draft: Draft[P], placement: Placement, programs: Mapping[str, bpf.Fd]) -> Loaded[P]:
        """Its further programs into their slots, which hold them from now on."""
        heads: dict[Side, bpf.Fd] = {}
        for program in self._compiler.programs(draft.plan, placement):
            if program.chunk == 0:
                heads[program.side] = programs[program.name]
                continue
            array = self._arrays.of(draft.plan.point, placement.attachment, program.side)
            with programs[program.name] as fd:
                array.put(_slots(placement, program.side)[program.chunk], fd)
        return Loaded(draft.plan, placement, heads, draft.halvings)


def _slots(placement: Placement, side: Side) -> tuple[int, ...]:
    return placement.enter_slots if side is Side.ENTER else placement.exit_slots
