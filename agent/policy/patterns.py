# SPDX-License-Identifier: Apache-2.0
"""Regular expressions over names, in time that grows with the product of the lengths and no faster.

Theory of operation. The syntax is the part of RE2's that names need: characters, `.`, `[a-z]`, `[^a-z]`, `\\d \\w \\s`
and their opposites, `\\` before punctuation, `( )`, `(?: )`, `|`, `*`, `+`, `?` and `{m,n}` (a `?` behind them changes
nothing here), `^` and `$`. A pattern becomes a list of steps, a non-deterministic automaton, that is run with the set
of all steps it may be at: there is no backtracking. Names are ASCII, so a class is a set of characters.
"""

import string
from dataclasses import dataclass

# Of one pattern; the names of a few calls, written side by side.
MAX_PATTERN = 1024
MAX_STEPS = 1024
_MAX_DEPTH = 32

_ANY = frozenset(map(chr, range(0x20, 0x7F)))
_CLASSES = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
    "s": frozenset(" "),
}


class PatternError(ValueError):
    """What is wrong with a pattern, and at which character of it, from 1."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(position, what)
        self.position = position
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} (character {self.position})"


@dataclass(frozen=True, slots=True)
class _Take:
    """One character out of a set."""

    characters: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Split:
    """Go on at several places, relative to this one."""

    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Edge:
    """Go on at the begin of the name, or at its end."""

    at_end: bool


_Step = _Take | _Split | _Edge
_Steps = tuple[_Step, ...]


class Pattern:
    """A compiled pattern. Sets of steps are integers with a bit for each; what follows on a set is remembered."""

    def __init__(self, text: str) -> None:
        """Raises PatternError."""
        if len(text) > MAX_PATTERN:
            raise PatternError(MAX_PATTERN + 1, f"a pattern has at most {MAX_PATTERN} characters")
        self._steps = _Parser(text).parse()
        self._takers: dict[str, int] = {}
        self._reached: dict[tuple[int, bool, bool], int] = {}
        self._closed: dict[tuple[int, bool, bool], int] = {}

    @property
    def size(self) -> int:
        """The number of steps: the time for a name is its length times this."""
        return len(self._steps)

    def search(self, name: str) -> bool:
        """Whether the pattern matches anywhere in an ASCII name."""
        accepted = 1 << len(self._steps)
        places = 0
        for position, character in enumerate(name):
            places = self._closure(places | 1, position == 0, False)
            if places & accepted:
                return True
            places = (places & self._taking(character)) << 1
        return bool(self._closure(places | 1, not name, True) & accepted)

    def _taking(self, character: str) -> int:
        """The steps that take a character."""
        if character not in self._takers:
            numbers = (
                n for n, step in enumerate(self._steps) if isinstance(step, _Take) and character in step.characters
            )
            self._takers[character] = sum(1 << number for number in numbers)
        return self._takers[character]

    def _closure(self, places: int, at_begin: bool, at_end: bool) -> int:
        """The places and all that are reached from them without taking a character."""
        key = (places, at_begin, at_end)
        if key not in self._closed:
            self._closed[key] = self._close(places, at_begin, at_end)
        return self._closed[key]

    def _close(self, places: int, at_begin: bool, at_end: bool) -> int:
        found, rest = places, places
        while rest:
            lowest = rest & -rest
            rest ^= lowest
            found |= self._reach(lowest.bit_length() - 1, at_begin, at_end)
        return found

    def _reach(self, start: int, at_begin: bool, at_end: bool) -> int:
        key = (start, at_begin, at_end)
        if key not in self._reached:
            found, waiting = {start}, [start]
            while waiting:
                fresh = [target for target in self._targets(waiting.pop(), at_begin, at_end) if target not in found]
                found.update(fresh)
                waiting += fresh
            self._reached[key] = sum(1 << place for place in found)
        return self._reached[key]

    def _targets(self, place: int, at_begin: bool, at_end: bool) -> tuple[int, ...]:
        step = self._steps[place] if place < len(self._steps) else None
        if isinstance(step, _Split):
            return tuple(place + target for target in step.targets)
        if isinstance(step, _Edge) and (at_end if step.at_end else at_begin):
            return (place + 1,)
        return ()


class _Parser:
    """Recursive descent; what it returns are steps that go on behind their last one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> _Steps:
        steps = self._alternatives()
        if self._at < len(self._text):
            self._fail("a ) that nothing opened")
        return steps

    def _fail(self, what: str) -> None:
        raise PatternError(self._at + 1, what)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self, wanted: str) -> str:
        """The next character; `wanted` says what is missing at the end."""
        if self._at == len(self._text):
            self._fail(f"{wanted} is missing")
        self._at += 1
        return self._text[self._at - 1]

    def _accept(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _bounded(self, steps: _Steps) -> _Steps:
        if len(steps) > MAX_STEPS:
            self._fail(f"the pattern has more than {MAX_STEPS} steps, its repetitions written out")
        return steps

    def _alternatives(self) -> _Steps:
        steps = self._sequence()
        while self._accept("|"):
            other = self._sequence()
            # Either the first and a jump over the other, or the other.
            steps = self._bounded((_Split((1, len(steps) + 2)), *steps, _Split((len(other) + 1,)), *other))
        return steps

    def _sequence(self) -> _Steps:
        steps: _Steps = ()
        while self._peek() and self._peek() not in "|)":
            steps = self._bounded(steps + self._repeated())
        return steps

    def _repeated(self) -> _Steps:
        atom = self._atom()
        if not self._repeats():
            return atom
        least, most = self._counts()
        self._accept("?")
        if self._repeats():
            self._fail("a repetition of a repetition")
        return self._repeat(atom, least, most)

    def _repeats(self) -> bool:
        return self._peek() != "" and self._peek() in "*+?{"

    def _counts(self) -> tuple[int, int | None]:
        sign = self._next("a repetition")
        if sign != "{":
            return (1 if sign == "+" else 0), (1 if sign == "?" else None)
        least = self._number()
        most: int | None = least
        if self._accept(","):
            most = None if self._peek() == "}" else self._number()
        if not self._accept("}") or (most is not None and most < least):
            self._fail("a repetition is written {2}, {2,} or {2,5}")
        return least, most

    def _number(self) -> int:
        digits = ""
        while self._peek() and self._peek() in string.digits and len(digits) < 5:
            digits += self._next("a digit")
        if not digits:
            self._fail("a repetition is written {2}, {2,} or {2,5}; write \\{ for the character")
        return int(digits)

    def _repeat(self, atom: _Steps, least: int, most: int | None) -> _Steps:
        length = len(atom)
        if length * max(least, most or 0) > MAX_STEPS:
            self._fail(f"the pattern has more than {MAX_STEPS} steps, its repetitions written out")
        steps = atom * least
        if most is None:
            return self._bounded((*steps, _Split((1, length + 2)), *atom, _Split((-length - 1,))))
        return self._bounded(steps + (_Split((1, length + 1)), *atom) * (most - least))

    def _atom(self) -> _Steps:
        character = self._next("a character")
        if character == "(":
            return self._group()
        if character == "[":
            return (_Take(self._class()),)
        if character in "^$":
            return (_Edge(character == "$"),)
        if character == ".":
            return (_Take(_ANY),)
        if character == "\\":
            return (_Take(self._escape()),)
        if character in "*+?{":
            self._at -= 1
            self._fail(f"nothing to repeat before {character}")
        return (_Take(self._literal(character)),)

    def _literal(self, character: str) -> frozenset[str]:
        if character not in _ANY:
            self._at -= 1
            self._fail("names have no such character")
        return frozenset(character)

    def _group(self) -> _Steps:
        if self._accept("?") and not self._accept(":"):
            self._fail("of the groups with ? only (?: ) is supported")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"groups are nested more than {_MAX_DEPTH} deep")
        steps = self._alternatives()
        if not self._accept(")"):
            self._fail("a ) is missing")
        self._depth -= 1
        return steps

    def _escape(self) -> frozenset[str]:
        character = self._next("the character behind \\")
        if character.lower() in _CLASSES:
            named = _CLASSES[character.lower()]
            return named if character.islower() else _ANY - named
        if character.isalnum():
            self._at -= 1
            self._fail(f"\\{character} is not supported")
        return self._literal(character)

    def _class(self) -> frozenset[str]:
        negated = self._accept("^")
        found: frozenset[str] = frozenset()
        first = True
        while first or self._peek() != "]":
            found |= self._class_item()
            first = False
        self._at += 1
        return _ANY - found if negated else found

    def _class_item(self) -> frozenset[str]:
        low = self._class_character()
        if len(low) > 1 or self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._at += 1
        high = self._class_character()
        first, last = min(low), min(high)
        if len(high) > 1 or first > last:
            self._fail("a range in [ ] goes from a lower character to a higher one")
        return frozenset(map(chr, range(ord(first), ord(last) + 1)))

    def _class_character(self) -> frozenset[str]:
        character = self._next("a ]")
        return self._escape() if character == "\\" else self._literal(character)
