# SPDX-License-Identifier: Apache-2.0
"""grpc's server on our addresses, within our limits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from agent.grpc_api.addresses import Address, TcpAddress, UnixAddress, clear_socket
from agent.grpc_api.errors import StartError
from agent.grpc_api.service import RuntimeHookService

# Containers that start at once; each call waits for the agent, which answers in a millisecond or not at all.
WORKERS = 8
# Beyond it a call is refused at once (RESOURCE_EXHAUSTED). With an agent that hangs the last of them waits four rounds
# of WORKERS calls: less than the 10 s that hooks of the public interface give us.
MAX_CALLS = 4 * WORKERS
# Of annotations an object of Kubernetes has 256 KiB at most (TotalAnnotationSizeLimitB); the rest is for mounts.
MAX_MESSAGE = 1 << 20
SOCKET_UMASK = 0o177  # of the socket only its owner's right to connect is left
GRACE_S = 0.5

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", MAX_CALLS),
    # A second process on the same port would get half of the calls.
    ("grpc.so_reuseport", 0),
)


class GrpcServer:
    """Serves from `start` to `stop`."""

    def __init__(self, service: RuntimeHookService) -> None:
        self._service = service
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="hook")
        self._server = grpc.server(
            pool, handlers=[service.handlers()], options=OPTIONS, maximum_concurrent_rpcs=MAX_CALLS
        )

    def start(self, addresses: Sequence[Address]) -> list[Address]:
        """The addresses as they are, with the ports that the kernel chose. StartError: nothing is served."""
        bound = [self._bind(address) for address in addresses]
        self._server.start()
        return bound

    def _bind(self, address: Address) -> Address:
        if isinstance(address, UnixAddress):
            clear_socket(address.path)
        before = os.umask(SOCKET_UMASK)
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise StartError(str(address), "cannot be bound: in use, or not ours to use") from error
        finally:
            os.umask(before)
        return TcpAddress(address.host, port) if isinstance(address, TcpAddress) else address

    def stop(self) -> None:
        """Calls in flight have GRACE_S seconds; then sockets and connections are gone."""
        self._server.stop(GRACE_S).wait()
        self._service.close()
