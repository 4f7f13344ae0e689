"""A post that was answered 503 since Redis fell silent is taken back: its caller sends it again, and pays once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis import Redis

from scripts.local_servers import KafkaBroker, RedisServer
from tests.conftest import GivenKafka
from tests.integration.conftest import installation_on
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
