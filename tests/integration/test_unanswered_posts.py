"""A Redis that falls silent while posts wait for it, or forgets all it knew while their calls run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis import Redis

from scripts.local_servers import KafkaBroker, RedisServer
from tests.conftest import GivenKafka
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import Installation, all_ready, comparison, eventually

POSTS = 12


@pytest.fixture
def chain(
    tmp_path: Path, breakable_redis: RedisServer, kafka: KafkaBroker | GivenKafka, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path, breakable_redis, kafka, provider)
    yield installation
    installation.abandon()


def test_what_was_answered_503_does_not_run_when_redis_wakes_up(
    chain: Installation, breakable_redis: RedisServer, provider: OpenAIServer
) -> None:
    """Half of them are polled, and half name a callback topic; none is left in the ledger, and none is called."""
    worker, web = chain.worker(), chain.web(WEB_REDIS_TIMEOUT_SECONDS="0.3", WEB_THREADS=str(POSTS))
    all_ready(web, worker)

    def post(number: int) -> tuple[int, UUID]:
        sent = uuid4()
        body = comparison(sent, chain.topic if number % 2 else None)
        return web.post(body, Prefer="respond-async").status_code, sent

    with ThreadPoolExecutor(POSTS) as pool:
        # Over a connection that is there already, a command reaches a Redis that says nothing.
        eventually(lambda: {status for status, _ in pool.map(post, range(POSTS))} == {202}, 20, "all are accepted")
        breakable_redis.freeze()
        answers = list(pool.map(post, range(POSTS)))
        breakable_redis.thaw()
    refused = [str(sent) for status, sent in answers if status == 503]
    assert len(refused) == POSTS
    with Redis.from_url(breakable_redis.url, decode_responses=True) as redis:
        prefix = chain.settings["KEY_PREFIX"]
        eventually(lambda: web.logs().count("request_retracted") == POSTS, 20, "all are taken back")
        eventually(lambda: redis.zcard(f"{prefix}ledger:open") == 0, 20, "nothing is open")
        assert int(redis.hget(f"{prefix}ledger:totals", "retracted") or 0) > 0, "none had reached Redis"
    assert not [sent for sent in refused if provider.by_id[sent]]


def test_what_runs_while_redis_forgets_everything_is_told_all_the_same(
    chain: Installation, breakable_redis: RedisServer, provider: OpenAIServer
) -> None:
    """The worker knows request and answer: the event is published, the result can be fetched, an operator is told."""
    chain.expect("ledger_was_replaced", "answer_without_record")
    worker, web = chain.worker(), chain.web()
    all_ready(web, worker)
    provider.behave(latency_ms=3000)
    with Redis.from_url(breakable_redis.url) as redis:
        eventually(lambda: redis.exists(f"{chain.settings['KEY_PREFIX']}ledger:epoch"), 20, "the worker has swept")
        told, polled = chain.send(web), chain.send(web, None)
        eventually(lambda: provider.open == 2, 20, "both are called")
        redis.flushall()
    with closing(Inbox(chain.settings["KAFKA_BOOTSTRAP_SERVERS"], [chain.topic])) as inbox:
        inbox.collect([told], 30)
        assert inbox.the_event_of(told).data.winner is not None
    eventually(lambda: web.get(f"/api/v1/results/{polled.queue_id}").status_code == 200, 20, "the result is there")
    assert worker.logs().count("answer_without_record") == 2
    assert worker.logs().count("ledger_was_replaced") == 1
    eventually(lambda: "llm_provider_ledger_replaced_total 1.0" in web.get("/metrics").text, 10, "it is counted")
