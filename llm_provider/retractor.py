"""Takes back what a caller was told is not accepted: a request whose acceptance Redis did not answer may be in it."""

import threading
from collections import deque

import structlog

from llm_provider.background import PeriodicThread
from llm_provider.errors import LedgerUnavailable
from llm_provider.ledger import LedgerProtocol

log = structlog.get_logger(__name__)

# A lost message is missed after two seconds at the soonest: until then no worker hears of what was not dispatched.
LOOK_SECONDS = 0.1
# In a long outage the latest ones count: what was sent to a Redis that was gone has not reached it.
MOST = 10_000


class Retractor:
    """Asks until Redis has answered, in a thread of its own that starts with the first request to be taken back."""

    def __init__(self, ledger: LedgerProtocol) -> None:
        self._ledger = ledger
        self._ids: deque[str] = deque(maxlen=MOST)
        self._lock = threading.Lock()
        self._thread: PeriodicThread | None = None

    def take_back(self, queue_id: str) -> None:
        """Return at once; when this process ends before Redis answers, the request may run."""
        self._ids.append(queue_id)
        with self._lock:
            if self._thread is None:
                self._thread = PeriodicThread("retractor", self.work, LOOK_SECONDS)
                self._thread.start()

    def work(self) -> bool:
        """Take back all that was asked for, the latest first, while Redis answers."""
        while self._ids:
            queue_id = self._ids.pop()
            try:
                was_kept_back = self._ledger.retract(queue_id)
            except LedgerUnavailable:
                self._ids.append(queue_id)
                return False
            log.info("request_retracted", queue_id=queue_id, runs_all_the_same=not was_kept_back)
        return False
