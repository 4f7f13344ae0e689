"""Ends a worker whose event loop stands still while messages wait: a supervisor starts it again."""

import os
import time
from collections.abc import Callable

import structlog

from llm_provider.background import PeriodicThread
from llm_provider.errors import LedgerUnavailable
from llm_provider.protocols import TaskDispatcherProtocol

log = structlog.get_logger(__name__)

LOOKS_PER_STALL = 12
EXIT_CODE = 70  # sysexits.h: an internal software error.


def end_process() -> None:
    """At once: whatever hangs here would keep an orderly end from coming."""
    os._exit(EXIT_CODE)


class LoopWatchdog:
    """Told by the event loop that it turns, asks from a thread of its own whether it still does.

    While Redis does not answer, or does not serve, Celery waits for it inside the loop, so that time does not count.
    What this process has in flight may end first, within `grace_seconds`: it would be paid twice.
    """

    def __init__(
        self,
        dispatcher: TaskDispatcherProtocol,
        *,
        stall_seconds: float,
        grace_seconds: float,
        is_idle: Callable[[], bool],
        end: Callable[[], None] = end_process,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._stall = stall_seconds
        self._grace = grace_seconds
        self._is_idle = is_idle
        self._end = end
        self._now = now
        self._turned_at = now()
        self._is_connected = True
        # Since when messages have waited for a loop that did not turn.
        self._waiting_since: float | None = None
        self._stalled_at: float | None = None
        self._thread = PeriodicThread("loop-watchdog", self.look, stall_seconds / LOOKS_PER_STALL)

    def start(self) -> None:
        self.turned()
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def turned(self) -> None:
        """Called by the event loop itself, several times while one could take it for stalled."""
        self._turned_at = self._now()

    def connected(self, is_connected: bool) -> None:
        """Called by the consumer, when it has a connection to the broker, and when it goes to look for one."""
        self._is_connected = is_connected
        self.turned()

    def look(self) -> bool:
        """One look; ends the process when it is time."""
        now = self._now()
        turned_lately = now - self._turned_at < 2 * self._stall / LOOKS_PER_STALL
        if turned_lately or not self._is_connected or not self._messages_wait():
            self._waiting_since = self._stalled_at = None
            return False
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        if now - self._waiting_since >= self._stall:
            self._give_up(now)
        return False

    def _messages_wait(self) -> bool:
        try:
            return not self._dispatcher.queue_is_empty()
        except LedgerUnavailable:
            return False

    def _give_up(self, now: float) -> None:
        if self._stalled_at is None:
            self._stalled_at = now
            log.error("event_loop_stands_still", seconds=round(now - self._turned_at))
        if self._is_idle() or now - self._stalled_at >= self._grace:
            self._end()
