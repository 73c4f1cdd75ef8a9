# SPDX-License-Identifier: Apache-2.0
"""Why a hook could not get its container bound: the caller's failure rule tells the two apart."""

from nri_plugin.ttrpc import Code


class HookError(Exception):
    """Base of this package's errors."""


class AgentUnreachable(HookError):  # noqa: N818 - named as the outcome that it is
    """No answer was had from the agent at `path`: no socket, refused, ended, too late, or not understood."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"agent at {self.path}: {self.reason}"


class AgentRefused(HookError):  # noqa: N818 - as above
    """The agent answered that it will not do it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name
