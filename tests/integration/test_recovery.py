"""What dies is made up for: one request, one event, on real processes that are killed where it hurts.

Each request is counted at the provider's server, and every copy of its event is kept and compared.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import httpx2
import psutil
import pytest
from pytest_celery import CeleryTestWorker
from redis import Redis

from scripts.local_servers import KafkaBroker, RedisServer
from tests.conftest import GivenRedis
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import (
    LEASE_SECONDS,
    Installation,
    Sent,
    WebProcess,
    all_ready,
    comparison,
    eventually,
)

# From a kill to the event, on a busy machine; with the settings of these tests it takes 2 to 9 s.
RECOVERY_SECONDS = 25.0

# Nobody else tries to deliver before an attempt could have ended, so these decide when a dead one is noticed.
IMPATIENT = {"KAFKA_DELIVERY_TIMEOUT_SECONDS": "1.5", "KAFKA_MAX_BLOCK_SECONDS": "0.5"}


def assert_all_arrive(web: WebProcess, inbox: Inbox, requests: Sequence[Sent], *, besides: Sequence[Sent] = ()) -> None:
    """One event for each request, its delivery noted, so that no further copy will come, and nothing else.

    An event may come for each of `besides`, too: a post that was answered 503 may have been accepted.
    """
    seconds = RECOVERY_SECONDS
    started = time.monotonic()
    inbox.collect(requests, seconds)
    left = seconds - (time.monotonic() - started)
    eventually(lambda: all(is_noted(web, request) for request in requests), left, "the deliveries are noted")
    inbox.collect(requests, 0)
    assert not inbox.strangers([*requests, *besides])
    assert all(inbox.the_event_of(request) for request in besides if inbox.copies_of(request))


def is_noted(web: WebProcess, request: Sent) -> bool:
    return bool(web.status_of(request.queue_id)["callback_status"] == "published")


def calls(provider: OpenAIServer, requests: Sequence[Sent]) -> list[int]:
    """How often the provider was called for each."""
    return [provider.by_id[request.key] for request in requests]


def holder_of(request: Sent, workers: Sequence[CeleryTestWorker]) -> CeleryTestWorker:
    """The worker that received the request's message."""
    return next(worker for worker in workers if request.queue_id in worker.logs())


def the_dead_of(workers: Sequence[CeleryTestWorker]) -> list[int]:
    """Process ids of those that ended by SIGKILL; the others run."""
    dead = [worker.container for worker in workers if worker.container.status != "running"]
    assert all(process.wait() == -signal.SIGKILL for process in dead)
    return [process.pid for process in dead]


# --- A worker dies


