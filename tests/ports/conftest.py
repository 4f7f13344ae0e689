"""The stage of the ledger's behaviour suite, once in memory and once on Redis."""

from collections.abc import Iterator

import pytest
from redis import Redis

from llm_provider.adapters.redis_client import connect_redis
from tests.ports.ledger_suite import Server, Stage, memory_stage, redis_stage


@pytest.fixture
def redis_client(redis_server: Server) -> Iterator[Redis]:
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield client
    client.close()


@pytest.fixture(params=["memory", "redis"])
def stage(request: pytest.FixtureRequest, key_prefix: str) -> Stage:
    if request.param == "memory":
        return memory_stage()
    return redis_stage(request.getfixturevalue("redis_client"), key_prefix)


@pytest.fixture
def on_redis(redis_client: Redis, key_prefix: str) -> Stage:
    return redis_stage(redis_client, key_prefix)
