# SPDX-License-Identifier: Apache-2.0
"""The small texts of a policy: numbers, names, label keys and values.

The syntax of names is that of Kubernetes (k8s.io/apimachinery/pkg/util/validation), that of numbers is Go's
`strconv.ParseInt(text, 0, bits)`, with which the values of the custom resource have always been read.
"""

import re

MAX_SUBDOMAIN = 253
MAX_LABEL = 63
# PATH_MAX without its NUL: nothing that a system call reads as a path is longer.
MAX_VALUE_BYTES = 4095
# Of a message or a label, in characters: each event carries it.
MAX_TEXT = 256
# 49 days; the kernel's side keeps milliseconds in 32 bits.
MAX_RATE_MS = (1 << 32) - 1
# KSYM_NAME_LEN of include/linux/kallsyms.h without its NUL.
MAX_SYMBOL = 511
# NAME_MAX of include/uapi/linux/limits.h: an event is a directory of tracefs.
MAX_EVENT = 255
# Enough for any image's name: registry (253), port and path.
MAX_REPOSITORY = 512

_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_LABEL_RE = re.compile(_DNS_LABEL)
_SUBDOMAIN_RE = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_LABEL_RE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")

_REPOSITORY_RE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.:/]*[A-Za-z0-9])?")
_IDENTIFIER_RE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names of functions as compilers write them: `foo.constprop.0`, `$x`.
_SYMBOL_RE = re.compile(r"[A-Za-z_.$][A-Za-z0-9_.$@]*")
# A directory of tracefs: no slash, and neither `.` nor `..`.
_EVENT_RE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:-]*")
_RATE_RE = re.compile(r"(?P<number>[0-9]{1,10})(?P<unit>[smh]?)")
_RATE_UNITS = {"": 1000, "s": 1000, "m": 60_000, "h": 3_600_000}

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


def is_repository(text: str) -> bool:
    """Whether an image's name, without tag and digest, may be `text`. Only a registry can have a colon."""
    tagged = ":" in text.rpartition("/")[2]
    return len(text) <= MAX_REPOSITORY and not tagged and _REPOSITORY_RE.fullmatch(text) is not None


def is_identifier(text: str) -> bool:
    """Whether `text` is a name in C: a member, a structure, a kernel function that a policy hooks by its BTF."""
    return len(text) <= MAX_SYMBOL and _IDENTIFIER_RE.fullmatch(text) is not None


def is_symbol(text: str) -> bool:
    """Whether `text` may be a function's name in a symbol table."""
    return len(text) <= MAX_SYMBOL and _SYMBOL_RE.fullmatch(text) is not None


def is_event_name(text: str) -> bool:
    """Whether a tracepoint or its subsystem may have this name: it becomes a part of a path."""
    return len(text) <= MAX_EVENT and _EVENT_RE.fullmatch(text) is not None


def parse_rate(text: str) -> int:
    """Milliseconds from a number of seconds, or one with `s`, `m` or `h`. Raises ValueError."""
    found = _RATE_RE.fullmatch(text)
    milliseconds = int(found["number"]) * _RATE_UNITS[found["unit"]] if found else -1
    if not 0 <= milliseconds <= MAX_RATE_MS:
        raise ValueError(f"not a rate limit: {text[:MAX_LABEL]}")
    return milliseconds
