# SPDX-License-Identifier: Apache-2.0
"""Policies as data: what is accepted, and what is refused with which words.

`refused/NAME.errors` has one line for each fault of `refused/NAME.yaml`: `line:column: what, advice`.
"""

from pathlib import Path

import pytest

from agent.policy.errors import PolicyErrors
from agent.policy.reader import parse_policies

_DATA = Path(__file__).parent.parent / "data" / "policies"
_REFUSED = sorted((_DATA / "refused").glob("*.yaml"))
_GOOD = sorted((_DATA / "good").glob("*.yaml"))


@pytest.mark.parametrize("path", _REFUSED, ids=lambda path: path.stem)
def test_refused_policy_says_where_and_what_to_write(path: Path) -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse_policies(path.read_bytes(), "p.yaml")
    expected = path.with_suffix(".errors").read_text("utf-8").splitlines()
    assert str(caught.value).splitlines() == [f"p.yaml:{line}" for line in expected]


def test_every_list_of_errors_has_its_policy() -> None:
    assert {path.with_suffix(".yaml") for path in (_DATA / "refused").glob("*.errors")} == set(_REFUSED)


@pytest.mark.parametrize("path", _GOOD, ids=lambda path: path.stem)
def test_good_policy_is_accepted_also_with_windows_line_ends(path: Path) -> None:
    text = path.read_bytes()
    policies = parse_policies(text, "p.yaml")
    assert policies
    assert parse_policies(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"), "p.yaml") == policies
