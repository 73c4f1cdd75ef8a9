# SPDX-License-Identifier: Apache-2.0
"""Where the interface may be served: unix sockets, and TCP on the loopback interface alone, since callers are not
authenticated.
"""

from __future__ import annotations

import ipaddress
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.grpc_api.errors import StartError
from rthook.unixsocket import open_unix

MAX_SOCKET_PATH = 107  # sockaddr_un's 108 bytes with the closing NUL
MAX_PORT = 65_535
PROBE_S = 0.5


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A loopback address as text; port 0 is one that the kernel chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:///path`, `unix:/path`, `127.0.0.1:PORT`, `[::1]:PORT` or `localhost:PORT`; ValueError says why not."""
    if text.startswith("unix:"):
        return UnixAddress(_parse_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is neither unix:///PATH nor HOST:PORT")
    return TcpAddress(_parse_host(host), _parse_port(port))


def _parse_path(text: str) -> Path:
    path = text.removeprefix("//")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"unix:{text} names no absolute path of a socket")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"{path} is longer than {MAX_SOCKET_PATH} bytes")
    return Path(path)


def _parse_host(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address") from None
    if not address.is_loopback:
        raise ValueError(f"{text} is not a loopback address: anyone on the network could announce containers")
    return str(address)


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= MAX_PORT):
        raise ValueError(f"{text!r} is no port")
    return int(text)


def clear_socket(path: Path) -> None:
    """Make way for a socket at `path`: its folder is there, and a socket that nobody serves any more is gone.

    StartError for a socket that somebody serves, for another kind of file, and for what the system refuses.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(str(path), error.strerror or str(error)) from error
    if not stat.S_ISSOCK(mode):
        raise StartError(str(path), "there is a file that is no socket")
    if _is_served(path):
        raise StartError(str(path), "somebody serves there already")
    path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    """A full accept queue has a listener too."""
    try:
        open_unix(str(path), PROBE_S).close()
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
