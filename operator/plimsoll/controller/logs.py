"""Log output: one JSON object per line for machines, or plain text for people."""

import json
import logging
import sys
from datetime import UTC, datetime


class JSONFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str, form: str) -> None:
    """Send the process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kopf logs one INFO line per handler call, that is, per event.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
