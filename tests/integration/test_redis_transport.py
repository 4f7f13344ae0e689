"""The repairs of kombu's Redis transport, beside kombu's own behaviour, on a real Redis."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection as KombuConnection
from kombu.entity import Queue as KombuQueue
from kombu.transport.redis import Transport as KombusTransport
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from llm_provider.adapters.redis_transport import Transport, install
from scripts.local_servers import RedisServer, wait_until

# kombu ships half its types; without them its calls are checked against nothing.
Connection: Any = KombuConnection
Queue: Any = KombuQueue

QUEUE = Queue("work")
# Long enough to cut the connection of whoever waits, short enough to wait for.
PAUSE_MS = 1500


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def channel_that_outlived_its_connection(connection: Any, redis: RedisServer) -> Any:
    """As after a restart of Redis in a worker: a message is unacknowledged, and Celery has given up the connection."""
    channel = connection.channel()
    queue = QUEUE(channel)
    queue.declare()
    with connection.Producer(channel) as producer:
        producer.publish({"id": 1}, routing_key=QUEUE.name)
    assert queue.get() is not None
    redis.restart()
    connection.collect(socket_timeout=1)
    channel._disconnect_pools()  # noqa: SLF001 - A channel that breaks does it.
    return channel


def test_a_channel_whose_connection_is_gone_fails_as_celery_can_survive_it(redis: RedisServer) -> None:
    """With an error of the kind that makes a worker connect again."""
    with closing(Connection(redis.url, transport=Transport)) as connection:
        channel = channel_that_outlived_its_connection(connection, redis)
        with pytest.raises(RedisConnectionError) as raised:
            channel._create_client()  # noqa: SLF001 - What restoring a message begins with.
        assert isinstance(raised.value, connection.recoverable_connection_errors)


def test_kombus_own_channel_fails_as_celery_cannot_survive_it(redis: RedisServer) -> None:
    """When this fails, kombu has repaired it, and our repair may go."""
    with closing(Connection(redis.url, transport=KombusTransport)) as connection:
        channel = channel_that_outlived_its_connection(connection, redis)
        with pytest.raises(AttributeError) as raised:
            channel._create_client()  # noqa: SLF001 - As above.
        assert not isinstance(raised.value, connection.recoverable_connection_errors)


def test_a_publisher_does_not_notice_a_connection_that_was_cut(redis: RedisServer) -> None:
    """The one immediate retry heals a pooled connection."""
    with closing(Connection(redis.url, transport=Transport)) as connection, connection.SimpleQueue(QUEUE.name) as queue:
        queue.put("before")
        redis.restart()
        queue.put("after")
        assert [queue.get(timeout=5).payload for _ in range(2)] == ["before", "after"]


def test_a_connection_that_is_cut_under_a_command_costs_one_more_try(redis: RedisServer) -> None:
    """Nobody can tell before that it will be; the same message twice would be no harm."""
    with (
        closing(Connection(redis.url, transport=Transport)) as connection,
        connection.SimpleQueue(QUEUE.name) as queue,
        closing(Redis.from_url(redis.url)) as operator,
        ThreadPoolExecutor(1) as pool,
    ):
        queue.put("before")
        operator.client_pause(PAUSE_MS, all=False)
        put = pool.submit(queue.put, "after")
        assert wait_until(lambda: operator.info("clients")["blocked_clients"] == 1, 5)
        operator.client_kill_filter(_type="normal", skipme=True)
        put.result()
        assert [queue.get(timeout=5).payload for _ in range(2)] == ["before", "after"]


def test_the_usual_scheme_means_this_transport(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So flower and the logs show the address that everybody knows."""
    # A process that has used the scheme before keeps what it meant then; the service installs it first of all.
    monkeypatch.setattr("kombu.transport._transport_cache", {})
    install()
    with closing(Connection(redis.url)) as connection:
        assert type(connection.transport) is Transport
