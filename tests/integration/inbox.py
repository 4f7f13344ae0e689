"""What arrives on topics, read by kafka-python as a stranger reads it: keys, bytes and headers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from tests.integration.processes import Sent

Event = EventEnvelope[LLMComparisonResultV1]
PARTITIONS = 2
# After the last event that is waited for: time for one that must not come.
QUIET_SECONDS = 0.5


@dataclass(frozen=True)
class Arrived:
    """One record as it came off the wire."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Inbox:
    """All records of some topics from their beginning; every copy is kept."""

    def __init__(self, bootstrap_servers: str, topics: Iterable[str]) -> None:
        self.records: list[Arrived] = []
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            reconnect_backoff_max_ms=500,
        )
        self._consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)])

    def close(self) -> None:
        self._consumer.close()

    def poll(self, seconds: float = 0.1) -> None:
        batches: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=int(seconds * 1000))
        self.records += [
            Arrived(record.topic, record.key.decode(), record.value, tuple(record.headers))
            for batch in batches.values()
            for record in batch
        ]

    def missing(self, requests: Iterable[Sent]) -> list[Sent]:
        arrived = {(record.topic, record.key) for record in self.records}
        return [request for request in requests if (request.topic, request.key) not in arrived]

    def collect(self, requests: Iterable[Sent], seconds: float) -> dict[str, Event]:
        """One event for each request, by key, all of them within the time allowed, and no two that differ."""
        wanted, deadline = list(requests), time.monotonic() + seconds
        while (missing := self.missing(wanted)) and time.monotonic() < deadline:
            self.poll()
        assert not missing, f"{len(missing)} of {len(wanted)} events did not arrive within {seconds:g} s: {missing}"
        self.poll(QUIET_SECONDS)
        return {request.key: self.the_event_of(request) for request in wanted}

    def copies_of(self, request: Sent) -> list[Arrived]:
        return [record for record in self.records if record.key == request.key]

    def the_event_of(self, request: Sent) -> Event:
        """The request's one event; copies of it are the same to the byte, and on the topic that was named."""
        copies = self.copies_of(request)
        assert len(set(copies)) == 1, f"copies that differ: {copies}"
        assert copies[0].topic == request.topic
        event = Event.model_validate_json(copies[0].value)
        assert str(event.correlation_id) == request.key
        assert event.data.request_metadata["essay"] == "4711"
        assert request.queue_id in ("", event.data.request_id)
        return event

    def strangers(self, requests: Iterable[Sent]) -> list[Arrived]:
        """What arrived and belongs to none of these."""
        keys = defaultdict(bool, {request.key: True for request in requests})
        return [record for record in self.records if not keys[record.key]]
