# SPDX-License-Identifier: Apache-2.0
"""The small texts of a policy: numbers, names, label keys and values.

The syntax of names is that of Kubernetes (k8s.io/apimachinery/pkg/util/validation), that of numbers is Go's
`strconv.ParseInt(text, 0, bits)`, with which the values of the custom resource have always been read.
"""

import re

MAX_SUBDOMAIN = 253
MAX_LABEL = 63

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_LABEL_RE = re.compile(_DNS_LABEL)
_SUBDOMAIN_RE = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_LABEL_RE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")

# Base prefix, then digits with single underscores between them; a leading 0 alone means octal.
_NUMBER_RE = re.compile(
    r"(?P<sign>[+-]?)"
    r"(?:0[xX](?P<hex>(?:_?[0-9a-fA-F])+)"
    r"|0[bB](?P<binary>(?:_?[01])+)"
    r"|0(?:[oO])?(?P<octal>(?:_?[0-7])+)"
    r"|(?P<decimal>0|[1-9](?:_?[0-9])*))"
)
_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}

# 64 binary digits, as many underscores, a prefix and a sign; leading zeros beyond that serve nobody.
MAX_NUMBER_CHARACTERS = 256


def parse_number(text: str) -> int:
    """The integer that `text` writes. Raises ValueError."""
    found = _NUMBER_RE.fullmatch(text) if len(text) <= MAX_NUMBER_CHARACTERS else None
    if found is None:
        raise ValueError(f"not a number: {text[:MAX_NUMBER_CHARACTERS]}")
    base, digits = next((_BASES[name], found[name]) for name in _BASES if found[name] is not None)
    value = int(digits.replace("_", ""), base)
    return -value if found["sign"] == "-" else value


def number_range(bits: int, signed: bool) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def is_dns_label(text: str) -> bool:
    """Whether `text` is a DNS-1123 label, as a namespace must be."""
    return len(text) <= MAX_LABEL and _DNS_LABEL_RE.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether `text` is a DNS-1123 subdomain, as the name of a policy must be."""
    return len(text) <= MAX_SUBDOMAIN and _SUBDOMAIN_RE.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether a label may have this value; the empty one is allowed."""
    return text == "" or (len(text) <= MAX_LABEL and _LABEL_RE.fullmatch(text) is not None)


def is_label_key(text: str) -> bool:
    """Whether `text` is a label's key: a name, or a DNS subdomain, a slash and a name."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_dns_subdomain(prefix):
        return False
    return name != "" and is_label_value(name)
