# SPDX-License-Identifier: Apache-2.0
"""One connection to the runtime without IO: the mux, and on it the server that it calls and the client that registers.

Configure may arrive before RegisterPlugin's answer (seen on containerd 1.7), so both connections are read together and
nothing waits.
"""

from nri_plugin.api import nri_pb2
from nri_plugin.handlers import RUNTIME_SERVICE
from nri_plugin.ttrpc import (
    PLUGIN_CONNECTION,
    RUNTIME_CONNECTION,
    ClientConnection,
    Code,
    MuxReader,
    RemoteProtocolError,
    Request,
    ServerConnection,
    mux_frames,
)


class NriSession:
    """Bytes in, requests out. After RemoteProtocolError or RemoteError it must be dropped."""

    def __init__(self) -> None:
        self._mux = MuxReader()
        self._server = ServerConnection()
        self._client = ClientConnection()

    def register(self, name: str, index: str) -> bytes:
        """The bytes of RegisterPlugin: the first thing to send."""
        message = nri_pb2.RegisterPluginRequest(plugin_name=name, plugin_idx=index)
        _, frame = self._client.request(RUNTIME_SERVICE, "RegisterPlugin", message.SerializeToString())
        return mux_frames(RUNTIME_CONNECTION, frame)

    def receive_data(self, data: bytes) -> list[Request]:
        """The runtime's requests that `data` completes. RemoteError if it refused the registration."""
        requests: list[Request] = []
        for conn_id, piece in self._mux.receive_data(data):
            if conn_id == PLUGIN_CONNECTION:
                requests += self._server.receive_data(piece)
            elif conn_id == RUNTIME_CONNECTION:
                self._receive_answer(piece)
            else:
                raise RemoteProtocolError(f"unknown mux connection {conn_id}")
        return requests

    def data_to_send(self) -> bytes:
        """Answers to requests that never reached the caller; send them after each `receive_data`."""
        return mux_frames(PLUGIN_CONNECTION, self._server.data_to_send())

    def respond(self, stream_id: int, payload: bytes) -> bytes:
        """The bytes that answer a request."""
        return mux_frames(PLUGIN_CONNECTION, self._server.respond(stream_id, payload))

    def respond_error(self, stream_id: int, code: Code, message: str) -> bytes:
        """The bytes that answer a request with an error."""
        return mux_frames(PLUGIN_CONNECTION, self._server.respond_error(stream_id, code, message))

    def _receive_answer(self, piece: bytes) -> None:
        for response in self._client.receive_data(piece):
            response.result()
