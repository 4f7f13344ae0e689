"""Kafka through kafka-python: one producer a process, every record acknowledged before `publish` returns."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import (
    AuthorizationError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from llm_provider.errors import BrokerUnavailable, EventRefused, PublishError, TopicUnavailable

log = structlog.get_logger(__name__)

# A producer that has timed out this often in a row is replaced: some of its states never end by themselves.
TIMEOUTS_BEFORE_REPLACEMENT = 3


class KafkaBus:
    """EventBusProtocol over a real broker; connects at the first `publish`, so never before a fork."""

    def __init__(self, bootstrap_servers: str, *, delivery_timeout_seconds: float, max_block_seconds: float) -> None:
        self._bootstrap_servers = bootstrap_servers.split(",")
        self._delivery_timeout = delivery_timeout_seconds
        self._max_block = max_block_seconds
        self._producer: KafkaProducer | None = None
        self._timeouts = 0
        self._metadata_seen = 0.0
        self._lock = threading.Lock()

    def publish(self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Return once the broker has acknowledged the record; raise a PublishError in bounded time otherwise."""
        producer, started = self._connected(), time.monotonic()
        try:
            future = producer.send(topic, key=key, value=value, headers=list(headers))
            # Longer than the delivery timeout, so that the answer is the producer's own and final.
            future.get(timeout=self._delivery_timeout + 1)
        except KafkaTimeoutError as error:
            raise self._timed_out(producer, error, started) from None
        except (KafkaError, ValueError) as error:
            raise _refusal(error) from None
        self._timeouts = 0

    def close(self) -> None:
        """Give back the connections; idempotent."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            _close(producer, timeout_seconds=2)

    def _connected(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = self._new_producer()
            return self._producer

    def _new_producer(self) -> KafkaProducer:
        delivery_ms = int(self._delivery_timeout * 1000)
        producer = KafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            client_id="llm-provider",
            acks="all",
            # kafka-python's idempotent producer never recovers from a broker that hung longer than the delivery
            # timeout. Duplicates are byte-identical, and consumers drop them by event_id.
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,
            delivery_timeout_ms=delivery_ms,
            request_timeout_ms=delivery_ms // 2,
            max_block_ms=int(self._max_block * 1000),
            reconnect_backoff_ms=100,
            reconnect_backoff_max_ms=2000,
            allow_auto_create_topics=False,
            # Given, the constructor asks nobody for it, and so neither blocks nor fails while Kafka is away.
            api_version=(3, 0),
        )
        # kafka-python reports a topic that does not exist as a timeout, like a broker that is away.
        producer._metadata.add_listener(self._note_metadata)  # noqa: SLF001 It has no other way to tell them apart.
        return producer

    def _note_metadata(self, _: object) -> None:
        self._metadata_seen = time.monotonic()

    def _timed_out(self, producer: KafkaProducer, error: KafkaTimeoutError, started: float) -> PublishError:
        # The broker told its topics while this one was waited for.
        if "metadata" in str(error) and self._metadata_seen > started:
            return TopicUnavailable("Kafka knows no such topic.")
        self._timeouts += 1
        if self._timeouts >= TIMEOUTS_BEFORE_REPLACEMENT:
            self._replace(producer)
        return BrokerUnavailable("Kafka gave no acknowledgement in time.")

    def _replace(self, producer: KafkaProducer) -> None:
        with self._lock:
            if self._producer is not producer:
                return
            self._producer, self._timeouts = None, 0
        log.warning("kafka_producer_replaced")
        # Closing waits until what cannot be sent has expired; nobody has to wait with it.
        threading.Thread(
            target=_close, args=(producer, self._delivery_timeout + 5), name="kafka-producer-close", daemon=True
        ).start()


def _refusal(error: Exception) -> PublishError:
    # The class name says enough; a message of Kafka's may carry an address.
    reason = type(error).__name__
    if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError | ValueError):
        return EventRefused(f"Kafka refuses this event ({reason}).")
    if isinstance(error, AuthorizationError | InvalidTopicError | UnknownTopicOrPartitionError):
        return TopicUnavailable(f"Kafka refuses this topic ({reason}).")
    return BrokerUnavailable(f"Kafka did not take the event ({reason}).")


def _close(producer: Any, timeout_seconds: float) -> None:
    with suppress(KafkaError):
        producer.close(timeout=timeout_seconds)
