"""Puts right what a crash left behind: runs inside every worker, so that no further process must."""

import traceback

import structlog

from llm_provider.background import PeriodicThread
from llm_provider.errors import ServiceError
from llm_provider.ledger import Action, Due, LedgerProtocol
from llm_provider.protocols import OutcomeDelivererProtocol, TaskDispatcherProtocol

log = structlog.get_logger(__name__)


class Sweeper:
    """Each sweep takes what is due in the ledger and brings every request of it a step further."""

    def __init__(
        self,
        ledger: LedgerProtocol,
        dispatcher: TaskDispatcherProtocol,
        deliverer: OutcomeDelivererProtocol,
        *,
        interval_seconds: float,
        batch: int,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._deliverer = deliverer
        self._batch = batch
        self._thread = PeriodicThread("sweeper", self.sweep, interval_seconds)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def sweep(self) -> bool:
        """One sweep; True when its batch was full, so that more may be due."""
        due = self._ledger.sweep(queue_is_empty=self._dispatcher.queue_is_empty())
        # What only needs a message goes first: a delivery may have to wait for Kafka.
        for item in sorted(self._worth_trying(due), key=lambda item: item.action is not Action.DISPATCH):
            self._settle(item)
        return len(due) >= self._batch

    def _worth_trying(self, due: list[Due]) -> list[Due]:
        """While the broker is away its outcomes are put off together: a long outage makes no busy loop."""
        wait = self._deliverer.seconds_to_leave_deliveries()
        if wait is None:
            return due
        self._ledger.put_off([item.queue_id for item in due if item.action is Action.DELIVER], wait)
        return [item for item in due if item.action is not Action.DELIVER]

    def _settle(self, due: Due) -> None:
        """One request that breaks holds nobody else back; when Redis is away the sweep ends."""
        log.info("request_taken_up", queue_id=due.queue_id, action=str(due.action))
        try:
            self._bring_on(due)
        except ServiceError:
            raise
        except Exception as error:
            frames = traceback.format_tb(error.__traceback__)
            log.error("sweep_broke", queue_id=due.queue_id, error=type(error).__name__, frames=frames)

    def _bring_on(self, due: Due) -> None:
        match due.action:
            case Action.DISPATCH:
                self._dispatcher.dispatch(due.queue_id, first=True)
            case Action.DELIVER:
                self._deliverer.deliver_due(due.queue_id)
            case Action.EXPIRE:
                self._deliverer.expire(due.queue_id)
