"""What the processes logged above INFO: most of it is expected in a storm, and all of it is shown."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

QUIET = frozenset({"debug", "info"})
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d[\d.:]*")


def loud_lines(lines: Iterable[str]) -> Counter[tuple[str, str]]:
    """(level, event) to how often; lines that are not ours come as level `plain`."""
    return Counter(entry for line in lines if (entry := _loud(line.strip())))


def _loud(line: str) -> tuple[str, str] | None:
    if not line:
        return None
    try:
        entry = json.loads(line)
        level, event = str(entry["level"]), str(entry["event"])
    except (ValueError, KeyError, TypeError):
        # Celery prints a banner, Python a traceback.
        return ("plain", _NUMBERS.sub("#", line)[:80]) if "Error" in line or "Traceback" in line else None
    if level in QUIET:
        return None
    told = [str(entry[name]) for name in ("error_code", "reason", "error") if name in entry]
    text = event.split("\n")[0][:80] + (f" ({', '.join(told)})" if told else "")
    return level, _NUMBERS.sub("#", text)


def lines_of(logs: Path) -> Iterator[str]:
    """All lines of all processes' logs."""
    for log in sorted(logs.glob("*.log")):
        with log.open(errors="replace") as lines:
            yield from lines
