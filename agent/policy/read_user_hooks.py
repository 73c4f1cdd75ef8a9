# SPDX-License-Identifier: Apache-2.0
"""Nodes to hooks on programs: uprobes and usdts."""

import re

from agent.policy import schemas
from agent.policy.context import Context
from agent.policy.document import Node
from agent.policy.errors import quote
from agent.policy.fields import Fields, open_fields
from agent.policy.model import Hook, HookKind, UprobeTarget
from agent.policy.read_calls import Calls
from agent.policy.read_hooks import Heading, HookBody
from agent.policy.spec_types import MAX_I64
from agent.policy.values import MAX_VALUE_BYTES

# C++ and Rust write some thousand characters; the symbol tables of linkers end here.
MAX_SYMBOL_TEXT = 4096
# A C identifier of <sys/sdt.h>: it becomes an assembler symbol.
_PROBE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}")
_DIGEST = re.compile(
    "sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}|build-id:(?:[0-9a-f]{2}){1,64}"
)
_PLACES = ("symbols", "offsets", "addrs")
_OFFSET = re.compile(r"\+(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})$")


class UserHookReader:
    """Reads the hooks of one policy that stand on programs and libraries."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems
        self._body = HookBody(context)

    def uprobe(self, node: Node, section: str) -> Hook | None:
        """An entry of `uprobes`."""
        fields = open_fields(node, schemas.UPROBE, self._problems)
        if fields is None:
            return None
        target = self._target(fields)
        return self._body.hook(fields, Heading(HookKind.UPROBE, Calls(), target.path, section, target=target))

    def usdt(self, node: Node, section: str) -> Hook | None:
        """An entry of `usdts`."""
        fields = open_fields(node, schemas.USDT, self._problems)
        if fields is None:
            return None
        target = UprobeTarget(self._path(fields, "path", required=True), btf_path=self._path(fields, "btfPath"))
        name = f"{self._probe_name(fields, 'provider')}/{self._probe_name(fields, 'name')}"
        return self._body.hook(fields, Heading(HookKind.USDT, Calls((name,)), name, section, target=target))

    def _target(self, fields: Fields) -> UprobeTarget:
        symbols = self._symbols(fields)
        offsets = tuple(fields.integers("offsets", 0, MAX_I64))
        addresses = tuple(fields.integers("addrs", 0, MAX_I64))
        count = self._check_places(fields)
        counters = tuple(fields.integers("refCtrOffsets", 0, MAX_I64))
        given = len(fields.items("refCtrOffsets"))
        if given and count and given != count:
            what = f"refCtrOffsets has {given} entries for {count} places"
            fields.report("refCtrOffsets", what, "give it one for each place, 0 for none")
        self._context.budget.spend(fields.source, count + given)
        return UprobeTarget(
            self._path(fields, "path", required=True),
            symbols,
            offsets,
            addresses,
            counters,
            self._digests(fields),
            self._ignores_digest(fields),
            self._path(fields, "btfPath"),
        )

    def _check_places(self, fields: Fields) -> int:
        """The number of places; reports unless they are written in exactly one way."""
        given = [name for name in _PLACES if fields.items(name)]
        if len(given) == 1:
            return len(fields.items(given[0]))
        if given:
            what = f"the uprobe has {' and '.join(given)}"
            fields.report(given[1], what, f"use one of {', '.join(_PLACES)}")
        elif not any(fields.node(name) is not None and not fields.is_list(name) for name in _PLACES):
            what = "the uprobe says no place in the file"
            fields.report("path", what, f"give it one of {', '.join(_PLACES)}")
        return 0

    def _symbols(self, fields: Fields) -> tuple[str, ...]:
        scalars = fields.strings("symbols", "a symbol")
        for scalar in scalars:
            name, offset = _split_symbol(scalar.text)
            if not name or len(name) > MAX_SYMBOL_TEXT or not name.isprintable() or " " in name or "+" in name:
                what = f"{quote(scalar.text)} is not a symbol"
                self._problems.report(scalar.source, what, "write a function's name, or one with an offset: main+0x10")
            elif offset > MAX_I64:
                what = f"the offset of {quote(scalar.text)} does not fit a file"
                self._problems.report(scalar.source, what, "write a smaller one")
        return tuple(scalar.text for scalar in scalars)

    def _path(self, fields: Fields, name: str, required: bool = False) -> str:
        scalar = fields.string(name, required)
        if scalar is None or not (scalar.text or required):
            return ""
        text = scalar.text
        if not text.startswith("/") or "\0" in text or "\n" in text:
            what = f"{name} {quote(text)} is not the absolute path of a file"
            self._problems.report(scalar.source, what, "begin it with /")
        elif len(text.encode("utf-8")) > MAX_VALUE_BYTES:
            what = f"{name} is longer than {MAX_VALUE_BYTES} bytes"
            self._problems.report(scalar.source, what, "shorten it")
        return text

    def _probe_name(self, fields: Fields, name: str) -> str:
        scalar = fields.string(name, required=True)
        if scalar is None:
            return ""
        if not _PROBE_NAME.fullmatch(scalar.text):
            what = f"{quote(scalar.text)} is not the {name} of a usdt"
            self._problems.report(scalar.source, what, "write letters, digits and '_'")
        return scalar.text

    def _digests(self, fields: Fields) -> tuple[str, ...]:
        scalars = fields.strings("binaryDigests", "a digest")
        for scalar in scalars:
            if not _DIGEST.fullmatch(scalar.text.lower()):
                what = f"{quote(scalar.text)} is not a digest"
                advice = "write sha1:, sha256:, sha384:, sha512: or build-id: and all hexadecimal digits"
                self._problems.report(scalar.source, what, advice)
        return tuple(scalar.text.lower() for scalar in scalars)

    def _ignores_digest(self, fields: Fields) -> bool:
        node = fields.node("ignore")
        inner = None if node is None else open_fields(node, schemas.UPROBE_IGNORE, self._problems)
        ignores = inner is not None and inner.flag("digestVerificationFailure")
        if ignores and inner is not None and not fields.items("binaryDigests"):
            what = "digestVerificationFailure has no meaning without binaryDigests"
            inner.report("digestVerificationFailure", what, "leave it out")
        return ignores


def _split_symbol(text: str) -> tuple[str, int]:
    """The function's name and the offset in it."""
    found = _OFFSET.search(text)
    if found is None:
        return text, 0
    return text[: found.start()], int(found[1], 16 if found[1][:2] in ("0x", "0X") else 10)
