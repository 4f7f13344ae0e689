"""Whoever sleeps until it is called is brought to a worker."""

import pytest

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
    """It works; who is finished or unknown is told, since it will never come."""
    ledger, queue = MemoryLedger(a_timing()), MemoryDispatcher()
    running = a_request()
    ledger.accept(running, some_texts())
    ledger.claim(running.queue_id, "first")

    assert Waker(ledger, queue).wake([running.queue_id, "unknown"]) == ("unknown",)
    assert Waker(ledger, queue).wake([]) == ()
    assert Nobody().wake([running.queue_id]) == ()

    assert queue.messages == []


@pytest.mark.parametrize("away", ["ledger", "queue", "all of it"])
def test_an_outage_is_left_for_later(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes room must not fail for it, whatever breaks; who was called is called again soon."""
    ledger, queue = MemoryLedger(a_timing()), MemoryDispatcher()
    called = asleep(ledger)
    ledger.away, queue.away = away == "ledger", away == "queue"
    if away == "all of it":
        monkeypatch.setattr(ledger, "wake", lambda _: 1 / 0)

    assert Waker(ledger, queue).wake([called]) == ()
    assert queue.messages == []
