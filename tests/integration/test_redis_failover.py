"""A primary that dies while its replica is behind: what was accepted is neither lost nor told in two ways."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from scripts.local_servers import HOST, KafkaBroker, RedisFailover, RedisSentinel, RedisServer, free_port
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import ROOT, Installation, Sent, WebProcess, all_ready, eventually
from tests.integration.silent_proxy import SilentProxy

# As long as the replica is behind when the primary is killed.
BEHIND_SECONDS = 0.3
OUTAGE = ("ledger", "Redis", "redis", "dispatch", "commit_waits", "Connection", "background_work", "delivery_left")


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[RedisFailover]:
    with RedisFailover(tmp_path / "redis").running() as failover:
        yield failover


@pytest.fixture
def chain(
    tmp_path: Path, failover: RedisFailover, kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path, failover, kafka, provider)
    installation.settings |= {"REDIS_REPLICAS": "1"}
    installation.expect(*OUTAGE)
    yield installation
    installation.abandon()


def test_all_parts_find_the_primary_with_both_passwords_and_show_none(
    tmp_path: Path, kafka: KafkaBroker, provider: OpenAIServer
) -> None:
    """Ledger, queue, results and Celery's own commands, though the first Sentinel is gone."""
    redis = RedisServer(tmp_path / "redis", more=["requirepass top/secret"], login=":top%2Fsecret")
    redis.start()
    sentinel = RedisSentinel(
        tmp_path / "sentinel", redis.port, more=("sentinel auth-pass comparisons top/secret",), password="watchword"
    )
    sentinel.start()
    chain = installation_on(tmp_path, redis, kafka, provider)
    hosts = f"{HOST}:{free_port()},{HOST}:{sentinel.port}"
    query = f"service={sentinel.service}&sentinel_password=watchword"
    chain.settings["REDIS_URL"] = f"sentinel://:top%2Fsecret@{hosts}/1?{query}"
    try:
        web, worker = chain.web(), chain.worker()
        all_ready(web, worker)
        polled = chain.send(web, None)
        eventually(lambda: web.get(f"/api/v1/results/{polled.queue_id}").status_code == 200, 20, "the result is there")
        told = celery(chain, "inspect", "ping") + celery(chain, "inspect", "conf") + celery(chain, "report")
        assert "pong" in told
        assert not re.search("top.{1,3}secret|watchword", told + web.logs() + worker.logs())
    finally:
        chain.abandon()
        sentinel.stop()
        redis.stop()


def celery(chain: Installation, *words: str) -> str:
    """What a command of Celery's prints."""
    command = [sys.executable, "-m", "celery", "-A", "celery_app", *words]
    environment = os.environ | {f"LLM_PROVIDER_{name}": value for name, value in chain.settings.items()}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout


class Poster:
    """Posts without a pause, from four threads, until it is stopped."""

    def __init__(self, chain: Installation, web: WebProcess) -> None:
        self.sent: list[Sent] = []
        self._chain, self._web = chain, web
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(4)]

    @property
    def accepted(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.queue_id]

    @property
    def refused(self) -> int:
        return len(self.sent) - len(self.accepted)

    def __enter__(self) -> "Poster":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while not self._stopped.is_set():
            self.sent.append(self._chain.try_to_send(self._web))


def copy_from(replica: RedisServer, port: int) -> None:
    """Have the replica copy from there, as its Sentinel would, and wait until it is in step."""
    with closing(Redis.from_url(replica.url)) as client:
        client.replicaof(HOST, port)
        eventually(lambda: client.info("replication").get("master_link_status") == "up", 20, "it is in step")


def test_a_failover_forgets_nothing_that_was_accepted(
    chain: Installation, failover: RedisFailover, provider: OpenAIServer, inbox: Inbox
) -> None:
    """The replica has not got the last of what the primary had; only what it has was answered 202, or published."""
    web, worker = chain.web(), chain.worker()
    all_ready(web, worker)
    provider.behave(latency_ms=200)
    with closing(SilentProxy(failover.primary.url)) as proxy:
        copy_from(failover.replica, proxy.port)
        with Poster(chain, web) as poster:
            eventually(lambda: len(poster.accepted) > 50, 30, "requests are accepted")
            before = poster.refused
            proxy.fall_silent()
            time.sleep(BEHIND_SECONDS)
            failover.fail_over()
            # The primary has no replica now.
            alone = len(poster.accepted)
            eventually(lambda: poster.refused > before + 20, 30, "posts are refused")
            assert len(poster.accepted) - alone <= 4
            failover.primary.start()
            copy_from(failover.primary, failover.replica.port)
            later = len(poster.accepted)
            eventually(lambda: len(poster.accepted) > later + 20, 30, "requests are accepted again")
    inbox.collect(poster.accepted, 60)
    for record in inbox.records:
        assert len({copy.value for copy in inbox.records if copy.key == record.key}) == 1
