# SPDX-License-Identifier: Apache-2.0
"""Texts to the system calls and functions that they name, one or a list of them."""

from dataclasses import dataclass

from agent.policy.context import Context
from agent.policy.document import Scalar
from agent.policy.errors import quote
from agent.policy.fields import nearest, one_of
from agent.policy.lists import LIST_PREFIX, ListType, ValueList, find_list
from agent.policy.syscalls import NUMBERS, bare_name, parse_call
from agent.policy.values import is_symbol

# Of functions, those on which the kernel lets a decision be put.
SECURITY_PREFIX = "security_"


@dataclass(frozen=True, slots=True)
class Calls:
    """What a `call` stands for. generated: no author wrote the names, so that a node may lack some."""

    names: tuple[str, ...] = ()
    pattern: str = ""
    generated: bool = False


class CallReader:
    """Reads the calls of one policy."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._problems = context.problems

    def syscalls(self, scalar: Scalar, ignore_missing: bool = False) -> Calls | None:
        """The system calls that a `call` stands for, names in the kernel's table; None with a report.

        ignore_missing: names that are in no table are kept.
        """
        if not scalar.text.startswith(LIST_PREFIX):
            name = self._syscall(scalar, ignore_missing)
            return None if name is None else self._calls(scalar, [name])
        found = self._list(scalar)
        if found is None:
            return None
        if found.type is ListType.GENERATED_FTRACE:
            what = f"the list {quote(found.name)} is of functions, and the hook is on system calls"
            self._problems.report(scalar.source, what, "write syscall: false")
            return None
        if found.type is ListType.GENERATED_SYSCALLS:
            return self._calls(scalar, list(found.generated), generated=True)
        names = [self._syscall(value, ignore_missing) for value in found.values]
        return self._calls(scalar, [name for name in names if name is not None])

    def functions(self, scalar: Scalar) -> Calls | None:
        """The functions of the kernel that a `call` stands for; None with a report."""
        if not scalar.text.startswith(LIST_PREFIX):
            return self._calls(scalar, [scalar.text]) if self._check_symbol(scalar) else None
        found = self._list(scalar)
        if found is None:
            return None
        if found.has_syscalls:
            what = f"the list {quote(found.name)} is of system calls, and the hook is on functions"
            self._problems.report(scalar.source, what, "leave syscall: false out, or the list's type")
            return None
        if found.pattern:
            return Calls(pattern=found.pattern, generated=True)
        return self._calls(scalar, [value.text for value in found.values])

    def enforced(self, scalar: Scalar) -> Calls | None:
        """The system calls and `security_` functions that an enforcer's `call` stands for; None with a report."""
        found = self._list(scalar) if scalar.text.startswith(LIST_PREFIX) else None
        if found is not None and found.type is ListType.GENERATED_SYSCALLS:
            return self._calls(scalar, list(found.generated), generated=True)
        if found is not None and found.type is ListType.GENERATED_FTRACE:
            what = "an enforcer cannot act on whatever functions match a pattern"
            self._problems.report(scalar.source, what, "list them by name")
            return None
        if found is None and scalar.text.startswith(LIST_PREFIX):
            return None
        scalars = (scalar,) if found is None else found.values
        names = [each.text if each.text.startswith(SECURITY_PREFIX) else self._syscall(each, False) for each in scalars]
        return self._calls(scalar, [name for name in names if name is not None])

    def numbers(self, scalar: Scalar) -> list[int]:
        """The numbers of the system calls that a value names; with a report when it names none."""
        calls = self.syscalls(scalar)
        return [] if calls is None else [NUMBERS[name] for name in calls.names]

    def _list(self, scalar: Scalar) -> ValueList | None:
        return find_list(scalar, self._context.lists, self._problems)

    def _calls(self, scalar: Scalar, names: list[str], generated: bool = False) -> Calls:
        self._context.budget.spend(scalar.source, len(names))
        return Calls(tuple(dict.fromkeys(names)), generated=generated)

    def _check_symbol(self, scalar: Scalar) -> bool:
        if is_symbol(scalar.text):
            return True
        what = f"{quote(scalar.text)} is not the name of a function"
        self._problems.report(scalar.source, what, "write a name of the kernel's symbol table")
        return False

    def _syscall(self, scalar: Scalar, ignore_missing: bool) -> str | None:
        name = parse_call(scalar.text)
        if name is not None:
            return name
        if ignore_missing and is_symbol(scalar.text):
            return bare_name(scalar.text)
        what, advice = _describe_unknown(scalar.text)
        self._problems.report(scalar.source, what, advice)
        return None


def _describe_unknown(call: str) -> tuple[str, str]:
    if call.startswith("__") and "_sys_" in call and not call.startswith("__x64_sys_"):
        what = f"{quote(call)} is a system call of another architecture"
        return what, "write the bare name for the native x86_64 call"
    found = [] if call.startswith(SECURITY_PREFIX) else nearest(bare_name(call), NUMBERS, count=3)
    other = "write the name of an x86_64 system call, or syscall: false for a function of the kernel"
    advice = f"did you mean {one_of(found)}?" if found else other
    return f"unknown system call {quote(call)}", advice
