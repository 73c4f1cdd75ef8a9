# SPDX-License-Identifier: Apache-2.0
"""2,000 mutated policies: each is read or refused, in bounded time, and never anything else.

The mutations are drawn with a fixed seed, so that a failure comes back.
"""

import copy
import random
import time
from pathlib import Path
from typing import Any

import yaml

from agent.policy.document import MAX_DEPTH
from agent.policy.errors import PolicyErrors
from agent.policy.model import Policy
from agent.policy.reader import parse_policies

_GOOD = Path(__file__).parent.parent / "data" / "policies" / "good"
_DOCUMENTS: list[Any] = [
    document
    for path in sorted(_GOOD.glob("*.yaml"))
    for document in yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader)
    if document is not None
]
_COUNT = 2000
_MAX_SECONDS_EACH = 2
_SEED = 20_260_417

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 1.5, float("inf"), float("nan")),
    *("", "a", "0", "-1", "list:", "list:dups", "1:2", "list:a" * 40, "a\0b", "\ud7ff\U0001f600", "'\";`$(id)`", "{}"),
    *("%s%n", "*/ int x; /*", '"; drop', "../../etc", "\\n", "x" * 5000, "arg0 == 1", "(" * 100, "[a-", "(a*)*", "é"),
    *([], {}, [[]], [{}], {"a": None}, [None], ["a", 1], {"matchLabels": {}}, list(range(300))),
)


class _Mutator:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self) -> bytes:
        """A mutated policy."""
        document = copy.deepcopy(self._random.choice(_DOCUMENTS))
        for _ in range(self._random.randint(1, 4)):
            self._change(document)
        text = yaml.dump(document, Dumper=_Dumper, allow_unicode=True, default_flow_style=self._random.random() < 0.3)
        return self._damage(text.encode())

    def _change(self, document: Any) -> None:
        places = _places(document)
        if not places:
            return
        holder, key = self._random.choice(places)
        change = self._random.choice((_drop, _rename, self._swap, self._replace, self._replace, _nest, _repeat))
        change(holder, key)

    def _replace(self, holder: Any, key: Any) -> None:
        holder[key] = copy.deepcopy(self._random.choice(_VALUES))

    def _swap(self, holder: Any, key: Any) -> None:
        """Put the value of one place into another one."""
        other = self._random.choice(_places(self._random.choice(_DOCUMENTS)))
        holder[key] = copy.deepcopy(other[0][other[1]])

    def _damage(self, text: bytes) -> bytes:
        kind = self._random.randrange(12)
        at = self._random.randrange(len(text) + 1)
        if kind == 0:
            return (
                text[:at]
                + self._random.choice((b"&a ", b"*a ", b"!!x ", b"\t", b"{", b"]", b"\xff", b"\0"))
                + text[at:]
            )
        if kind == 1:
            return b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(50)) + text
        if kind == 2:
            return text[:at]
        return text


class _Dumper(yaml.CSafeDumper):
    """Writes values again instead of aliases."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every value below a node, as what holds it and under which key."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *_places(node[key]))]


def _drop(holder: Any, key: Any) -> None:
    del holder[key]


def _rename(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)


def _nest(holder: Any, key: Any) -> None:
    for _ in range(MAX_DEPTH + 1 if len(str(key)) % 2 else 1):
        holder[key] = [holder[key]]


def _repeat(holder: Any, key: Any) -> None:
    if isinstance(holder[key], list):
        holder[key] = holder[key] * 40


def _read(text: bytes) -> tuple[Policy, ...]:
    start = time.process_time()
    try:
        return parse_policies(text, "f")
    except PolicyErrors as caught:
        for error in caught.errors:
            assert error.what
            assert error.advice
            assert str(error).isprintable(), str(error)
        return ()
    finally:
        assert time.process_time() - start < _MAX_SECONDS_EACH, text[:2000]


def test_mutated_policies_are_read_or_refused() -> None:
    mutator = _Mutator(_SEED)
    accepted = 0
    for _ in range(_COUNT):
        policies = _read(mutator.text())
        accepted += bool(policies)
        assert all(hook.selectors for policy in policies for hook in policy.hooks)
    # Both must happen often, or the mutations test nothing.
    assert _COUNT // 20 < accepted < _COUNT * 19 // 20
