"""A topic that this service may not write to, on a broker that asks its authoriser: refused, and nobody else waits."""

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from llm_provider.adapters.kafka_bus import KafkaBus
from llm_provider.errors import PublishError, TopicUnavailable
from scripts.kafka_topic_bootstrap import bootstrap_topics
from scripts.local_servers import KafkaBroker
from scripts.local_servers.kafka_properties import WITH_ACLS
from tests.integration.conftest import AnyRedis, Operator, installation_on
from tests.integration.inbox import PARTITIONS, Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import Installation, Sent, WebProcess, all_ready, eventually

# The broker answers a refusal at once; a topic that does not exist would take the whole of this.
BLOCK_SECONDS = 5.0
# What "at once" is on a busy machine.
PROMPT_SECONDS = 2.5
# An ACL is noted by the controller first; the broker hears of it a moment later.
SPREAD_SECONDS = 10.0
REASON = "Kafka refuses this topic (TopicAuthorizationFailedError)."

# Who may not even see a topic is told so by the broker's metadata, who may only read it by the produce call.
HIDDEN = [(ACLOperation.ALL, ACLPermissionType.DENY)]
READABLE = [(ACLOperation.READ, ACLPermissionType.ALLOW), (ACLOperation.WRITE, ACLPermissionType.DENY)]
Rules = list[tuple[Any, Any]]


class Authority:
    """Who sets the rules of a broker; its clients all are the same nobody, since they connect in plaintext."""

    def __init__(self, servers: str) -> None:
        self._admin: Any = KafkaAdminClient(bootstrap_servers=servers)

    def close(self) -> None:
        self._admin.close()

    def rule(self, topic: str, rules: Rules) -> None:
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        acls = [ACL("User:ANONYMOUS", "*", operation, permission, pattern) for operation, permission in rules]
        assert not self._admin.create_acls(acls)["failed"]

    def lift(self, topic: str) -> None:
        pattern = ResourcePatternFilter(ResourceType.TOPIC, topic, ACLResourcePatternType.LITERAL)
        everything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)
        [(_, lifted, _)] = self._admin.delete_acls([everything])
        assert lifted


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that asks its authoriser; whatever has no ACL is open."""
    broker = KafkaBroker(tmp_path_factory.mktemp("guarded-kafka"), properties=WITH_ACLS)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def authority(guarded_kafka: KafkaBroker) -> Iterator[Authority]:
    with closing(Authority(guarded_kafka.bootstrap_servers)) as authority:
        yield authority


@pytest.fixture
def bus(guarded_kafka: KafkaBroker, caplog: pytest.LogCaptureFixture) -> Iterator[KafkaBus]:
    # The service silences it, too; and a record of it keeps its connection.
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    with closing(bus_on(guarded_kafka)) as opened:
        yield opened
    gc.collect()


def bus_on(broker: KafkaBroker) -> KafkaBus:
    return KafkaBus(broker.bootstrap_servers, delivery_timeout_seconds=3, max_block_seconds=BLOCK_SECONDS)


def two_topics_on(broker: KafkaBroker) -> tuple[str, str]:
    names = f"acl.{uuid4().hex}", f"acl.{uuid4().hex}"
    bootstrap_topics(broker.bootstrap_servers, PARTITIONS, 1, 30, out=lambda _: None, extra_topics=names)
    return names


def answer_of(bus: KafkaBus, topic: str) -> PublishError | None:
    """What came of publishing one event there: promptly, whatever it was."""
    started = time.monotonic()
    try:
        bus.publish(topic, key=b"key", value=b"{}", headers=[])
    except PublishError as error:
        return error
    finally:
        assert time.monotonic() - started < PROMPT_SECONDS
    return None


def is_refused(bus: KafkaBus, topic: str) -> bool:
    return isinstance(answer_of(bus, topic), TopicUnavailable)


@pytest.mark.parametrize("rules", [HIDDEN, READABLE], ids=["hidden", "readable"])
@pytest.mark.parametrize("is_known", [False, True], ids=["never written to", "written to before"])
def test_a_topic_that_is_not_allowed_is_told_at_once_and_harms_no_other(
    bus: KafkaBus, guarded_kafka: KafkaBroker, authority: Authority, rules: Rules, is_known: bool
) -> None:
    """It is no outage of Kafka; another topic takes events meanwhile, and this one again when it is allowed."""
    refused, other = two_topics_on(guarded_kafka)
    assert answer_of(bus, refused if is_known else other) is None
    authority.rule(refused, rules)
    with closing(bus_on(guarded_kafka)) as probe:
        eventually(lambda: is_refused(probe, refused), SPREAD_SECONDS, "the broker has heard of the rules")

    for _ in range(3):
        error = answer_of(bus, refused)
        assert (type(error), str(error)) == (TopicUnavailable, REASON)
        assert answer_of(bus, other) is None

    authority.lift(refused)
    eventually(lambda: answer_of(bus, refused) is None, SPREAD_SECONDS, "the same bus publishes there again")


# --- On real processes


@pytest.fixture
def chain(
    tmp_path: Path, redis_server: AnyRedis, guarded_kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    """An installation whose Kafka asks its authoriser."""
    installation = installation_on(tmp_path, redis_server, guarded_kafka, provider)
    yield installation
    installation.abandon()


def callback_status(web: WebProcess, request: Sent) -> str:
    return str(web.status_of(request.queue_id)["callback_status"])


def test_an_event_for_a_topic_that_is_not_allowed_ends_with_the_operator(
    chain: Installation, authority: Authority, inbox: Inbox, operator: Operator
) -> None:
    """It holds nobody else back, is listed with Kafka's reason, and is published once it is allowed and replayed."""
    refused = f"{chain.topic}.other"
    authority.rule(refused, READABLE)
    chain.expect("event_became_dead_letter")
    web, worker = chain.web(), chain.worker(DEAD_LETTER_AFTER_SECONDS="1")
    all_ready(web, worker)
    lost = chain.send(web, refused)
    inbox.collect([chain.send(web) for _ in range(5)], 10)
    eventually(lambda: callback_status(web, lost) == "dead", 20, "the event is given up")
    [listed] = operator("dead-letters", "list").stdout.splitlines()
    assert all(word in listed for word in (lost.queue_id, refused, REASON))
    assert not inbox.copies_of(lost)

    authority.lift(refused)
    assert operator("dead-letters", "replay", lost.queue_id).returncode == 0
    inbox.collect([lost], 20)
    eventually(lambda: callback_status(web, lost) == "published", 10, "the delivery is noted")
