"""The end of a server's log, for messages."""

from __future__ import annotations

from pathlib import Path

LOG_TAIL_LINES = 15


def last_lines(log: Path, offset: int = 0, lines: int = LOG_TAIL_LINES) -> str:
    """The end of a log, of what was written from this byte on."""
    if not log.exists():
        return ""
    text = log.read_bytes()[offset:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def quoted(log: Path, tail: str) -> str:
    """The end of a log as part of a message."""
    if not tail:
        return ""
    indented = "\n".join(f"    {line}" for line in tail.splitlines())
    return f"\nThe last lines of {log}:\n{indented}"
