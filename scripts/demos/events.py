"""The answers that come as events: a consumer of the run's topics, and what it has to see."""

import time
from collections.abc import Mapping
from uuid import UUID

from kafka import KafkaConsumer

from examples.consumer import results
from scripts.demos.comparisons import Comparison
from scripts.demos.demo import Demo
from scripts.demos.environment import brokers
from scripts.demos.screen import Show
from scripts.programs import ANSWER_SECONDS


def subscribe(demo: Demo, environment: Mapping[str, str]) -> KafkaConsumer:
    consumer = KafkaConsumer(
        *demo.topics,
        bootstrap_servers=brokers(environment),
        group_id=demo.name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    demo.stack.callback(consumer.close, timeout_ms=2000)

    def joined() -> bool:
        consumer.poll(timeout_ms=50)
        return bool(consumer.assignment())

    # An event that comes earlier would wait, and its time of arrival say nothing.
    demo.wait_until(joined, "the consumer")
    return consumer


def collect(demo: Demo, consumer: KafkaConsumer, awaited: dict[str, Comparison], show: Show) -> None:
    """Until every event is here, or time is up; `awaited` goes by queue id."""
    handled: set[UUID] = set()
    deadline = time.monotonic() + ANSWER_SECONDS
    while awaited and time.monotonic() < deadline:
        for topic, event in results(consumer, handled, wait_ms=250):
            comparison = awaited.pop(event.data.request_id, None)
            if comparison:
                comparison.arrived(topic, event)
                show(comparison)
        demo.check()
