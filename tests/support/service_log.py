"""What a service that runs beside a test has logged, a JSON record a line."""

import json
from pathlib import Path
from typing import Any


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    """Return the records of an event in a log that is being written: of its last line there may be a part only."""
    complete = log.read_text().rpartition("\n")[0]
    records = (json.loads(line) for line in complete.splitlines() if line.startswith("{"))
    return [record for record in records if record["event"] == event]
