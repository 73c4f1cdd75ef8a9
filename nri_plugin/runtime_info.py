# SPDX-License-Identifier: Apache-2.0
"""Which runtime has connected us, as it says in Configure. Pure."""

from dataclasses import dataclass

from nri_plugin.api import nri_pb2

# Longer than any version that a build system puts together.
MAX_VERSION = 256
# A day: no runtime that answers waits as long.
MAX_TIMEOUT_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Texts as the runtime sends them, cut to MAX_VERSION; timeouts in milliseconds, 0 when it does not tell."""

    name: str = ""
    version: str = ""
    nri_version: str = ""
    registration_timeout_ms: int = 0
    request_timeout_ms: int = 0
    config: str = ""

    @property
    def is_crio(self) -> bool:
        """cri-o logs the error of a plugin at StartContainer, and starts the container."""
        return self.name == "cri-o"


def parse_runtime(request: nri_pb2.ConfigureRequest) -> RuntimeInfo:
    """Out of range timeouts count as not told."""
    return RuntimeInfo(
        request.runtime_name[:MAX_VERSION],
        request.runtime_version[:MAX_VERSION],
        request.NRI_version[:MAX_VERSION],
        _within_limits(request.registration_timeout),
        _within_limits(request.request_timeout),
        request.config,
    )


def _within_limits(timeout_ms: int) -> int:
    return timeout_ms if 0 < timeout_ms <= MAX_TIMEOUT_MS else 0
