"""The bootstrap of the topics against a real Kafka."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient
from kafka.errors import LeaderNotAvailableError, NoError, TopicAlreadyExistsError

from contracts.event_enums import TOPICS
from scripts.kafka_topic_bootstrap import (
    Answer,
    BrokerAwayError,
    Plan,
    Summary,
    TopicsRefusedError,
    bootstrap_topics,
    create,
    raise_refusals,
)
from scripts.local_servers import KafkaBroker, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, "scripts/kafka_topic_bootstrap.py"]
MODULE = [sys.executable, "-m", "scripts.kafka_topic_bootstrap"]


@pytest.fixture
def admin(kafka: KafkaBroker) -> Iterator[Any]:
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A topic that no other test knows."""
    return f"bootstrap.{uuid4().hex}"


def run(command: list[str], kafka: KafkaBroker, *topics: str, **settings: str) -> subprocess.CompletedProcess[str]:
    servers = {"LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    return subprocess.run(
        [*command, *topics],
        cwd=REPOSITORY,
        env=os.environ | servers | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def partitions_of(admin: Any, topic: str) -> int:
    [description] = admin.describe_topics([topic])
    return len(description["partitions"])


def test_every_mapped_topic_and_the_extra_ones_exist_afterwards(kafka: KafkaBroker, admin: Any, name: str) -> None:
    """With the partitions that were asked for, and a second run finds nothing left to do."""
    lines: list[str] = []
    first = bootstrap_topics(kafka.bootstrap_servers, 2, 1, 30, out=lines.append, extra_topics=[name])
    assert name in first.created
    assert {*TOPICS.values(), name} <= set(admin.list_topics())
    assert partitions_of(admin, name) == 2
    assert f"created  {name}" in lines[-1]
    second = bootstrap_topics(kafka.bootstrap_servers, 2, 1, 30, out=lines.append, extra_topics=[name])
    assert second == Summary((), (*TOPICS.values(), name))
    assert lines[-1].endswith(f"0 created, {len(TOPICS) + 1} already there")


def test_a_topic_that_exists_is_left_as_it_is(kafka: KafkaBroker, admin: Any, name: str) -> None:
    """An operator may have chosen other partitions."""
    admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    summary = bootstrap_topics(kafka.bootstrap_servers, 3, 1, 30, out=lambda _: None, extra_topics=[name])
    assert name in summary.existing
    assert partitions_of(admin, name) == 1


def test_a_topic_that_somebody_else_creates_first_is_as_good(admin: Any, name: str) -> None:
    """Several release commands may run at once: whoever comes second finds it there."""
    plan = Plan((name,), partitions=1, replication_factor=1)
    assert create(admin, plan, [name]) == (name,)
    assert create(admin, plan, [name]) == ()


def test_refused_topics_are_named_with_the_brokers_reason(kafka: KafkaBroker, name: str) -> None:
    """Here one broker cannot hold three replicas; waiting would not help, so nobody waits."""
    started = time.monotonic()
    with pytest.raises(TopicsRefusedError, match=rf"{name}: .*replic"):
        bootstrap_topics(kafka.bootstrap_servers, 1, 3, 60, out=lambda _: None, extra_topics=[name])
    assert time.monotonic() - started < 30


def test_of_several_refusals_the_permanent_ones_decide() -> None:
    """One that may pass is worth another attempt only when all others may pass as well."""
    passing = Answer("a", LeaderNotAvailableError, None)
    with pytest.raises(LeaderNotAvailableError, match="a: LeaderNotAvailableError"):
        raise_refusals([passing])
    with pytest.raises(TopicsRefusedError, match="b: because"):
        raise_refusals([passing, Answer("b", TopicAlreadyExistsError, "because")])
    assert not NoError.retriable


def test_a_broker_that_is_still_starting_is_waited_for(tmp_path: Path) -> None:
    """A release command may be quicker than the cluster it comes up with. A broker that hangs is given up in time."""
    broker = KafkaBroker(tmp_path / "late", port=free_port())
    late_start = threading.Timer(1.0, broker.start)
    late_start.start()
    try:
        summary = bootstrap_topics(f"127.0.0.1:{broker.port}", 1, 1, 60, out=lambda _: None)
        assert summary.created == tuple(TOPICS.values())
        late_start.join()
        broker.freeze()
        assert_gives_up(broker.bootstrap_servers)
    finally:
        late_start.join()
        broker.kill()
    assert_gives_up(broker.bootstrap_servers)


def assert_gives_up(servers: str) -> None:
    """After the time allowed: neither at once nor much later."""
    started = time.monotonic()
    with pytest.raises(BrokerAwayError, match=servers):
        bootstrap_topics(servers, 1, 1, 2, out=lambda _: None)
    assert 1 < time.monotonic() - started < 10


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_the_command_creates_the_topics_of_its_arguments(
    kafka: KafkaBroker, admin: Any, name: str, command: list[str]
) -> None:
    """Started either way from the root of the repository, it prints what it did and exits 0."""
    done = run(command, kafka, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"created  {name}" in done.stdout
    assert all(topic in done.stdout for topic in TOPICS.values())
    assert name in admin.list_topics()


@pytest.mark.parametrize(
    ("topics", "settings", "complaint"),
    [
        (["not a topic"], {}, "not a topic"),
        ([], {"LLM_PROVIDER_KAFKA_TOPIC_PARTITIONS": "many"}, "LLM_PROVIDER_KAFKA_TOPIC_PARTITIONS"),
        (
            [],
            {
                "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
                "LLM_PROVIDER_KAFKA_BOOTSTRAP_WAIT_SECONDS": "1",
            },
            "no answer from Kafka at 127.0.0.1:1 within 1 s",
        ),
    ],
    ids=["illegal name", "wrong setting", "nobody there"],
)
def test_the_command_fails_with_one_sentence(
    kafka: KafkaBroker, topics: list[str], settings: dict[str, str], complaint: str
) -> None:
    """A release log shows what is wrong, not where in the code it was noticed."""
    done = run(SCRIPT, kafka, *topics, **settings)
    assert done.returncode == 1
    assert done.stderr.startswith("kafka_topic_bootstrap: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
