"""The stage of the tests on real processes: a provider that counts, an installation, and pytest-celery's clusters."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import pools
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from llm_provider.adapters.celery_queue import celery_settings
from llm_provider.config import Settings
from scripts.kafka_topic_bootstrap import bootstrap_topics
from scripts.local_servers import KafkaBroker, RedisFailover, RedisServer
from tests.conftest import GivenKafka, GivenRedis
from tests.integration.inbox import PARTITIONS, Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import QUICK_SETTINGS, Installation, ServerNode, WebProcess

LOG_TAIL_LINES = 100

AnyKafka = KafkaBroker | GivenKafka
AnyRedis = RedisServer | RedisFailover | GivenRedis
Open = Callable[..., Installation]
Operator = Callable[..., subprocess.CompletedProcess[str]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows what the processes of its installation logged."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Installation):
                report.sections += [(f"log of {process.name}", _telling(process.logs())) for process in value.processes]
    return report


def _telling(logs: str) -> str:
    """The end of a log, without the many lines that tell only how a test waited."""
    lines = [line for line in logs.splitlines() if '"comparisons.status"' not in line]
    return "\n".join(lines[-LOG_TAIL_LINES:])


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    """The test's own: it answers at once until it is told otherwise, and counts calls by correlation id."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="session")
def breakable_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("breakable-kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def breakable_kafka(breakable_broker: KafkaBroker) -> Iterator[KafkaBroker]:
    """A Kafka that a test may kill and freeze; the next one finds it well."""
    yield breakable_broker
    if breakable_broker.pid is not None:
        breakable_broker.thaw()
    breakable_broker.start()


@pytest.fixture
def breakable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of a file's tests, which may break it and put it right again."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def installation_on(directory: Path, redis: AnyRedis, kafka: AnyKafka, provider: OpenAIServer) -> Installation:
    """Settings, keys and a topic that nobody else uses; no process runs yet."""
    name = uuid4().hex
    settings = QUICK_SETTINGS | {
        "REDIS_URL": redis.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KEY_PREFIX": f"test-{name}:",
        "OPENAI_BASE_URL": provider.base_url,
    }
    topics = [f"test.{name}", f"test.{name}.other"]
    bootstrap_topics(kafka.bootstrap_servers, PARTITIONS, 1, 30, out=lambda _: None, extra_topics=topics)
    return Installation(directory, settings, topic=topics[0])


@pytest.fixture
def chain(tmp_path: Path, redis_server: AnyRedis, kafka: AnyKafka, provider: OpenAIServer) -> Iterator[Installation]:
    """An installation on the servers of the whole run."""
    installation = installation_on(tmp_path, redis_server, kafka, provider)
    yield installation
    installation.abandon()


@pytest.fixture
def inbox(chain: Installation) -> Iterator[Inbox]:
    """Both topics of the installation."""
    topics = [chain.topic, f"{chain.topic}.other"]
    with closing(Inbox(chain.settings["KAFKA_BOOTSTRAP_SERVERS"], topics)) as opened:
        yield opened


@pytest.fixture
def web(chain: Installation, worker: CeleryTestWorker) -> WebProcess:
    """The web process of the installation; it and the worker come up side by side."""
    process = chain.web()
    process.ready()
    worker.ready()
    return process


@pytest.fixture
def worker(chain: Installation) -> CeleryTestWorker:
    """One worker as an operator starts it."""
    return chain.worker()


@pytest.fixture
def operator(chain: Installation) -> Operator:
    """The operator's command line with the installation's settings."""
    settings = {f"LLM_PROVIDER_{name}": value for name, value in chain.settings.items()}
    program = Path(sys.executable).with_name("llm-provider")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **settings}
        return subprocess.run(
            [program, *words], env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    return run


@pytest.fixture
def celery_broker_cluster(chain: Installation) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(CeleryTestBroker(ServerNode(chain.settings["REDIS_URL"])))


@pytest.fixture
def celery_backend_cluster(chain: Installation) -> CeleryBackendCluster:
    return CeleryBackendCluster(CeleryTestBackend(ServerNode(chain.settings["REDIS_URL"])))


@pytest.fixture
def celery_worker_cluster(worker: CeleryTestWorker) -> CeleryWorkerCluster:
    return CeleryWorkerCluster(worker)


@pytest.fixture
def celery_setup_app(chain: Installation) -> Iterator[Celery]:
    """What an operator's Python shell would use: the same broker, backend and keys."""
    settings = Settings(redis_url=chain.settings["REDIS_URL"], key_prefix=chain.settings["KEY_PREFIX"])
    app = Celery("operator", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=5))
    yield app
    app.backend.client.close()
    app.close()
    # kombu shares them among apps; a closed one must not be found by the next test.
    pools.reset()  # type: ignore[no-untyped-call] # kombu ships half its types.
