"""Wakes the requests that sleep until their circuit has closed or a place among the concurrent calls is theirs."""

from collections.abc import Sequence

import structlog

from llm_provider.errors import LedgerUnavailable
from llm_provider.ledger import LedgerProtocol
from llm_provider.protocols import TaskDispatcherProtocol

log = structlog.get_logger(__name__)


class Waker:
    """WakerProtocol over the ledger and the queue; shared by all threads of a process."""

    def __init__(self, ledger: LedgerProtocol, dispatcher: TaskDispatcherProtocol) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher

    def wake(self, queue_ids: Sequence[str]) -> None:
        if not queue_ids:
            return
        try:
            for queue_id in self._ledger.wake(queue_ids):
                self._dispatcher.dispatch(queue_id, first=True)
        except LedgerUnavailable as error:
            log.warning("waking_left_to_sweeper", reason=error.message)


class Nobody:
    """WakerProtocol where nobody is woken: on an operator's command line."""

    def wake(self, queue_ids: Sequence[str]) -> None:
        pass
