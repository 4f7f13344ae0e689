"""Celery as our queue on a real Redis: one id a message, first ones first, and an honest answer whether any waits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from celery import Celery
from kombu import pools

from llm_provider.adapters import redis_transport
from llm_provider.adapters.celery_queue import QUEUE, CeleryTaskDispatcher, celery_settings
from llm_provider.config import Settings
from llm_provider.errors import LedgerUnavailable
from scripts.local_servers import free_port
from tests.conftest import GivenRedis
from tests.integration.processes import ROOT, START_SECONDS


def an_app(redis_url: str, key_prefix: str) -> Celery:
    redis_transport.install()
    app = Celery("test", set_as_current=False)
    settings = Settings(redis_url=redis_url, key_prefix=key_prefix)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=5))
    return app


@pytest.fixture
def app(redis_server: GivenRedis, key_prefix: str) -> Iterator[Celery]:
    with closing(an_app(redis_server.url, key_prefix)) as app:
        yield app
    pools.reset()  # type: ignore[no-untyped-call] # kombu shares them among apps.


def received(app: Celery, count: int) -> list[tuple[str, object]]:
    """Task id and arguments of messages in the order in which a worker would take them."""
    with app.connection_for_read() as connection, connection.SimpleQueue(app.amqp.queues[QUEUE]) as queue:
        messages = [queue.get(timeout=5) for _ in range(count)]
        for message in messages:
            message.ack()
        return [(message.headers["id"], message.payload[:2]) for message in messages]


def test_the_queue_is_empty_until_a_message_waits(app: Celery) -> None:
    """A wrong yes would have sweepers dispatch a whole backlog again, a wrong no would leave a lost message lost."""
    dispatcher = CeleryTaskDispatcher(app)
    assert dispatcher.queue_is_empty()
    dispatcher.dispatch("a")
    assert not dispatcher.queue_is_empty()
    received(app, 1)
    assert dispatcher.queue_is_empty()


def test_a_message_that_only_goes_first_counts_too(app: Celery) -> None:
    """The queue is several lists in Redis, one a priority."""
    dispatcher = CeleryTaskDispatcher(app)
    dispatcher.dispatch("a", first=True)
    assert not dispatcher.queue_is_empty()


def test_a_message_carries_the_id_and_nothing_else(app: Celery) -> None:
    """Its task id is the queue id, so that an operator finds it in flower; its one argument is the same."""
    CeleryTaskDispatcher(app).dispatch("the-queue-id")
    assert received(app, 1) == [("the-queue-id", [["the-queue-id"], {}])]


def test_what_is_dispatched_again_goes_before_what_waits(app: Celery) -> None:
    """A request whose worker died has waited once already."""
    dispatcher = CeleryTaskDispatcher(app)
    dispatcher.dispatch("a")
    dispatcher.dispatch("b")
    dispatcher.dispatch("again", first=True)
    assert [task_id for task_id, _ in received(app, 3)] == ["again", "a", "b"]


def test_without_redis_both_questions_end_with_the_ledgers_error(key_prefix: str) -> None:
    """Quickly, and with an error that the web process and the sweeper know."""
    with closing(an_app(f"redis://127.0.0.1:{free_port()}/0", key_prefix)) as app:
        dispatcher = CeleryTaskDispatcher(app)
        with pytest.raises(LedgerUnavailable):
            dispatcher.dispatch("a")
        with pytest.raises(LedgerUnavailable):
            dispatcher.queue_is_empty()
    pools.reset()  # type: ignore[no-untyped-call] # As above.


@pytest.mark.parametrize("options", [("--time-limit", "140"), ("-P", "processes", "--soft-time-limit", "140")])
def test_a_worker_whose_time_limit_is_shorter_than_a_call_does_not_start(
    redis_server: GivenRedis, options: tuple[str, ...]
) -> None:
    """What it cuts would be paid, and paid again by the next one; the message names the limit and the time."""
    worker = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "celery_app", "worker", *options],
        cwd=ROOT,
        env=os.environ | {"LLM_PROVIDER_REDIS_URL": redis_server.url},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert worker.returncode == 1
    assert "time_limit is 140 s, and a request may take 141 s" in worker.stderr
