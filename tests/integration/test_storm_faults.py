"""The faults of a storm do what they say: one that does not bite would be a storm that shows nothing."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from scripts.local_servers import HOST, wait_until
from scripts.storms.redis_part import RedisPart
from scripts.storms.slow_clients import MANNERS, OF_EACH, SlowClients, ask_health

WAIT_SECONDS = 20
Fault = Callable[[RedisPart], AbstractContextManager[None]]


@contextmanager
def running(redis: RedisPart) -> Iterator[RedisPart]:
    redis.start()
    try:
        yield redis
    finally:
        redis.stop()


def refuses_writes(redis: RedisPart) -> bool:
    with Redis.from_url(redis.primary.url) as client:
        try:
            client.set("tried", "again")
        except ResponseError:
            return True
    return False


@pytest.mark.parametrize("fault", [RedisPart.read_only, RedisPart.full_disk], ids=["a switchover", "a full disk"])
def test_a_redis_that_refuses_writes_goes_on_with_all_it_had(fault: Fault, tmp_path: Path) -> None:
    """Without a restart; and what was written before, and after, outlives one."""
    with running(RedisPart(tmp_path, fails_over=False)) as redis:
        with Redis.from_url(redis.primary.url) as client:
            client.mset({f"before-{number}": "x" * 1000 for number in range(100)})
        pid = redis.primary.pid
        with fault(redis):
            assert wait_until(lambda: refuses_writes(redis), WAIT_SECONDS)
        assert wait_until(lambda: not refuses_writes(redis), WAIT_SECONDS)
        assert redis.primary.pid == pid
        with Redis.from_url(redis.primary.url) as client:
            client.set("after", "x")
            assert client.waitaof(1, 0, WAIT_SECONDS * 1000)[0] == 1
        redis.primary.kill()
        redis.primary.start()
        with Redis.from_url(redis.primary.url) as client:
            assert client.exists("after", *(f"before-{number}" for number in range(100))) == 101


def test_slow_clients_hold_as_many_connections_as_there_are_manners() -> None:
    """Some say nothing, some a part; and a /healthz that does not answer is seen."""
    with closing(socket.create_server((HOST, 0))) as server, ExitStack() as held:
        server.settimeout(WAIT_SECONDS)
        port = server.getsockname()[1]
        with SlowClients(port):
            clients = [held.enter_context(server.accept()[0]) for _ in range(OF_EACH * len(MANNERS))]
            speaking = [manner for manner in MANNERS if manner.opening]
            assert wait_until(lambda: sum(map(has_spoken, clients)) == OF_EACH * len(speaking), WAIT_SECONDS)
        assert ask_health(port, seconds=0.2) is None


def has_spoken(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
