# SPDX-License-Identifier: Apache-2.0
"""How something is compared."""

from __future__ import annotations

from enum import Enum, unique


@unique
class Operator(Enum):
    """How something is compared. Synonyms (`GreaterThan`, `SubStringIgnoreCase`, …) are read as these."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"
    GT = "GT"
    LT = "LT"
    MASK = "Mask"
    """The argument and the value have a bit in common."""
    IN_RANGE = "InRange"
    NOT_IN_RANGE = "NotInRange"
    IN_MAP = "InMap"
    """Equal to one of many numbers."""
    NOT_IN_MAP = "NotInMap"
    PREFIX = "Prefix"
    NOT_PREFIX = "NotPrefix"
    POSTFIX = "Postfix"
    NOT_POSTFIX = "NotPostfix"
    SUBSTRING = "SubString"
    SUBSTRING_IGNORE_CASE = "SubStringIgnCase"
    FILE_TYPE = "FileType"
    NOT_FILE_TYPE = "NotFileType"
    SADDR = "SAddr"
    NOT_SADDR = "NotSAddr"
    DADDR = "DAddr"
    NOT_DADDR = "NotDAddr"
    SPORT = "SPort"
    NOT_SPORT = "NotSPort"
    DPORT = "DPort"
    NOT_DPORT = "NotDPort"
    SPORT_PRIV = "SPortPriv"
    """A port below 1024; no values."""
    NOT_SPORT_PRIV = "NotSPortPriv"
    DPORT_PRIV = "DPortPriv"
    NOT_DPORT_PRIV = "NotDPortPriv"
    PROTOCOL = "Protocol"
    FAMILY = "Family"
    STATE = "State"
    CAPABILITIES_GAINED = "CapabilitiesGained"
    CEL_EXPR = "CelExpr"

    @property
    def positive(self) -> Operator:
        """What this operator negates, or itself."""
        return _NEGATIVE.get(self, self)

    @property
    def negative(self) -> bool:
        """Whether it holds when no value does."""
        return self in _NEGATIVE


_NEGATIVE = {
    Operator.NOT_EQUAL: Operator.EQUAL,
    Operator.NOT_IN: Operator.IN,
    Operator.NOT_IN_RANGE: Operator.IN_RANGE,
    Operator.NOT_IN_MAP: Operator.IN_MAP,
    Operator.NOT_PREFIX: Operator.PREFIX,
    Operator.NOT_POSTFIX: Operator.POSTFIX,
    Operator.NOT_FILE_TYPE: Operator.FILE_TYPE,
    Operator.NOT_SADDR: Operator.SADDR,
    Operator.NOT_DADDR: Operator.DADDR,
    Operator.NOT_SPORT: Operator.SPORT,
    Operator.NOT_DPORT: Operator.DPORT,
    Operator.NOT_SPORT_PRIV: Operator.SPORT_PRIV,
    Operator.NOT_DPORT_PRIV: Operator.DPORT_PRIV,
}
