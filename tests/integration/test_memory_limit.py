"""Redis near its memory limit: nothing more is accepted, what was accepted is finished, and then it goes on."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import MEMORY_NOTE_SECONDS, RedisLedger
from llm_provider.errors import LedgerUnavailable, QueueFull
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import ClaimState
from scripts.local_servers import RedisServer, wait_until
from tests.unit.builders import a_request, a_timing, a_verdict_for, some_texts


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    with closing(connect_redis(server.url, timeout_seconds=5)) as client:
        yield client
    server.stop()


@pytest.fixture
def ledger(redis: Redis) -> RedisLedger:
    return RedisLedger(redis, prefix="test:", timing=a_timing(lease=10.0))


def limit_memory(redis: Redis, *, used_share: float) -> None:
    """Set the limit so that what is used now is that share of it."""
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / used_share))


def test_above_four_fifths_nothing_more_is_accepted_until_there_is_room(redis: Redis, ledger: RedisLedger) -> None:
    """The refusal is the queue's own, so that callers get 503 with Retry-After, and it ends by itself."""
    limit_memory(redis, used_share=0.9)
    ledger.sweep(queue_is_empty=True)
    with pytest.raises(QueueFull, match="memory"):
        ledger.accept(a_request(), some_texts())
    redis.config_set("maxmemory", 0)
    ledger.sweep(queue_is_empty=True)

    def accepts() -> bool:
        try:
            return bool(ledger.accept(a_request(), some_texts()))
        except QueueFull:
            return False

    assert wait_until(accepts, MEMORY_NOTE_SECONDS + 5)


def test_without_a_limit_of_its_own_redis_may_fill_what_an_operator_says(redis: Redis) -> None:
    """All that is kept counts, delivered records too."""
    used = int(redis.info("memory")["used_memory"])
    ledger = RedisLedger(redis, prefix="test:", timing=a_timing(memory_bytes=used))
    ledger.sweep(queue_is_empty=True)
    with pytest.raises(QueueFull, match="memory"):
        ledger.accept(a_request(), some_texts())


def test_with_no_memory_left_what_was_accepted_is_finished(redis: Redis, ledger: RedisLedger) -> None:
    """Claim, renew, suspension, commit, delivery and sweep go on when Redis itself refuses to store more."""
    running, waiting = a_request(), a_request()
    ledger.accept(running, some_texts())
    ledger.accept(waiting, some_texts())
    assert ledger.claim(running.queue_id, "a").state is ClaimState.CLAIMED
    limit_memory(redis, used_share=1.05)

    with pytest.raises(LedgerUnavailable):
        ledger.accept(a_request(), some_texts())
    ledger.renew({"a": running.queue_id})
    assert ledger.suspend(running.queue_id, "a", wait_seconds=0.0, progress=CallProgress(failures=1))
    assert [due.queue_id for due in ledger.sweep(queue_is_empty=False)] == [running.queue_id]
    assert ledger.claim(waiting.queue_id, "b").state is ClaimState.CLAIMED
    for request in (running, waiting):
        decision = ledger.commit(request.queue_id, a_verdict_for(request))
        assert decision is not None
        ledger.mark_delivered(decision)
    assert ledger.sweep(queue_is_empty=True) == []
    assert ledger.figures().open == 0
