"""`audit.jsonl`: what the coordinator did, one line per event, with the time in UTC."""

import datetime
import json
from pathlib import Path
from typing import Any


class AuditLog:
    """Appends events to a file; never holds a figure of a patient."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **facts: Any) -> None:
        """Append one event."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **facts}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
