"""A Redis that has forgotten: flushed, another one, or a record gone; what is at hand is not lost with it."""

from datetime import timedelta
from typing import cast

import pytest
from redis import Redis
from structlog.testing import capture_logs

from llm_provider.callbacks import build_callback
from llm_provider.ledger import DeadLettersProtocol, Decision
from llm_provider.queue_models import utc_now
from tests.ports.ledger_suite import SHORT, Stage, action_of
from tests.unit.builders import a_request, a_verdict_for, an_error_for


def forget(client: Redis, prefix: str) -> None:
    """What a flush does, to the keys of this test."""
    client.delete(*client.keys(f"{prefix}*"))


@pytest.mark.parametrize("topic", ["grades.v1", None])
def test_an_answer_whose_record_has_gone_is_stored_with_its_request(
    on_redis: Stage, redis_client: Redis, key_prefix: str, topic: str | None
) -> None:
    """The first outcome still wins, a sweeper delivers it should its worker die, and nothing stays owed."""
    ledger = on_redis.open(delivery_window=0.0)
    request = on_redis.running(callback_topic=topic)
    forget(redis_client, key_prefix)
    first, second = a_verdict_for(request), an_error_for(request)
    assert ledger.commit(request.queue_id, first, request) == Decision(request, first)
    assert ledger.commit(request.queue_id, second, request) == Decision(request, first, mine=False)
    on_redis.wait(SHORT)
    assert action_of(on_redis.sweep(), request.queue_id) == ["deliver"]
    decision = ledger.decided(request.queue_id)
    assert decision == Decision(request, first)
    ledger.mark_delivered(decision)
    totals = dict(ledger.figures().totals)
    told = totals.pop("published", 0) + totals.pop("stored", 0)
    assert (told, totals) == (1, {"accepted": 1, "completed": 1, "restored": 1})


def test_one_record_that_has_gone_is_owed_once(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """Whether or not a sweeper has missed it before."""
    ledger = on_redis.open()
    for is_missed in (False, True):
        request = on_redis.running()
        redis_client.delete(f"{key_prefix}request:{request.queue_id}")
        if is_missed:
            redis_client.zadd(f"{key_prefix}ledger:open", {request.queue_id: 1})
            on_redis.sweep()
        decision = ledger.commit(request.queue_id, a_verdict_for(request), request)
        assert decision is not None
        ledger.mark_delivered(decision)
    totals = ledger.figures().totals
    assert totals["accepted"] - totals["published"] - totals["lost"] == 0


def test_a_delivered_record_that_has_expired_is_not_brought_back(on_redis: Stage) -> None:
    """A worker that stood still meanwhile comes with a second outcome, which must not be told."""
    ledger = on_redis.open(record_retention=SHORT)
    request = on_redis.running()
    decision = ledger.commit(request.queue_id, a_verdict_for(request), request)
    assert decision is not None
    ledger.mark_delivered(decision)
    assert ledger.commit(request.queue_id, an_error_for(request), request) != Decision(request, an_error_for(request))
    on_redis.wait(SHORT)
    assert ledger.view(request.queue_id) is None
    assert ledger.commit(request.queue_id, an_error_for(request), request) is None
    assert ledger.view(request.queue_id) is None


def test_beyond_its_deadline_an_answer_without_a_record_is_said_to_be_lost(on_redis: Stage) -> None:
    """Nobody keeps a note of what was delivered for longer."""
    ledger, request = on_redis.open(), a_request(queued_at=utc_now() - timedelta(hours=2))
    with capture_logs() as logs:
        assert ledger.commit(request.queue_id, a_verdict_for(request), request) is None
    assert [(line["event"], line["is_restored"]) for line in logs] == [("answer_without_record", False)]
    assert ledger.figures().totals == {"lost": 1}


def test_every_worker_says_once_that_the_ledger_was_replaced(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """It is counted once, and they go on with what is there."""
    workers = [on_redis.open(), on_redis.open()]
    for _ in range(2):
        with capture_logs() as logs:
            for _ in range(2):
                for worker in workers:
                    worker.sweep(queue_is_empty=False)
        if not logs:
            forget(redis_client, key_prefix)
    assert [line["event"] for line in logs] == ["ledger_was_replaced"] * len(workers)
    assert workers[0].figures().totals == {"replaced": 1}


def test_a_delivered_record_keeps_what_status_and_a_resent_event_need(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """The event is the same to the byte; who asked, and with which choices, is gone; a result has its own metadata."""
    ledger = on_redis.open()
    published, polled = (
        on_redis.running(callback_topic=topic, user_id="u" * 200, metadata={"k": "m" * 1000})
        for topic in ("grades.v1", None)
    )
    told = {each.queue_id: a_verdict_for(each) for each in (published, polled)}
    for request in (published, polled):
        decision = ledger.commit(request.queue_id, told[request.queue_id], request)
        assert decision is not None
        ledger.mark_delivered(decision)
    kept = [str(redis_client.hgetall(f"{key_prefix}request:{each.queue_id}")) for each in (published, polled)]
    assert "uuu" not in "".join(kept)
    assert len(kept[1]) < 1000
    before = build_callback(published, told[published.queue_id])
    assert cast(DeadLettersProtocol, ledger).reopen(published.queue_id)
    again = ledger.decided(published.queue_id)
    assert again is not None
    assert build_callback(again.request, again.outcome).model_dump_json() == before.model_dump_json()
