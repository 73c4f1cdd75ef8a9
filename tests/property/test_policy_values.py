# SPDX-License-Identifier: Apache-2.0
"""Numbers written in every base are read back."""

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.values import parse_number

_PREFIXES = {"x": "0x", "X": "0X", "o": "0o", "b": "0b", "d": ""}


@given(st.integers(-(2**64), 2**64), st.sampled_from(sorted(_PREFIXES)), st.data())
def test_number_survives_its_spelling(number: int, base: str, data: st.DataObject) -> None:
    digits = format(abs(number), base)
    for place in sorted(data.draw(st.sets(st.integers(1, len(digits)))), reverse=True):
        if place < len(digits):
            digits = digits[:place] + "_" + digits[place:]
    sign = "-" if number < 0 else data.draw(st.sampled_from(["", "+"]))
    assert parse_number(sign + _PREFIXES[base] + digits) == number


@given(st.text("0123456789abxoXBO_+-", max_size=12))
def test_reader_agrees_with_pythons_own_base_0_syntax(text: str) -> None:
    """Python's is Go's, but for a leading 0 that means octal in Go."""
    try:
        read = parse_number(text)
    except ValueError:
        read = None
    bare = text.lstrip("+-").replace("_", "")
    if bare.startswith("0") and bare.isdigit() and len(bare) > 1:
        assert read is None or abs(read) == int(bare, 8)
    else:
        assert read == _python(text)


def _python(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
