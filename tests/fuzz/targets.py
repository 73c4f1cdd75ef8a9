# SPDX-License-Identifier: Apache-2.0
"""Every target by its name: the function, the inputs to begin with, and what an input is made of."""

from __future__ import annotations

from tests.fuzz import seeds
from tests.fuzz.documents import (
    run_annotations,
    run_cgroups_path,
    run_config,
    run_failure_rule,
    run_hooksd,
    run_state,
)
from tests.fuzz.engine import Target
from tests.fuzz.messages import HOOK_METHODS, METHODS, run_hook_protobuf, run_nri
from tests.fuzz.streams import run_http2, run_mux, run_ttrpc, split_http2, split_mux, split_ttrpc
from tests.fuzz.structure import (
    one_of,
    splice_after,
    splice_inside,
    splice_json,
    splice_pieces,
    splice_protobuf,
    split_lines,
    split_words,
)

_NESTED = (b"[" * 3000, b'{"a":' * 3000, b"[[],", b"{}", b'"\\ud800"', b"1e999", b"NaN", b"-0", b"\\u0000", b"9" * 5000)
_METHOD_BYTES = tuple(bytes((number,)) for number in range(len(HOOK_METHODS)))
_RULE_WORDS = tuple(b"default closed open quarantine namespace pattern exempt # * ? \n \r \t \xef\xbb\xbf".split(b" "))
# HPACK: an integer without end, a table size update, an index beyond the tables, a Huffman string of padding.
_HPACK = (b"\x7f\xff\xff\xff\xff\x0f", b"\x3f\xe1\x1f", b"\xff\xff\x7f", b"\x40\x83\xff\xff\xff\x83\xff\xff\xff")


# Keys of one runtime's annotations, to be put among another's.
_KEYS = tuple(f'"{key}":"x",'.encode() for key in seeds.all_keys())
_PATHS = (b"/", b":", b"..", b"../", b"//", b".", b"-", b".slice", b".scope", b"a" * 256, b"\0", b"\n", b"\xff")


def _numbered(methods: tuple[str, ...], calls: list[tuple[str, bytes]]) -> list[bytes]:
    """The method's number, then the payload."""
    return [bytes((methods.index(name),)) + payload for name, payload in calls]


def find_targets() -> dict[str, Target]:
    """Every target by its name."""
    targets = (*_streams(), *_messages(), *_documents())
    return {target.name: target for target in targets}


def _streams() -> tuple[Target, ...]:
    mux = one_of(splice_pieces(split_mux), splice_inside(split_mux, 8, 4, 4, splice_pieces(split_ttrpc)))
    ttrpc = one_of(splice_pieces(split_ttrpc), splice_inside(split_ttrpc, 10, 4, 0, splice_protobuf))
    http2 = one_of(splice_pieces(split_http2), splice_inside(split_http2, 9, 3, 0, splice_pieces(split_lines)))
    return (
        Target("mux", seeds.mux_streams, run_mux, mux),
        Target("ttrpc", lambda: [*seeds.ttrpc_requests(), *seeds.ttrpc_responses()], run_ttrpc, ttrpc),
        Target("http2", seeds.http2_responses, run_http2, http2, _HPACK),
    )


def _messages() -> tuple[Target, ...]:
    protobuf = splice_after(1, splice_protobuf)
    hook, nri = _numbered(HOOK_METHODS, seeds.hook_calls()), _numbered(METHODS, seeds.nri_calls())
    tokens = (*_METHOD_BYTES, *_NESTED)
    return (
        Target("nri", lambda: list(nri), run_nri, protobuf, _METHOD_BYTES),
        Target("hook-protobuf", lambda: list(hook), run_hook_protobuf, protobuf, tokens),
    )


def _documents() -> tuple[Target, ...]:
    words = splice_pieces(split_words)
    return (
        Target("state", seeds.states, run_state, splice_json, _NESTED),
        Target("config", seeds.configs, run_config, splice_json, _NESTED),
        Target("annotations", seeds.annotation_maps, run_annotations, splice_json, (*_NESTED, *_KEYS)),
        Target("hooksd", seeds.hooksd_files, run_hooksd, splice_json, _NESTED),
        Target("failure-rule", seeds.failure_rules, run_failure_rule, splice_pieces(split_lines), _RULE_WORDS),
        Target("cgroups-path", seeds.cgroups_paths, run_cgroups_path, words, _PATHS),
    )
