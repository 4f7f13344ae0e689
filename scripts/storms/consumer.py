"""The independent consumer: plain kafka-python and json, so that nothing of the service can hide a slip."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from scripts.storms.account import Arrival, Records

POLL_MS = 200


class Consumer:
    """Reads topics from their beginning on, each record once, however often Kafka goes away.

    It keeps its own positions and joins no group: a group would have to be found again after every restart.
    """

    def __init__(self, records: Records, bootstrap_servers: str, topics: Sequence[str]) -> None:
        self._records = records
        self._bootstrap_servers = bootstrap_servers
        self._topics = topics
        self._positions: dict[TopicPartition, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with suppress(KafkaError, OSError):
                self._read()
            self._stopped.wait(0.2)

    def _read(self) -> None:
        consumer = self._connected()
        try:
            while not self._stopped.is_set():
                for partition, records in consumer.poll(timeout_ms=POLL_MS).items():
                    self._take(partition, records)
        finally:
            with suppress(KafkaError, OSError):
                consumer.close(timeout_ms=1000)

    def _connected(self) -> KafkaConsumer:
        consumer = KafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            reconnect_backoff_max_ms=500,
            request_timeout_ms=5000,
            bootstrap_timeout_ms=3000,
        )
        partitions = [TopicPartition(topic, one) for topic in self._topics for one in _partitions(consumer, topic)]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, self._positions.get(partition, 0))
        return consumer

    def _take(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        now = time.monotonic()
        for record in records:
            if record.offset >= self._positions.get(partition, 0):
                self._positions[partition] = record.offset + 1
                self._records.arrivals.append(arrival(record.topic, record.key, record.value, now))


def _partitions(consumer: KafkaConsumer, topic: str) -> set[int]:
    found: set[int] | None = consumer.partitions_for_topic(topic)
    if not found:
        raise KafkaError(f"{topic} is not there yet")
    return found


def arrival(topic: str, key: bytes | None, value: bytes, at: float) -> Arrival:
    """What one record says; one that cannot be read says nothing, and is counted as misdirected."""
    name = (key or b"").decode(errors="replace")
    try:
        return Arrival(topic, name, value, at, **_read(value))
    except (ValueError, KeyError, TypeError):
        return Arrival(topic, name, value, at)


def _read(value: bytes) -> dict[str, Any]:
    event = json.loads(value)
    data = event["data"]
    error = data["error_detail"]
    if (data["winner"] is None) == (error is None):
        raise ValueError("neither a verdict nor an error, or both")
    return {
        "number": int(data["request_metadata"]["number"]),
        "queue_id": data["request_id"],
        "event_id": event["event_id"],
        "correlation_id": data["correlation_id"],
        "error_code": error["error_code"] if error else "",
    }
