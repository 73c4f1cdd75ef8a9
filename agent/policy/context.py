# SPDX-License-Identifier: Apache-2.0
"""What the readers of a policy's parts share: the faults, the lists, the macros, and how much may still be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.policy.document import Mapping as MappingNode
from agent.policy.errors import Problems
from agent.policy.lists import ValueList
from agent.policy.model import Arg, HookKind, PolicyKind, Source

# Filters, values, calls and symbols of a file, lists and macros counted where they are used: a macro of 1,000 values
# in 1,000 selectors is a million. With 8 bytes and a map entry each this is more than a node should hold.
MAX_VALUES = 65_536


class Budget:
    """How many values may still be read from a file."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._left = MAX_VALUES

    def spend(self, source: Source, count: int) -> None:
        """Take some off. Raises PolicyErrors when there are not as many left."""
        self._left -= count
        if self._left < 0:
            what = f"the file has more than {MAX_VALUES} filters, values and calls, lists and macros written out"
            self._problems.stop(source, what, "split it into several files, or shorten the lists")


@dataclass(frozen=True, slots=True)
class Context:
    """What one policy's parts are read with."""

    problems: Problems
    budget: Budget
    kind: PolicyKind
    lists: Mapping[str, ValueList] = field(default_factory=dict)
    macros: Mapping[str, MappingNode] = field(default_factory=dict)
    has_enforcers: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """An entry of `args` or `data`; `arg` is None when it is faulty, `index` then what could be read of it."""

    index: int | None
    arg: Arg | None


def places_by_index(declared: tuple[Declared, ...]) -> dict[int, list[int]]:
    """The places at which each argument of the call is declared, in order."""
    places: dict[int, list[int]] = {}
    for place, each in enumerate(declared):
        if each.index is not None:
            places.setdefault(each.index, []).append(place)
    return places


@dataclass(frozen=True, slots=True)
class HookShape:
    """What the selectors of a hook may refer to. noun: the hook with its article, for messages."""

    kind: HookKind
    noun: str
    calls: tuple[str, ...] = ()
    args: tuple[Declared, ...] = ()
    data: tuple[Declared, ...] = ()
    returns: bool = False
    return_arg: Arg | None = None
