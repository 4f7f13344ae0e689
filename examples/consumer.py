"""A consumer of comparison results. Run it as: python examples/consumer.py TOPIC [TOPIC ...]

KAFKA_BOOTSTRAP_SERVERS names the brokers, CONSUMER_GROUP the group. Needs kafka-python and `contracts` only.
"""

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


def results(consumer: KafkaConsumer, handled: set[UUID], wait_ms: int = 1000) -> Iterator[tuple[str, Event]]:
    """Yield each result that one poll brings, with its topic, and commit once they were all handled.

    Delivery is at least once, so `handled` holds the event ids seen; a real service stores them with its data.
    """
    batch = [record for records in consumer.poll(timeout_ms=wait_ms).values() for record in records]
    for record in batch:
        event = parse(record.value)
        if event and event.event_id not in handled:
            yield record.topic, event
            handled.add(event.event_id)
    if batch:
        consumer.commit()


def parse(value: bytes) -> Event | None:
    """Skip what is no result, with a word: a consumer that stops there would stop there for ever."""
    try:
        return Event.model_validate_json(value)
    except ValidationError as error:
        print(f"skipped a record that is no comparison result: {error.error_count()} errors", file=sys.stderr)
        return None


def line(event: Event) -> str:
    result = event.data
    if result.error_detail:
        return f"{result.request_id} FAILED {result.error_detail.error_code}: {result.error_detail.message}"
    return f"{result.request_id} {result.winner} (confidence {result.confidence:.1f}): {result.justification}"


def main(topics: list[str]) -> None:
    consumer = KafkaConsumer(
        *topics,
        bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        group_id=os.environ.get("CONSUMER_GROUP", "essay-results"),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    handled: set[UUID] = set()
    with consumer:
        while True:
            for topic, event in results(consumer, handled):
                print(topic, line(event), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # A process manager's stop ends it as Ctrl-C does.
    try:
        main(sys.argv[1:] or sys.exit("Name at least one topic."))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
