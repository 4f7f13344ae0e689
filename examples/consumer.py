"""A consumer of comparison results: KAFKA_BOOTSTRAP_SERVERS=host:port python examples/consumer.py TOPIC [TOPIC ...]"""

import os
import signal
import sys
from collections.abc import Iterator
from uuid import UUID

from kafka import KafkaConsumer
from pydantic import ValidationError

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1

Event = EventEnvelope[LLMComparisonResultV1]
SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
SETTINGS = {"group_id": "essay-results", "auto_offset_reset": "earliest", "enable_auto_commit": False}


def results(consumer: KafkaConsumer, handled: set[UUID], wait_ms: int = 1000) -> Iterator[tuple[str, Event]]:
    """Yield what one poll brings, then commit. A real service stores the ids in `handled` with its data."""
    batch = [record for records in consumer.poll(timeout_ms=wait_ms).values() for record in records]
    for record in batch:
        try:
            event = Event.model_validate_json(record.value)
        except ValidationError as error:  # Whoever stops at such a record stops there for ever.
            print(f"skipped a record that is no comparison result: {error.error_count()} errors", file=sys.stderr)
            continue
        if event.event_id not in handled:  # Delivery is at least once.
            yield record.topic, event
            handled.add(event.event_id)
    if batch:
        consumer.commit()


def line(event: Event) -> str:
    result, error = event.data, event.data.error_detail
    if error:
        return f"{result.request_id} FAILED {error.error_code}: {error.message}"
    return f"{result.request_id} {result.winner} (confidence {result.confidence:.1f}): {result.justification}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # A process manager's stop ends it as Ctrl-C does.
    topics, seen = sys.argv[1:] or sys.exit("Name at least one topic."), set[UUID]()
    consumer = KafkaConsumer(*topics, bootstrap_servers=SERVERS, **SETTINGS)
    try:
        while True:
            for topic, event in results(consumer, seen):
                print(topic, line(event), flush=True)
    except KeyboardInterrupt:
        consumer.close(timeout_ms=2000)  # Without a limit it waits long for a group that is just forming.
