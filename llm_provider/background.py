"""A thread that does one thing again and again until it is stopped."""

import threading
from collections.abc import Callable

import structlog

from llm_provider.errors import ServiceError
from llm_provider.logs import log_defect

log = structlog.get_logger(__name__)


class PeriodicThread:
    """Calls `work` every `interval_seconds`; at once again when it returns True. An exception never ends it."""

    def __init__(self, name: str, work: Callable[[], bool], interval_seconds: float) -> None:
        self._work = work
        self._interval = interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Ask the thread to end and wait for it; idempotent."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        again = False
        while again or not self._stopped.wait(self._interval):
            again = self._work_once() and not self._stopped.is_set()

    def _work_once(self) -> bool:
        try:
            return self._work()
        except ServiceError as error:
            log.warning("background_work_failed", thread=self._thread.name, error=error.message)
        except Exception as error:
            log_defect(log, "background_work_broke", error, thread=self._thread.name)
        return False
