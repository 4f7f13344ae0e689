"""Puts right what a crash left behind: runs inside every worker, so that no further process must."""

import structlog

from llm_provider.background import PeriodicThread
from llm_provider.courier import Courier
from llm_provider.errors import ServiceError
from llm_provider.ledger import Action, Due, LedgerProtocol
from llm_provider.logs import log_defect
from llm_provider.protocols import CallersProtocol, OutcomeDelivererProtocol, TaskDispatcherProtocol

log = structlog.get_logger(__name__)

# How long what the courier has no hand free for is left alone.
BUSY_SECONDS = 1.0


class Sweeper:
    """Each sweep takes what is due in the ledger and brings every request of it a step further.

    It never waits for Kafka: messages it dispatches itself, deliveries it gives to the courier.
    """

    def __init__(
        self,
        ledger: LedgerProtocol,
        dispatcher: TaskDispatcherProtocol,
        deliverer: OutcomeDelivererProtocol,
        callers: CallersProtocol,
        *,
        interval_seconds: float,
        batch: int,
        patience_seconds: float = 5.0,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._deliverer = deliverer
        self._callers = callers
        self._batch = batch
        self.courier = Courier(deliverer, patience_seconds=patience_seconds)
        self._thread = PeriodicThread("sweeper", self.sweep, interval_seconds)

    def start(self) -> None:
        self.courier.start()
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()
        self.courier.stop()

    def sweep(self) -> bool:
        """One sweep; True when its batch was full and is done with, so that more may be due."""
        due = self._ledger.sweep(queue_is_empty=self._dispatcher.queue_is_empty())
        deliveries = self._worth_trying([item for item in due if item.action is not Action.DISPATCH])
        self._hand_over(deliveries)
        for item in due:
            if item.action is Action.DISPATCH:
                self._dispatch(item)
        self._callers.wake_next()
        return len(due) >= self._batch and self.courier.is_free()

    def _worth_trying(self, due: list[Due]) -> list[Due]:
        """While the broker is away its outcomes are put off together: a long outage makes no busy loop."""
        wait = self._deliverer.seconds_to_leave_deliveries()
        if wait is None:
            return due
        self._ledger.put_off([item.queue_id for item in due if item.action is Action.DELIVER], wait)
        return [item for item in due if item.action is not Action.DELIVER]

    def _hand_over(self, due: list[Due]) -> None:
        if self.courier.is_free():
            self.courier.take(due)
        else:
            self._ledger.put_off([item.queue_id for item in due], BUSY_SECONDS)

    def _dispatch(self, due: Due) -> None:
        """One request that breaks holds nobody else back; when Redis is away the sweep ends."""
        log.info("request_taken_up", queue_id=due.queue_id, action=str(due.action))
        try:
            self._dispatcher.dispatch(due.queue_id, first=True)
        except ServiceError:
            raise
        except Exception as error:
            log_defect(log, "dispatch_broke", error, queue_id=due.queue_id)
