"""An event bus that keeps its records in a list. For tests of whatever publishes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_provider.errors import PublishError


@dataclass(frozen=True)
class PublishedRecord:
    """One acknowledged record."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class MemoryBus:
    """EventBusProtocol in one process; `failures` maps a topic to the error its publications end with."""

    records: list[PublishedRecord] = field(default_factory=list)
    failures: dict[str, PublishError] = field(default_factory=dict)
    closed: bool = False

    def publish(self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        if topic in self.failures:
            raise self.failures[topic]
        self.records.append(PublishedRecord(topic, key, value, tuple(headers)))

    def close(self) -> None:
        self.closed = True
