"""Wakes the requests that sleep until their circuit has closed, a place is theirs, or their vendor may be asked."""

from collections.abc import Sequence

import structlog

from llm_provider.ledger import LedgerProtocol
from llm_provider.protocols import TaskDispatcherProtocol

log = structlog.get_logger(__name__)


class Waker:
    """WakerProtocol over the ledger and the queue; shared by all threads of a process."""

    def __init__(self, ledger: LedgerProtocol, dispatcher: TaskDispatcherProtocol) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher

    def wake(self, queue_ids: Sequence[str]) -> Sequence[str]:
        if not queue_ids:
            return ()
        try:
            woken = self._ledger.wake(queue_ids)
            for queue_id in woken.suspended:
                self._dispatcher.dispatch(queue_id, first=True)
        except Exception as error:
            # Whoever makes room must not fail for it.
            log.warning("waking_left_for_later", error=type(error).__name__)
            return ()
        return woken.over


class Nobody:
    """WakerProtocol where nobody is woken: on an operator's command line."""

    def wake(self, queue_ids: Sequence[str]) -> Sequence[str]:
        return ()
