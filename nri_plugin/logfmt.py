# SPDX-License-Identifier: Apache-2.0
"""One JSON object a line, for logging's records: ``ts``, ``level``, ``event`` (the record's message), then its fields.

A caller passes the fields as ``extra={"fields": {...}}``.
"""

import json
import logging
import logging.handlers
from collections.abc import Mapping
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object; what JSON lacks is written as its str()."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LogFile(logging.handlers.WatchedFileHandler):
    """Opens its file again when it was rotated. While that fails, lines are lost and the plugin goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def make_handler(log_file: str | None, *, delay: bool = False) -> logging.Handler:
    """A handler on `log_file`, which may be rotated under it, or on stderr; OSError if it cannot be opened.

    delay: open it at the first line, and drop lines for as long as that fails.
    """
    if log_file is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        handler = LogFile(log_file, delay=delay)
    handler.setFormatter(JsonFormatter())
    return handler


def switch_handler(logger: logging.Logger, log_file: str) -> None:
    """Send what `logger` gets to `log_file` from now on; OSError, and everything stays, if it cannot be opened."""
    handler = make_handler(log_file)
    for old in list(logger.handlers):
        if isinstance(old.formatter, JsonFormatter):
            logger.removeHandler(old)
            old.close()
    logger.addHandler(handler)
