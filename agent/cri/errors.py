# SPDX-License-Identifier: Apache-2.0
"""Why the runtime could not be asked."""

from __future__ import annotations

from nri_plugin.ttrpc import Code


class CriError(Exception):
    """Base of this package's errors."""


class CriUnreachable(CriError):  # noqa: N818 - named as the outcome that it is
    """No answer was had from the runtime at `path`: no socket, nobody listening, the connection ended, or too late."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"runtime at {self.path}: {self.reason}"


class CriRefused(CriError):  # noqa: N818 - as above
    """The runtime answered `method` with a gRPC status other than OK."""

    def __init__(self, method: str, code: Code, message: str) -> None:
        super().__init__(method, code, message)
        self.method = method
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.method}: {self.code.name}" + (f": {self.message}" if self.message else "")


class CriProtocolError(CriError):
    """What came breaks HTTP/2, gRPC or the CRI, or is above a limit of ours. The connection is not used again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not understood: {self.reason}"
