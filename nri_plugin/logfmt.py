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


def make_handler(log_file: str | None) -> logging.Handler:
    """A handler on `log_file`, which may be rotated under it, or on stderr; OSError if it cannot be opened."""
    handler = logging.StreamHandler() if log_file is None else logging.handlers.WatchedFileHandler(log_file)
    handler.setFormatter(JsonFormatter())
    return handler
