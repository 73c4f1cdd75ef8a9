# SPDX-License-Identifier: Apache-2.0
"""What keeps the interface from being served, and what is wrong with a request."""

from __future__ import annotations


class GrpcApiError(Exception):
    """Base of this package's errors."""


class StartError(GrpcApiError):
    """The interface cannot be served at `address`."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class RequestError(GrpcApiError):
    """A request does not say what it must."""
