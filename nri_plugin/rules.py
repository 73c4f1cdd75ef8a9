# SPDX-License-Identifier: Apache-2.0
"""The failure rule's file, read again when it has changed."""

import logging
import os
from pathlib import Path

from rthook.failure import NO_FILE, FailureRule, Treatment, read_rule

log = logging.getLogger("podgate.nri")

# Of a file's lines that cannot be read, how many are logged.
MAX_FAULTS_LOGGED = 20

_Stamp = tuple[int, int, int, int]


class RuleFile:
    """The rule as the file has it now. A missing file, or one with lines that cannot be read, gives a rule too.

    Nothing is read before the first `refresh`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rule: FailureRule | None = None
        self._stamp: _Stamp | None = None

    def refresh(self) -> FailureRule:
        """Look at the file's time, size and inode, and read it if they are others."""
        stamp = _read_stamp(self._path)
        if self._rule is None or stamp != self._stamp:
            self._stamp = stamp
            self._rule = self._read()
        return self._rule

    def _read(self) -> FailureRule:
        rule = read_rule(self._path)
        missing = [fault.what for fault in rule.faults] == [NO_FILE]
        for fault in () if missing else rule.faults[:MAX_FAULTS_LOGGED]:
            log.error("failure_rule_fault", extra={"fields": {"file": str(self._path), "fault": str(fault)}})
        fields = {
            "file": str(self._path),
            "exists": not missing,
            "default": rule.default.value,
            "faults": len(rule.faults),
        }
        log.log(logging.WARNING if missing else logging.INFO, "failure_rule", extra={"fields": fields})
        return rule


def list_treatments(rule: FailureRule) -> set[Treatment]:
    """Those that the rule can lead to."""
    return {rule.default, *(treatment for _, treatment in (*rule.namespaces, *rule.patterns))}


def _read_stamp(path: Path) -> _Stamp | None:
    """What changes with the file's text; None when it cannot be looked at."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev
