"""A server's process: how it is started, and how it is known again by its pid file."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def read_number(file: Path) -> int | None:
    """The number in a pid or port file; None when there is none, or when it was cut short."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def is_server_of(command_line: list[str], config: Path) -> bool:
    """Whether a process runs from this configuration file; a pid alone may have passed to a stranger."""
    return str(config) in command_line


def spawn(command: list[str], log: Path) -> int:
    """Start a process in a session of its own, so that a Ctrl-C here does not reach it; the pid."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # Not subprocess: the server outlives the object that started it, which subprocess takes for a leak.
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=files,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE],
    )
