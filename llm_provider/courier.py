"""Delivers what a sweep found, in a thread of its own: waiting for Kafka must not keep the sweeper from its rounds.

A sweeper that stands still is taken for an outage of Redis: nobody would judge a lease any more.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from llm_provider.background import PeriodicThread
from llm_provider.errors import RecordUnreadable, ServiceError
from llm_provider.ledger import Action, Due
from llm_provider.logs import log_defect
from llm_provider.protocols import OutcomeDelivererProtocol

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.1


class Courier:
    """Holds one batch at a time; what it does not begin within `patience_seconds` a later sweep brings again."""

    def __init__(
        self,
        deliverer: OutcomeDelivererProtocol,
        *,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliverer = deliverer
        self._patience = patience_seconds
        self._clock = clock
        self._batch: Sequence[Due] = ()
        self._taken_at = 0.0
        self._thread = PeriodicThread("courier", self.work, LOOK_SECONDS)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def is_free(self) -> bool:
        """Whether the last batch is done."""
        return not self._batch

    def take(self, batch: Sequence[Due]) -> None:
        """Deliver these next; only when free."""
        self._taken_at, self._batch = self._clock(), batch

    def work(self) -> bool:
        """Deliver the batch; one request that breaks holds nobody else back, and without Redis the rest is left."""
        try:
            for due in self._batch:
                if self._clock() - self._taken_at > self._patience:
                    break
                self._settle(due)
        finally:
            self._batch = ()
        return False

    def _settle(self, due: Due) -> None:
        try:
            if due.action is Action.EXPIRE:
                self._deliverer.expire(due.queue_id)
            elif due.action is Action.GIVE_UP:
                self._deliverer.give_up(due.queue_id)
            else:
                self._deliverer.deliver_due(due.queue_id)
        except RecordUnreadable as error:
            log.error("record_not_settled", queue_id=due.queue_id, reason=error.reason)
        except ServiceError:
            raise
        except Exception as error:
            log_defect(log, "delivery_broke", error, queue_id=due.queue_id)