def test_a_worker_killed_during_the_call_is_replaced_by_another(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Its lease lapses, and a worker that lives calls once more: the only case that costs a second call."""
    workers, web = chain.pair(), chain.web()
    all_ready(web, *workers)
    provider.behave(latency_ms=1000)
    request = chain.send(web)
    eventually(lambda: calls(provider, [request]) == [1], 10, "the call of the first worker")
    holder_of(request, workers).kill()
    assert_all_arrive(web, inbox, [request])
    assert calls(provider, [request]) == [2]
    assert len(inbox.copies_of(request)) == 1


@pytest.mark.parametrize(
    ("point", "expected_calls", "expected_copies"),
    [
        ("between call and commit", 2, 1),
        ("with the commit", 1, 1),
        ("between commit and publish", 1, 1),
        ("between publish and note", 1, 2),
        ("with the note", 1, 1),
    ],
)
def test_a_worker_killed_between_two_steps_loses_nothing(
    chain: Installation,
    provider: OpenAIServer,
    inbox: Inbox,
    point: str,
    expected_calls: int,
    expected_copies: int,
) -> None:
    """What was stored is not paid twice; what was published comes again with the same bytes."""
    workers, web = chain.pair(fault=point, **IMPATIENT), chain.web()
    all_ready(web, *workers)
    request = chain.send(web)
    eventually(lambda: the_dead_of(workers), 10, f"a worker died {point}")
    assert_all_arrive(web, inbox, [request])
    assert len(the_dead_of(workers)) == 1
    assert calls(provider, [request]) == [expected_calls]
    assert len(inbox.copies_of(request)) == expected_copies


def test_a_killed_child_of_a_prefork_pool_is_made_up_for(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """The pool that Celery has by default works as well, and its main process forks another child.

    It must be asked for by its other name: Celery takes `-P prefork` for its default, which the setting overrides.
    """
    chain.expect("exited with 'signal 9", "WorkerLostError")
    worker, web = chain.worker("-P", "processes", "-c", "2"), chain.web()
    all_ready(web, worker)
    provider.behave(latency_ms=1000)
    first, main = chain.send(web), worker.container.pid
    eventually(lambda: calls(provider, [first]) == [1], 10, "the call of the child")
    the_child_that_talks_to(provider, worker).kill()
    assert_all_arrive(web, inbox, [first])
    second = chain.send(web)
    assert_all_arrive(web, inbox, [first, second])
    assert calls(provider, [first, second]) == [2, 1]
    assert (worker.container.status, worker.container.pid) == ("running", main)


def test_a_killed_main_process_of_a_prefork_pool_is_made_up_for(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Its children end with it, and another worker takes up what they had in flight."""
    worker, web = chain.worker("-P", "processes", "-c", "2"), chain.web()
    all_ready(web, worker)
    provider.behave(latency_ms=1500)
    request = chain.send(web)
    eventually(lambda: calls(provider, [request]) == [1], 10, "the call of the child")
    psutil.Process(worker.container.pid).kill()
    chain.worker().ready()
    assert_all_arrive(web, inbox, [request])
    assert calls(provider, [request]) == [2]
    assert len(inbox.copies_of(request)) == 1


def the_child_that_talks_to(provider: OpenAIServer, worker: CeleryTestWorker) -> psutil.Process:
    """The one with a connection to the provider; there is no other before the second call."""
    children: list[psutil.Process] = worker.container.children
    [talking] = [
        child
        for child in children
        if any(link.raddr and link.raddr.port == provider.port for link in child.net_connections())
    ]
    return talking


def test_a_worker_that_stands_still_for_longer_than_a_lease_is_taken_for_dead(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """What it had in flight is called again, which nobody can prevent: it is counted, and there is one event."""
    worker, web = chain.worker(), chain.web()
    all_ready(web, worker)
    provider.behave(latency_ms=1500)
    request = chain.send(web)
    eventually(lambda: calls(provider, [request]) == [1], 10, "its call")
    os.kill(worker.container.pid, signal.SIGSTOP)
    chain.worker().ready()
    eventually(lambda: is_noted(web, request), RECOVERY_SECONDS, "the event of the other worker")
    os.kill(worker.container.pid, signal.SIGCONT)
    eventually(lambda: worker.logs().count("request_decided") == 1, 10, "the answer that came too late")
    assert calls(provider, [request]) == [2]
    assert "llm_provider_requests_taken_over_total 1.0" in web.get("/metrics").text
    assert_all_arrive(web, inbox, [request])
    assert len(inbox.copies_of(request)) == 1


# --- The web process dies


@pytest.mark.parametrize("point", ["between acceptance and dispatch", "between dispatch and answer"])
def test_a_web_process_killed_before_it_answers_has_accepted_all_the_same(
    chain: Installation, provider: OpenAIServer, inbox: Inbox, point: str
) -> None:
    """The client saw no answer; the event comes, and once only."""
    chain.expect("was sent SIGKILL")  # gunicorn starts another process, and says why.
    worker, web = chain.worker(), chain.web(fault=point)
    all_ready(web, worker)
    correlation_id = uuid4()
    with pytest.raises(httpx2.TransportError):
        web.post(comparison(correlation_id, chain.topic))
    unanswered = Sent(correlation_id, chain.topic)
    [event] = inbox.collect([unanswered], RECOVERY_SECONDS).values()
    assert_all_arrive(web, inbox, [Sent(correlation_id, chain.topic, event.data.request_id)])
    assert calls(provider, [unanswered]) == [1]


# --- The message is lost


def test_a_message_lost_from_the_queue_is_found_by_the_sweeper(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """A purged queue, or a message that Celery popped just before it died."""
    web = chain.web()
    web.ready()
    requests = [chain.send(web) for _ in range(3)]
    with closing(Redis.from_url(chain.settings["REDIS_URL"])) as redis:
        queues = list(redis.scan_iter(f"{chain.settings['KEY_PREFIX']}comparisons*"))
        assert sum(redis.llen(queue) for queue in queues) == len(requests)
        redis.delete(*queues)
    chain.worker().ready()
    assert_all_arrive(web, inbox, requests)
    assert calls(provider, requests) == [1, 1, 1]


# --- Kafka goes away


@pytest.fixture
def chain_on_breakable_kafka(
    tmp_path: Path, redis_server: RedisServer | GivenRedis, breakable_kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path, redis_server, breakable_kafka, provider)
    yield installation
    installation.abandon()


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_requests_that_finish_while_kafka_is_away_are_told_when_it_is_back(
    chain_on_breakable_kafka: Installation, breakable_kafka: KafkaBroker, provider: OpenAIServer, outage: str
) -> None:
    """Their outcomes wait in the ledger; meanwhile the service accepts, calls and answers as ever."""
    chain = chain_on_breakable_kafka
    chain.expect('"logger": "kafka')  # The library complains of every connection that is refused.
    worker, web = chain.worker(), chain.web()
    all_ready(web, worker)
    before = chain.send(web)
    eventually(lambda: is_noted(web, before), 20, "an event before the outage")
    breakable_kafka.kill() if outage == "killed" else breakable_kafka.freeze()
    during = [chain.send(web) for _ in range(8)]
    eventually(lambda: all(is_decided(web, request) for request in during), 20, "the outcomes are stored")
    assert not any(is_noted(web, request) for request in during)
    # Twice, so that the outage is longer than the producer's own patience.
    eventually(lambda: worker.logs().count("publish_failed") >= 2, 40, "the worker has noticed")
    assert web.post(comparison(uuid4(), None)).status_code == 200
    breakable_kafka.start() if outage == "killed" else breakable_kafka.thaw()
    requests = [before, *during, chain.send(web)]
    # Opened only now: kafka-python leaks a socket with each connection that is refused.
    with closing(Inbox(breakable_kafka.bootstrap_servers, [chain.topic])) as inbox:
        assert_all_arrive(web, inbox, requests)
    assert set(calls(provider, requests)) == {1}
    assert worker.container.status == "running"


def is_decided(web: WebProcess, request: Sent) -> bool:
    return bool(web.status_of(request.queue_id)["status"] == "completed")


# --- Redis goes away


@pytest.fixture
def chain_on_breakable_redis(
    tmp_path: Path, breakable_redis: RedisServer, kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path, breakable_redis, kafka, provider)
    yield installation
    installation.abandon()


# As many calls at once as the two workers make together.
CAPACITY = 20


def cut_connections(redis: RedisServer) -> None:
    """What a failover or a proxy does: Redis stays, the connections do not."""
    with closing(Redis.from_url(redis.url)) as client:
        assert client.client_kill_filter(_type="normal", skipme=True) > 0


def stay_away(redis: RedisServer) -> None:
    """Longer than a lease, so that all of them have lapsed when it is back."""
    redis.stop()
    time.sleep(LEASE_SECONDS + 0.5)
    redis.start()


@pytest.mark.parametrize(
    ("break_it", "load"),
    [(cut_connections, CAPACITY + 10), (RedisServer.restart, CAPACITY - 8), (stay_away, CAPACITY - 8)],
    ids=["connections cut behind a backlog", "restarted", "away for longer than a lease"],
)
def test_redis_breaks_under_load_and_nothing_is_lost_or_called_twice(
    chain_on_breakable_redis: Installation,
    breakable_redis: RedisServer,
    provider: OpenAIServer,
    break_it: Callable[[RedisServer], None],
    load: int,
) -> None:
    """Calls go on while it is away, their outcomes are stored when it is back, and the worker survives."""
    chain = chain_on_breakable_redis
    # Celery cries out, and goes on: what it could not acknowledge comes again, and the ledger knows it.
    chain.expect("Connection to broker lost", "Cannot connect to redis", "Error on restarting", "Couldn't ack")
    workers, web = chain.pair(WORKER_CONCURRENCY=str(CAPACITY // 2)), chain.web()
    all_ready(web, *workers)
    # Longer than a lease: where threads are to spare, only its renewal keeps them from calling again.
    provider.behave(latency_ms=2000 * LEASE_SECONDS)
    requests = [chain.send(web) for _ in range(load)]
    eventually(lambda: sum(calls(provider, requests)) == min(load, CAPACITY), 10, "they run at the provider")
    doubtful = posted_meanwhile(chain, web, lambda: break_it(breakable_redis))
    requests += [chain.send(web) for _ in range(5)]
    provider.behave()
    with closing(Inbox(chain.settings["KAFKA_BOOTSTRAP_SERVERS"], [chain.topic])) as inbox:
        accepted = [request for request in doubtful if request.queue_id]
        assert_all_arrive(web, inbox, [*requests, *accepted], besides=doubtful)
    assert set(calls(provider, [*requests, *accepted])) == {1}
    assert max(calls(provider, doubtful), default=0) <= 1
    assert [worker.container.status for worker in workers] == ["running", "running"]


def test_a_worker_with_unacknowledged_messages_survives_a_restart_of_redis(
    chain_on_breakable_redis: Installation, breakable_redis: RedisServer, provider: OpenAIServer
) -> None:
    """Kombu's own transport ends it. Ours fetch nothing ahead, and so have such messages for a moment only."""
    chain = chain_on_breakable_redis
    chain.expect("Connection to broker lost", "Cannot connect to redis", "Error on restarting", "Couldn't ack")
    worker, web = chain.worker(app="tests.integration.prefetching_worker", WORKER_CONCURRENCY="2"), chain.web()
    all_ready(web, worker)
    provider.behave(latency_ms=3000)
    requests = [chain.send(web) for _ in range(8)]
    eventually(lambda: sum(calls(provider, requests)) == 2 and unacknowledged(chain) == 6, 10, "six are fetched ahead")
    breakable_redis.restart()
    provider.behave()
    with closing(Inbox(chain.settings["KAFKA_BOOTSTRAP_SERVERS"], [chain.topic])) as inbox:
        assert_all_arrive(web, inbox, requests)
    assert set(calls(provider, requests)) == {1}
    assert worker.container.status == "running"


def unacknowledged(chain: Installation) -> int:
    with closing(Redis.from_url(chain.settings["REDIS_URL"])) as redis:
        return sum(redis.hlen(key) for key in redis.scan_iter("*unacked") if redis.type(key) == b"hash")


def posted_meanwhile(chain: Installation, web: WebProcess, event: Callable[[], None]) -> list[Sent]:
    """What was posted while something happened; without a queue id when it was answered 503, accepted or not."""
    posted = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        happening = pool.submit(event)
        while not happening.done():
            posted.append(chain.try_to_send(web))
        happening.result()
    return posted


def test_a_prefork_worker_gets_over_a_child_that_dies_while_it_starts(
    chain_on_breakable_redis: Installation, breakable_redis: RedisServer
) -> None:
    """Celery counts its children when it is connected, and would end for one that is missing."""
    chain = chain_on_breakable_redis
    chain.expect("Cannot connect to redis", "did not answer", "redis_not_checked", "exited with 'signal 9")
    breakable_redis.stop()
    worker, web = chain.worker("-P", "processes", "-c", "2"), chain.web()
    eventually(lambda: "Cannot connect to redis" in worker.logs(), 20, "it waits for Redis")
    worker.container.children[-1].kill()
    breakable_redis.start()
    all_ready(web, worker)
    with closing(Inbox(chain.settings["KAFKA_BOOTSTRAP_SERVERS"], [chain.topic])) as inbox:
        assert_all_arrive(web, inbox, [chain.send(web) for _ in range(4)])
    assert worker.container.status == "running"
