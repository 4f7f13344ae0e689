"""KafkaBus against a real broker: well, missing a topic, frozen, killed and back."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import uuid4

import pytest

from llm_provider.adapters.kafka_bus import KafkaBus
from llm_provider.errors import BrokerUnavailable, EventRefused, PublishError, TopicUnavailable
from scripts.kafka_topic_bootstrap import bootstrap_topics
from scripts.local_servers import HOST, KafkaBroker, free_port
from tests.conftest import GivenKafka
from tests.integration.inbox import PARTITIONS, Inbox

# kafka-python forgets to close the socket of a connection that was refused.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

DELIVERY_SECONDS = 3.0
BLOCK_SECONDS = 1.0
# What a busy machine may add.
SLACK_SECONDS = 4.0
MARK = b"{}"
# How long a bus may need to find a broker that is back: its longest back-off is two seconds.
RETURN_SECONDS = 20.0


def bus_on(servers: str) -> KafkaBus:
    return KafkaBus(servers, delivery_timeout_seconds=DELIVERY_SECONDS, max_block_seconds=BLOCK_SECONDS)


def topic_on(broker: KafkaBroker | GivenKafka) -> str:
    """A topic of the test's own."""
    name = f"bus.{uuid4().hex}"
    bootstrap_topics(broker.bootstrap_servers, PARTITIONS, 1, 30, out=lambda _: None, extra_topics=[name])
    return name


def publish(bus: KafkaBus, topic: str, key: str = "key", value: bytes = MARK) -> None:
    bus.publish(topic, key=key.encode(), value=value, headers=[("event_id", b"e")])


@pytest.fixture(autouse=True)
def forgotten_sockets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """They are collected here, and not in the middle of another module's test."""
    # pytest keeps what is logged, and a record of kafka-python's keeps its connection.
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    yield
    for thread in threading.enumerate():
        if thread.name == "kafka-producer-close":
            thread.join(DELIVERY_SECONDS + 10)
    gc.collect()


@pytest.fixture
def bus(kafka: KafkaBroker | GivenKafka) -> Iterator[KafkaBus]:
    with closing(bus_on(kafka.bootstrap_servers)) as opened:
        yield opened


@pytest.fixture
def topic(kafka: KafkaBroker | GivenKafka) -> str:
    return topic_on(kafka)


def keys_on(servers: str, topic: str, count: int) -> list[str]:
    with closing(Inbox(servers, [topic])) as inbox:
        deadline = time.monotonic() + RETURN_SECONDS
        while len(inbox.records) < count and time.monotonic() < deadline:
            inbox.poll()
        return [record.key for record in inbox.records]


def took(action: Callable[[], None], error: type[PublishError]) -> float:
    """The seconds after which it raised that error."""
    started = time.monotonic()
    with pytest.raises(error) as raised:
        action()
    assert type(raised.value) is error
    return time.monotonic() - started


def test_what_is_published_is_acknowledged_and_arrives_as_it_was_given(
    bus: KafkaBus, kafka: KafkaBroker, topic: str
) -> None:
    """Key, value and headers to the byte."""
    bus.publish(topic, key=b"k-1", value=b'{"a": 1}', headers=[("event_id", b"e-1"), ("ce_id", "ü".encode())])
    with closing(Inbox(kafka.bootstrap_servers, [topic])) as inbox:
        while not inbox.records:
            inbox.poll()
        [record] = inbox.records
    assert (record.topic, record.key, record.value) == (topic, "k-1", b'{"a": 1}')
    assert record.headers == (("event_id", b"e-1"), ("ce_id", "ü".encode()))


def test_many_threads_share_one_producer(bus: KafkaBus, kafka: KafkaBroker, topic: str) -> None:
    """Each returns with its own acknowledgement; a worker has a hundred of them."""
    keys = [f"k-{number}" for number in range(50)]
    threads = [threading.Thread(target=publish, args=(bus, topic, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys_on(kafka.bootstrap_servers, topic, len(keys))) == sorted(keys)


def test_a_topic_that_does_not_exist_is_told_in_time_and_harms_no_other(bus: KafkaBus, topic: str) -> None:
    """One wrong topic must not hold a worker's threads, nor look like an outage of Kafka."""
    publish(bus, topic)
    seconds = took(lambda: publish(bus, f"no-such.{uuid4().hex}"), TopicUnavailable)
    assert seconds < BLOCK_SECONDS + SLACK_SECONDS
    publish(bus, topic)


def test_a_topic_that_does_not_exist_is_told_from_an_outage_by_the_first_publish_too(bus: KafkaBus) -> None:
    """Even when the producer has spoken to nobody before."""
    took(lambda: publish(bus, f"no-such.{uuid4().hex}"), TopicUnavailable)


@pytest.mark.parametrize(
    ("name", "value"),
    [(None, b"x" * 1_100_000), ("not a topic", MARK)],
    ids=["too large", "illegal name"],
)
def test_what_kafka_never_takes_is_refused_for_good(bus: KafkaBus, topic: str, name: str | None, value: bytes) -> None:
    """Trying again would not help."""
    seconds = took(lambda: publish(bus, name or topic, value=value), EventRefused)
    assert seconds < BLOCK_SECONDS + SLACK_SECONDS


def test_building_a_bus_connects_to_nobody() -> None:
    """A wrong address shows at the first publish, in time, and as an outage, for which any topic is as good."""
    before = set(threading.enumerate())
    with closing(bus_on(f"{HOST}:{free_port()}")) as bus:
        assert set(threading.enumerate()) <= before
        seconds = took(lambda: publish(bus, "any"), BrokerUnavailable)
    assert seconds < BLOCK_SECONDS + DELIVERY_SECONDS + SLACK_SECONDS


def test_closing_twice_is_as_good_as_once(bus: KafkaBus, topic: str) -> None:
    """Also before anything was published; a publish afterwards opens it again."""
    bus.close()
    publish(bus, topic)
    bus.close()
    bus.close()


@pytest.mark.parametrize("outage", ["frozen", "killed"])
def test_a_broker_that_goes_away_is_noticed_in_time_and_found_again(breakable_kafka: KafkaBroker, outage: str) -> None:
    """The same bus works again after its return, also when the outage was longer than the delivery timeout."""
    topic = topic_on(breakable_kafka)
    with closing(bus_on(breakable_kafka.bootstrap_servers)) as bus:
        publish(bus, topic, "before")
        breakable_kafka.freeze() if outage == "frozen" else breakable_kafka.kill()
        # More often than it takes to have the producer replaced.
        for _ in range(4):
            seconds = took(lambda: publish(bus, topic, "during"), BrokerUnavailable)
            assert seconds < BLOCK_SECONDS + DELIVERY_SECONDS + 1 + SLACK_SECONDS
        breakable_kafka.thaw() if outage == "frozen" else breakable_kafka.start()
        publish_until_acknowledged(bus, topic, "after")
    keys = keys_on(breakable_kafka.bootstrap_servers, topic, 2)
    assert keys[0] == "before" or "before" in keys
    assert "after" in keys


def publish_until_acknowledged(bus: KafkaBus, topic: str, key: str) -> None:
    """As the sweeper does it."""
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        try:
            publish(bus, topic, key)
        except PublishError:
            assert time.monotonic() < deadline, "the bus does not recover"
        else:
            return
