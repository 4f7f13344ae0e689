"""A Redis that is neither up nor down: it answers with errors, cuts connections, hands messages nobody can read."""

import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from redis import Redis

from scripts.local_servers import KafkaBroker, RedisServer
from tests.integration.conftest import installation_on
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import Installation, all_ready, eventually

QUEUE = "comparisons"
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
# Celery tries again after 2 s, then 4 s, ...
BACK_SECONDS = 30.0


@pytest.fixture
def redis(breakable_redis: RedisServer) -> Iterator[Redis]:
    with closing(Redis.from_url(breakable_redis.url, decode_responses=True)) as operator:
        yield operator


@pytest.fixture
def broken_chain(
    tmp_path: Path, breakable_redis: RedisServer, kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path, breakable_redis, kafka, provider)
    yield installation
    installation.abandon()


@dataclass(frozen=True)
class Trouble:
    """A way of not serving that lasts, and `reason`, which /healthz gives for it; none: posts are accepted."""

    redis: Redis
    server: RedisServer
    reason: str | None = None

    def begin(self) -> None: ...

    def end(self) -> None: ...


class ReadOnly(Trouble):
    def begin(self) -> None:
        self.redis.replicaof("127.0.0.1", "1")

    def end(self) -> None:
        self.redis.replicaof("NO", "ONE")


class NoReplicas(Trouble):
    def begin(self) -> None:
        self.redis.config_set("min-replicas-to-write", 1)

    def end(self) -> None:
        self.redis.config_set("min-replicas-to-write", 0)


class NoPermission(Trouble):
    def begin(self) -> None:
        self.redis.acl_setuser("default", enabled=True, commands=["-brpop"])

    def end(self) -> None:
        self.redis.acl_setuser("default", enabled=True, commands=["+brpop"])


