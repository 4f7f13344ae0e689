"""Behind ten thousand that wait, what a dead worker had in flight is taken up at once, and nothing is sent twice."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from uuid import UUID, uuid4

import pytest
from celery import Celery
from kombu import pools
from pytest_celery import CeleryTestWorker
from redis import Redis

from contracts.enums import LLMProviderType
from llm_provider.adapters import redis_transport
from llm_provider.adapters.celery_queue import QUEUE, CeleryTaskDispatcher, celery_settings
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.api_models import LLMConfigOverrides
from llm_provider.bootstrap import ledger_timing
from llm_provider.config import Settings
from llm_provider.internal_models import ComparisonTexts
from llm_provider.queue_models import QueuedRequest, utc_now
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import Installation, eventually

BACKLOG = 10_000
CONCURRENCY = 10
# What an operator gets who configures nothing; the harness is more hasty otherwise.
DEFAULTS = {"LEASE_SECONDS": "10", "SWEEP_INTERVAL_SECONDS": "1", "REDISPATCH_AFTER_SECONDS": "10"}
RECOVERY_SECONDS = 15.0
# The machine may be busy with other work besides.
LENIENCY_SECONDS = 10.0


@pytest.fixture
def redis(chain: Installation) -> Iterator[Redis]:
    with closing(connect_redis(chain.settings["REDIS_URL"], timeout_seconds=5)) as client:
        yield client


@pytest.fixture
def backlog(chain: Installation, redis: Redis) -> Iterator[list[str]]:
    """Requests that are accepted and dispatched, and that no worker has seen yet."""
    settings = Settings(redis_url=chain.settings["REDIS_URL"], key_prefix=chain.settings["KEY_PREFIX"])
    ledger = RedisLedger(redis, prefix=settings.key_prefix, timing=ledger_timing(settings))
    redis_transport.install()
    app = Celery("backlog", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=5))
    dispatcher = CeleryTaskDispatcher(app)
    requests = [a_request(chain.topic) for _ in range(BACKLOG)]
    for request in requests:
        texts = ComparisonTexts(user_prompt=f"id={request.correlation_id} Which?", essay_a="A.", essay_b="B.")
        ledger.accept(request, texts)
        dispatcher.dispatch(request.queue_id)
    yield [str(request.correlation_id) for request in requests]
    app.close()
    pools.reset()  # type: ignore[no-untyped-call] # kombu shares them among apps.


def a_request(topic: str) -> QueuedRequest:
    identity: UUID = uuid4()
    return QueuedRequest(
        queue_id=str(identity),
        correlation_id=identity,
        callback_topic=topic,
        provider=LLMProviderType.OPENAI,
        model="gpt-5.4-mini",
        overrides=LLMConfigOverrides(),
        metadata={},
        queued_at=utc_now(),
        deadline_seconds=3600,
    )


def messages(redis: Redis, chain: Installation) -> int:
    """How many wait in the queue, over all its priorities."""
    lists = [f"{chain.settings['KEY_PREFIX']}{QUEUE}{suffix}" for suffix in ("", "\x06\x163", "\x06\x166", "\x06\x169")]
    return sum(int(redis.llen(name)) for name in lists)


def test_a_dead_workers_requests_do_not_wait_for_the_backlog(
    chain: Installation, provider: OpenAIServer, redis: Redis, backlog: list[str]
) -> None:
    """Within seconds, with nothing configured; those that only wait are not dispatched again for waiting."""
    provider.behave(latency_ms=1500)
    first = chain.worker("-c", str(CONCURRENCY), **DEFAULTS)
    second = chain.worker("-c", str(CONCURRENCY), **DEFAULTS)
    first.ready()
    second.ready()

    def is_in_mid_call() -> bool:
        held = in_flight(first)
        return len(held) == CONCURRENCY and all(provider.by_id[key] == 1 for key in held)

    eventually(is_in_mid_call, 30, "the first worker makes as many calls as it can")
    first.kill()
    killed, lost = time.monotonic(), in_flight(first)
    assert lost
    seconds = RECOVERY_SECONDS + LENIENCY_SECONDS
    eventually(lambda: all(provider.by_id[key] == 2 for key in lost), seconds, "its requests are called again")
    assert time.monotonic() - killed < seconds
    # Whatever has a message waits for its first call, or is one of those; nothing has got a second for waiting.
    called = sum(1 for key in backlog if provider.by_id[key])
    assert messages(redis, chain) <= BACKLOG - called + CONCURRENCY
    assert sum(provider.by_id[key] > 1 for key in backlog) == len(lost)


def in_flight(worker: CeleryTestWorker) -> set[str]:
    """What the worker has claimed and not decided, as it says itself; the ids of these requests are all one."""
    claimed, decided = set(), set()
    for line in worker.logs().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            claimed |= {entry["queue_id"]} if entry["event"] == "request_claimed" else set()
            decided |= {entry["queue_id"]} if entry["event"] == "request_decided" else set()
    return claimed - decided
