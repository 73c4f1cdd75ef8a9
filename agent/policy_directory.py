# SPDX-License-Identifier: Apache-2.0
"""The policies that an agent starts with: those of a directory.

A file with an error, or a policy that is there twice, keeps the agent from starting, and every place is named: a start
with fewer policies than were asked for would go unseen. What only this node refuses does not keep out the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.config import StartError
from agent.logs import fields
from agent.policies import PolicyStore
from agent.policy.errors import PolicyErrors
from agent.policy.model import Policy, PolicyKey
from agent.policy.reader import parse_policies
from agent.policy_entry import Entry, FaultyPolicies, PolicyRejected, PolicyState

SUFFIXES = (".yaml", ".yml", ".json")
_LEVELS = {PolicyState.ENABLED: logging.INFO, PolicyState.LOAD_ERROR: logging.ERROR}

log = logging.getLogger("podgate.policies")


def load_directory(store: PolicyStore, directory: Path) -> None:
    """Raises StartError."""
    _load(store, read_directory(directory))
    for entry in store.entries():
        log.log(_LEVELS.get(entry.state, logging.WARNING), "policy", extra=_told(entry))


def read_directory(directory: Path) -> list[Policy]:
    """All policies, by the names of their files. Raises StartError with every fault."""
    policies: list[Policy] = []
    errors: list[str] = []
    for path in sorted(each for each in directory.iterdir() if each.suffix in SUFFIXES):
        try:
            policies += parse_policies(path.read_bytes(), str(path))
        except (PolicyErrors, OSError) as error:
            errors.append(str(error))
    errors += _twins(policies)
    if errors:
        raise StartError("\n".join(errors))
    return policies


def _twins(policies: Iterable[Policy]) -> list[str]:
    first: dict[PolicyKey, Policy] = {}
    return [
        f"{policy.source}: the policy {policy.key} is at {known.source} too, give it another name"
        for policy in policies
        if (known := first.setdefault(policy.key, policy)) is not policy
    ]


def _load(store: PolicyStore, policies: Sequence[Policy]) -> None:
    """All in one compilation, but for those that this node refuses; when that fails, one by one. What is wrong with
    each is in its entry.
    """
    try:
        store.add(policies)
    except FaultyPolicies as error:
        log.error("policies that this node cannot carry out are left out", extra=fields(error=str(error)))
        _load(store, [policy for policy in policies if policy.key not in error.by_policy])
    except PolicyRejected as error:
        if len(policies) > 1:
            log.error("the policies do not load together, trying one by one", extra=fields(error=str(error)))
            for policy in policies:
                _load(store, [policy])


def _told(entry: Entry) -> dict[str, object]:
    return fields(policy=str(entry.policy.key), state=entry.state.value, error=entry.error)
