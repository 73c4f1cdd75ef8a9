# SPDX-License-Identifier: Apache-2.0
"""Connecting to a unix stream socket within a time limit."""

import math
import socket
import struct

_TIMEVAL = struct.Struct("ll")


def open_unix(path: str, timeout_s: float) -> socket.socket:
    """A connected stream socket. OSError for no socket, nobody listening, or (TimeoutError) a full accept queue.

    A non-blocking connect to a full queue fails at once with EAGAIN, so the wait is the kernel's own: SO_SNDTIMEO
    bounds unix_stream_connect.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Zero would mean for ever.
        microseconds = max(1, math.ceil(timeout_s * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(*divmod(microseconds, 1_000_000)))
        sock.connect(path)
    except BlockingIOError as error:
        sock.close()
        raise TimeoutError("the listener does not accept") from error
    except OSError:
        sock.close()
        raise
    return sock
