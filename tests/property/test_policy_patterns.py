# SPDX-License-Identifier: Apache-2.0
"""Our regular expressions agree with Python's, where both have a meaning."""

import re
import warnings

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.policy.patterns import Pattern, PatternError

_NAMES = st.text("ab_-2", max_size=6)


def _compile(pattern: str) -> re.Pattern[str] | None:
    with warnings.catch_warnings():
        # Of sets within sets, which Python may have one day.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return re.compile(pattern)
        except re.error:
            return None


@settings(max_examples=1500)
@given(st.text("ab_(|)*+?[]^$.{2,}-d\\", max_size=10), st.lists(_NAMES, min_size=1, max_size=8))
def test_patterns_agree_with_pythons(pattern: str, names: list[str]) -> None:
    try:
        ours = Pattern(pattern)
    except PatternError:
        return
    theirs = _compile(pattern)
    assume(theirs is not None)
    assert theirs is not None
    for name in names:
        assert ours.search(name) == (theirs.search(name) is not None)
