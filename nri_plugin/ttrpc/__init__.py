# SPDX-License-Identifier: Apache-2.0
"""ttrpc without IO: what containerd's NRI and the agent's hook socket speak.

Theory of operation
    A socket's bytes go into `receive_data` of a connection, values come out; each method that says something returns
    the bytes to send. The package owns no socket, clock or thread, so a caller may poll, block or replay a file.

    NRI    socket - MuxReader  - 1: ServerConnection (the runtime calls the plugin)
                               - 2: ClientConnection (the plugin calls the runtime)
    agent  socket - ServerConnection or ClientConnection, without a mux

    FrameReader cuts a stream into frames, `message` gives a frame's payload its meaning, a connection keeps the
    streams: one request and one response each.

Rules
    - A client's stream ids are odd, rise by two and are never used again; a server refuses any other order.
    - Streaming is unsupported: a request that announces data frames is answered UNIMPLEMENTED, a data frame is a
      RemoteProtocolError, and so is an answer to a stream that is not waiting.
    - A message above MAX_MESSAGE is never stored. Its payload is skipped as it comes and its stream alone fails, with
      RESOURCE_EXHAUSTED; above MAX_SKIP framing is taken for lost: RemoteProtocolError.
    - A request whose envelope cannot be read is answered INVALID_ARGUMENT: framing is intact.
    - At most MAX_OPEN_STREAMS requests are open in either direction; one more is answered RESOURCE_EXHAUSTED by a
      server and refused with LocalProtocolError by a client.
    - What a server answers by itself waits in `ServerConnection.data_to_send`.
    - After RemoteProtocolError a connection must be dropped; `ClientConnection.close` names the streams that failed.
"""

from nri_plugin.ttrpc.connection import MAX_OPEN_STREAMS, MAX_STREAM_ID, ClientConnection, ServerConnection
from nri_plugin.ttrpc.errors import (
    Code,
    LocalProtocolError,
    ProtocolError,
    RemoteError,
    RemoteProtocolError,
    TtrpcError,
)
from nri_plugin.ttrpc.frame import MAX_MESSAGE, MAX_SKIP, Frame, FrameReader, MessageType, write_frame
from nri_plugin.ttrpc.message import Request, Response
from nri_plugin.ttrpc.mux import (
    MAX_MUX_PAYLOAD,
    PLUGIN_CONNECTION,
    RUNTIME_CONNECTION,
    SEND_PAYLOAD,
    MuxReader,
    mux_frames,
)

__all__ = [
    "MAX_MESSAGE",
    "MAX_MUX_PAYLOAD",
    "MAX_OPEN_STREAMS",
    "MAX_SKIP",
    "MAX_STREAM_ID",
    "PLUGIN_CONNECTION",
    "RUNTIME_CONNECTION",
    "SEND_PAYLOAD",
    "ClientConnection",
    "Code",
    "Frame",
    "FrameReader",
    "LocalProtocolError",
    "MessageType",
    "MuxReader",
    "ProtocolError",
    "RemoteError",
    "RemoteProtocolError",
    "Request",
    "Response",
    "ServerConnection",
    "TtrpcError",
    "mux_frames",
    "write_frame",
]
