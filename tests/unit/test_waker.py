"""Whoever sleeps until it is called is brought to a worker."""

from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.memory_queue import MemoryDispatcher
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import ClaimState
from llm_provider.waker import Nobody, Waker
from tests.unit.builders import a_request, a_timing, some_texts


def asleep(ledger: MemoryLedger) -> str:
    request = a_request()
    ledger.accept(request, some_texts())
    ledger.claim(request.queue_id, "first")
    ledger.suspend(request.queue_id, "first", wait_seconds=600, progress=CallProgress())
    return request.queue_id


def test_who_is_called_is_claimed_at_once() -> None:
    """Its message goes to the front of the queue; nobody else's wait ends."""
    ledger, queue = MemoryLedger(a_timing()), MemoryDispatcher()
    called, other = asleep(ledger), asleep(ledger)

    Waker(ledger, queue).wake([called])

    assert queue.messages == [called]
    assert ledger.claim(called, "second").state is ClaimState.CLAIMED
    assert ledger.claim(other, "second").state is ClaimState.LEFT


def test_nobody_is_woken_who_does_not_sleep() -> None:
    """It is finished, forgotten, or works."""
    ledger, queue = MemoryLedger(a_timing()), MemoryDispatcher()
    running = a_request()
    ledger.accept(running, some_texts())
    ledger.claim(running.queue_id, "first")

    Waker(ledger, queue).wake([running.queue_id, "unknown"])
    Waker(ledger, queue).wake([])
    Nobody().wake([running.queue_id])

    assert queue.messages == []


def test_an_outage_is_left_to_the_sweeper() -> None:
    """Whoever makes room has other things to do; who was called looks again after a while."""
    ledger, queue = MemoryLedger(a_timing()), MemoryDispatcher()
    called = asleep(ledger)
    ledger.away = True

    Waker(ledger, queue).wake([called])

    assert queue.messages == []
