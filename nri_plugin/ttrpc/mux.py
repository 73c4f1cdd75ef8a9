# SPDX-License-Identifier: Apache-2.0
"""NRI's multiplexer: several byte streams over one socket, in frames of u32 connection id, u32 length, payload.

Source: containerd/nri pkg/net/multiplex. A frame's cut means nothing to the stream within, so payload is handed on as
it comes and no announced length is ever allocated.
"""

import struct

from nri_plugin.ttrpc.errors import RemoteProtocolError
from nri_plugin.ttrpc.frame import HEADER_LENGTH, MAX_MESSAGE

_HEADER = struct.Struct(">II")
# The Go side reads a message's start through a buffer of 4,096 bytes and drops the connection (ENOMEM) if the frame
# does not fit; it queues 256 frames, so much smaller frames would overflow it.
SEND_PAYLOAD = 4096
# The Go side writes one ttrpc message in one frame at most. A larger announcement means that framing is lost.
MAX_MUX_PAYLOAD = HEADER_LENGTH + MAX_MESSAGE

# The two connections that NRI opens: on the first the runtime is the client, on the second the plugin is.
PLUGIN_CONNECTION = 1
RUNTIME_CONNECTION = 2


def mux_frames(conn_id: int, data: bytes) -> bytes:
    """`data` as frames of connection `conn_id`, of SEND_PAYLOAD bytes each but the last."""
    frames = []
    for start in range(0, len(data), SEND_PAYLOAD):
        payload = data[start : start + SEND_PAYLOAD]
        frames += [_HEADER.pack(conn_id, len(payload)), payload]
    return b"".join(frames)


class MuxReader:
    """Bytes in, (connection id, payload bytes) out. Stores at most one header besides the current call's bytes."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._conn_id = 0
        self._left = 0

    def receive_data(self, data: bytes) -> list[tuple[int, bytes]]:
        """The pieces of payload in `data`, in order and never empty; RemoteProtocolError for an absurd length."""
        pieces: list[tuple[int, bytes]] = []
        offset = 0
        while offset < len(data):
            if self._left:
                piece = data[offset : offset + self._left]
                pieces.append((self._conn_id, piece))
                self._left -= len(piece)
                offset += len(piece)
            else:
                offset += self._read_header(data, offset)
        return pieces

    def _read_header(self, data: bytes, offset: int) -> int:
        """Take what `data` holds of the header, and open its frame once it is whole; how many bytes were taken."""
        part = data[offset : offset + _HEADER.size - len(self._header)]
        self._header += part
        if len(self._header) == _HEADER.size:
            self._conn_id, self._left = _HEADER.unpack(self._header)
            self._header.clear()
            if self._left > MAX_MUX_PAYLOAD:
                raise RemoteProtocolError(f"a mux frame of {self._left} bytes announced, limit {MAX_MUX_PAYLOAD}")
        return len(part)
