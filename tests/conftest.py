"""What every test may use: a Redis and a Kafka, and an environment without the laptop's own settings.

One's own servers are used where LLM_PROVIDER_REDIS_URL or LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS name them, with keys and
topics of this run. Tests that kill, freeze or fill a server always start one of their own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from llm_provider.config import PREFIX
from scripts.local_servers import KafkaBroker, RedisServer

# Kept under another name: the processes of pytest-xdist see what this one's environment holds by then.
GIVEN = "GIVEN_"
for _name in list(os.environ):
    if _name.startswith(PREFIX):
        os.environ[GIVEN + _name] = os.environ.pop(_name)


@dataclass(frozen=True)
class GivenKafka:
    """A broker that the user runs."""

    bootstrap_servers: str


@dataclass(frozen=True)
class GivenRedis:
    """A Redis that the user runs."""

    url: str


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker | GivenKafka]:
    """A broker for tests that leave it as it is; topics are the test's own."""
    if given := os.environ.get(f"{GIVEN}LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS"):
        yield GivenKafka(given)
        return
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | GivenRedis]:
    """A Redis for tests that leave it as it is; keys have the test's own prefix."""
    if given := os.environ.get(f"{GIVEN}LLM_PROVIDER_REDIS_URL"):
        yield GivenRedis(given)
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def key_prefix() -> str:
    """Keys that no other test sees."""
    return f"test-{uuid4().hex}:"
