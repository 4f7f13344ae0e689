"""Waiting for something to come true."""

from __future__ import annotations

import time
from collections.abc import Callable

PROBE_SECONDS = 1.0
POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True