class FullDisk(Trouble):
    def begin(self) -> None:
        files = [file for file in self.server.directory.rglob("*.aof") if file.is_file()]
        limit = max(file.stat().st_size for file in files)
        psutil.Process(self.server.pid).rlimit(psutil.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def end(self) -> None:
        psutil.Process(self.server.pid).rlimit(psutil.RLIMIT_FSIZE, NO_LIMIT)


TROUBLES = {
    "read-only": (ReadOnly, "readonly"),
    "no replicas": (NoReplicas, "noreplicas"),
    "full disk": (FullDisk, "misconf"),
    "no permission": (NoPermission, None),
}


@pytest.fixture(autouse=True)
def servers_that_survive_a_full_disk() -> Iterator[None]:
    """What a process ignores its children ignore: Redis is told of the limit by an error, as of a full disk."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", TROUBLES)
def test_whatever_redis_answers_no_process_ends_and_all_go_on_by_themselves(
    name: str, broken_chain: Installation, breakable_redis: RedisServer, redis: Redis
) -> None:
    """Health tells what a post would meet; the worker waits quietly, and is back soon after."""
    make, reason = TROUBLES[name]
    trouble = make(redis, breakable_redis, reason)
    broken_chain.expect("Cannot connect to redis", "background_work")
    web, worker = broken_chain.web(), broken_chain.worker()
    all_ready(web, worker)
    first = broken_chain.send(web, topic=None)
    eventually(lambda: web.status_of(first.queue_id)["status"] == "completed", BACK_SECONDS, "the first is answered")

    trouble.begin()
    try:
        eventually(lambda: "Cannot connect" in worker.container.logs(), BACK_SECONDS, "the worker notices")
        health = web.get("/healthz")
        told = [broken_chain.try_to_send(web, topic=None).queue_id for _ in range(5)]
    finally:
        trouble.end()

    assert health.json().get("ledger") == (trouble.reason or "ok")
    assert (health.status_code == 503) == (not any(told))
    sent = broken_chain.send(web, topic=None)
    eventually(lambda: web.status_of(sent.queue_id)["status"] == "completed", BACK_SECONDS, "the next is answered")
    assert worker.container.status == "running"
    assert worker.container.logs().count("Cannot connect") < 20


def test_a_worker_that_waits_for_redis_to_serve_is_not_taken_for_one_that_hangs(
    broken_chain: Installation, redis: Redis
) -> None:
    """A replica tells how many messages wait, and gives none; Celery tries again inside its event loop."""
    broken_chain.expect("Cannot connect to redis", "background_work")
    web, worker = broken_chain.web(), broken_chain.worker(WORKER_STALL_SECONDS="3", WORKER_CONCURRENCY="1")
    all_ready(web, worker)
    os.kill(worker.container.pid, signal.SIGSTOP)
    sent = [broken_chain.send(web, topic=None) for _ in range(5)]
    redis.replicaof("127.0.0.1", "1")
    os.kill(worker.container.pid, signal.SIGCONT)
    time.sleep(9)
    assert worker.container.status == "running"
    redis.replicaof("NO", "ONE")
    for each in sent:
        eventually(
            lambda each=each: web.status_of(each.queue_id)["status"] == "completed",  # type: ignore[misc]
            BACK_SECONDS,
            "it is answered",
        )


@pytest.mark.parametrize("trouble", ["memory", "-publish", "-sadd"])
def test_a_worker_that_reconnects_into_trouble_goes_on(broken_chain: Installation, redis: Redis, trouble: str) -> None:
    """What Celery does first on a new connection is refused: a lock, a greeting to other workers, a queue's binding."""
    broken_chain.expect("Cannot connect to redis", "background_work", "Frequent restarts")
    web, worker = broken_chain.web(), broken_chain.worker()
    all_ready(web, worker)
    if trouble == "memory":
        redis.config_set("maxmemory", 1)
    else:
        redis.acl_setuser("default", enabled=True, commands=[trouble])
    for kind in ("pubsub", "normal"):
        redis.client_kill_filter(_type=kind, skipme=True)
    time.sleep(4)
    redis.config_set("maxmemory", 0)
    redis.acl_setuser("default", enabled=True, commands=["+@all"])

    assert worker.container.status == "running"
    # That its memory was full is noted for some seconds.
    eventually(lambda: broken_chain.try_to_send(web, topic=None).queue_id, BACK_SECONDS, "the next is accepted")
    sent = broken_chain.send(web, topic=None)
    eventually(lambda: web.status_of(sent.queue_id)["status"] == "completed", BACK_SECONDS, "it is answered")


def test_pooled_connections_leave_a_server_that_was_switched(broken_chain: Installation, redis: Redis) -> None:
    """Each of a web's many connections has met a server that is read-only by then; every later post is accepted."""
    web = broken_chain.web()
    web.ready()
    redis.replicaof("127.0.0.1", "1")
    refused = [broken_chain.try_to_send(web, topic=None).queue_id for _ in range(10)]
    redis.replicaof("NO", "ONE")
    accepted = [broken_chain.try_to_send(web, topic=None).queue_id for _ in range(20)]

    assert (any(refused), all(accepted)) == (False, True)


def test_a_worker_whose_pubsub_connection_is_cut_goes_on(broken_chain: Installation, redis: Redis) -> None:
    """Its event loop must not wait for what nobody sends."""
    web, worker = broken_chain.web(), broken_chain.worker()
    all_ready(web, worker)
    for kinds in (["pubsub"], ["normal"], ["pubsub", "normal"]):
        for kind in kinds:
            redis.client_kill_filter(_type=kind, skipme=True)
        sent = broken_chain.send(web, topic=None)
        eventually(
            lambda sent=sent: web.status_of(sent.queue_id)["status"] == "completed",  # type: ignore[misc]
            BACK_SECONDS,
            f"answered after {kinds} were cut",
        )
    assert worker.container.status == "running"


def test_a_message_that_nobody_can_read_costs_itself_alone(broken_chain: Installation, redis: Redis) -> None:
    """Whoever can write to the queue's key, or publish to Celery's channels, ends no worker."""
    broken_chain.expect(
        "unregistered task", "Can't decode message body", "Cannot process event on channel", "Control command error"
    )
    web, worker = broken_chain.web(), broken_chain.worker()
    all_ready(web, worker)
    prefix = broken_chain.settings["KEY_PREFIX"]
    plain = {"content-type": "application/json", "content-encoding": "utf-8"}
    properties = {"delivery_tag": "1", "delivery_info": {"exchange": "", "routing_key": QUEUE}}
    messages: list[object] = [
        *({}, [], None, "text", 1, [{}]),
        {**plain, "body": "e30=", "headers": {}, "properties": {}},
        {**plain, "body": "!", "headers": {"task": "x", "id": "1"}, "properties": properties},
        {**plain, "body": "e30=", "headers": {"task": "x"}, "properties": {**properties, "body_encoding": "base64"}},
        {**plain, "content-type": "no/such", "body": "{}", "headers": {}, "properties": properties},
        {**plain, "body": "{}", "headers": {"compression": "no/such"}, "properties": properties},
    ]
    redis.lpush(f"{prefix}{QUEUE}", "{", "\ufffd", "[" * 5000, *map(json.dumps, messages))
    for text in ("{", *map(json.dumps, messages)):
        redis.publish(f"{prefix}/0.celery.pidbox", text)

    sent = broken_chain.send(web, topic=None)
    eventually(lambda: web.status_of(sent.queue_id)["status"] == "completed", BACK_SECONDS, "a good one is answered")
    assert worker.container.status == "running"


def test_a_worker_whose_loop_stands_still_ends_after_its_calls(
    broken_chain: Installation, provider: OpenAIServer, tmp_path: Path
) -> None:
    """Only while messages wait; what it has in flight is stored first, and paid once; another worker has the rest."""
    broken_chain.expect("event_loop_stands_still")
    stall = tmp_path / "stall"
    web = broken_chain.web()
    worker = broken_chain.worker(
        app="tests.integration.stalling_worker", WORKER_STALL_SECONDS="3", STALL=str(stall), WORKER_CONCURRENCY="1"
    )
    all_ready(web, worker)
    provider.behave(latency_ms=6000)
    flying = broken_chain.send(web, topic=None)
    eventually(lambda: provider.by_id[flying.key], BACK_SECONDS, "it is at the provider")
    stall.touch()
    waiting = broken_chain.send(web, topic=None)

    assert worker.container.wait(60) == 70
    assert web.status_of(flying.queue_id)["status"] == "completed"
    assert '"event_loop_stands_still"' in worker.container.logs()
    stall.unlink()
    provider.behave()
    worker.container.start()
    eventually(lambda: web.status_of(waiting.queue_id)["status"] == "completed", BACK_SECONDS, "the next one has it")
    assert (provider.by_id[flying.key], provider.by_id[waiting.key]) == (1, 1)
