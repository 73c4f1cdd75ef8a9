# SPDX-License-Identifier: Apache-2.0
"""Header lists as bytes: written without compression, read with all of HPACK (RFC 7541)."""

from __future__ import annotations

from collections.abc import Iterable

import hpack

from agent.cri.errors import CriProtocolError

# Of one list, and what SETTINGS_MAX_HEADER_LIST_SIZE tells the peer: a status message is some hundred bytes, and
# containerd may put a whole error chain into it.
MAX_HEADER_LIST = 64 << 10
_PREFIX_LIMIT = 127


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block of literal fields that enter no table (RFC 7541, section 6.2.2)."""
    return b"".join(b"\0" + _encode_string(name) + _encode_string(value) for name, value in fields)


def _encode_string(text: str) -> bytes:
    """Section 5.2, without Huffman coding."""
    raw = text.encode("ascii")
    return _encode_length(len(raw)) + raw


def _encode_length(length: int) -> bytes:
    """Section 5.1, with a prefix of seven bits."""
    if length < _PREFIX_LIMIT:
        return bytes((length,))
    out, rest = bytearray((_PREFIX_LIMIT,)), length - _PREFIX_LIMIT
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class HeaderDecoder:
    """Reads the header blocks of one connection, every one and in order: they share a table."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_HEADER_LIST)

    def decode(self, block: bytes) -> dict[str, str]:
        """The fields by name, of several with one name the last. CriProtocolError: the table is lost with it."""
        try:
            return {_text(name): _text(value) for name, value in self._decoder.decode(block, raw=True)}
        except hpack.OversizedHeaderListError as error:
            raise CriProtocolError(f"headers of more than {MAX_HEADER_LIST} bytes") from error
        except hpack.HPACKError as error:
            # Its text may hold the whole block.
            raise CriProtocolError(f"a header block that is not HPACK: {type(error).__name__}") from error


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
