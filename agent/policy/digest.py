# SPDX-License-Identifier: Apache-2.0
"""The digest of what a policy says: the same for two texts that differ in comments, order of keys or spelling."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from agent.policy.model import Policy


def digest_policy(policy: Policy) -> str:
    """SHA-256, 64 hexadecimal digits, of a canonical JSON text of all fields that take part in comparisons, but for
    `text_digest` itself.
    """
    content = _plain(dataclasses.replace(policy, text_digest=""))
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    """A value of the model as JSON has it; the names of its class and fields keep different ones apart."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value) if each.compare}
        return [type(value).__name__, fields]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
