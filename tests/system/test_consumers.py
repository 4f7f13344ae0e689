"""Consumers that this project did not write: kafka-python and the json module, and the contract by heart."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from scripts.kafka_topic_bootstrap import bootstrap_topics
from scripts.local_servers import HOST
from tests.system.conftest import Service

ARRIVAL_SECONDS = 30
EVENT_TYPE = "huleedu.llm_provider.comparison_result.v1"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ENVELOPE_FIELDS = {
    "event_id",
    "event_type",
    "event_timestamp",
    "source_service",
    "schema_version",
    "correlation_id",
    "data_schema_uri",
    "data",
    "metadata",
}
DATA_FIELDS = {
    "request_id",
    "correlation_id",
    "winner",
    "justification",
    "confidence",
    "error_detail",
    "provider",
    "model",
    "response_time_ms",
    "token_usage",
    "cost_estimate",
    "requested_at",
    "completed_at",
    "trace_id",
    "request_metadata",
}


class Consumer:
    """Reads one topic of a single partition from its beginning, in no group."""

    def __init__(self, servers: str, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        self._consumer.assign([TopicPartition(topic, 0)])
        self.records: list[ConsumerRecord] = []

    def close(self) -> None:
        self._consumer.close()

    def record_with(self, key: str) -> ConsumerRecord:
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while time.monotonic() < deadline:
            found = [record for record in self.records if record.key == key.encode()]
            if found:
                return found[0]
            self.poll(200)
        raise TimeoutError(key)

    def poll(self, milliseconds: int) -> None:
        for batch in self._consumer.poll(timeout_ms=milliseconds).values():
            self.records += batch


@pytest.fixture(scope="module")
def topics(service: Service) -> list[str]:
    names = [f"team-{name}.{uuid4().hex}" for name in ("a", "b")]
    bootstrap_topics(service.kafka_servers, 1, 1, 30, out=lambda _: None, extra_topics=names)
    return names


@pytest.fixture
def consumers(service: Service, topics: list[str]) -> Iterator[list[Consumer]]:
    first, second = (Consumer(service.kafka_servers, topic) for topic in topics)
    with closing(first), closing(second):
        yield [first, second]


def post(service: Service, topic: str, *, provider: str = "mock", **headers: str) -> tuple[str, str]:
    """The correlation id and the queue id of an accepted request."""
    correlation_id = str(uuid4())
    body = {
        "user_prompt": "Which essay argues better?",
        "essay_a": "School should start later, because pupils sleep too little and so learn less.",
        "essay_b": "School is fine.",
        "callback_topic": topic,
        "llm_config_overrides": {"provider_override": provider},
        "correlation_id": correlation_id,
        "metadata": {"pair": [3, 11], "note": "für später"},
    }
    answer = httpx2.post(f"http://{HOST}:{service.port}/api/v1/comparison", json=body, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    return correlation_id, answer.json()["queue_id"]


def test_a_verdict_is_told_as_the_contract_says(service: Service, topics: list[str], consumers: list[Consumer]) -> None:
    """Every field of envelope and payload, with its type and nothing besides."""
    correlation_id, queue_id = post(service, topics[0], traceparent=TRACEPARENT)
    event = json.loads(consumers[0].record_with(correlation_id).value.decode("utf-8"))
    assert_envelope(event, correlation_id)
    data = event["data"]
    assert data["request_id"] == queue_id
    assert data["winner"] in {"Essay A", "Essay B"}
    assert 0 < len(data["justification"]) <= 500
    assert isinstance(data["confidence"], float)
    assert 1.0 <= data["confidence"] <= 5.0
    assert data["error_detail"] is None
    assert data["trace_id"] == TRACEPARENT.split("-")[1]
    assert event["metadata"] == {"traceparent": TRACEPARENT}
    usage = data["token_usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_an_error_is_told_on_the_same_way(service: Service, topics: list[str], consumers: list[Consumer]) -> None:
    """With a code that consumers know, provider and model all the same, and no stack trace."""
    correlation_id, _ = post(service, topics[0], provider="openai")
    event = json.loads(consumers[0].record_with(correlation_id).value.decode("utf-8"))
    assert_envelope(event, correlation_id)
    data, error = event["data"], event["data"]["error_detail"]
    assert (data["winner"], data["justification"], data["confidence"]) == (None, None, None)
    assert (data["provider"], bool(data["model"])) == ("openai", True)
    assert (error["error_code"], error["stack_trace"]) == ("CONNECTION_ERROR", None)
    assert error["correlation_id"] == correlation_id
    assert error["message"]
    assert (event["metadata"], data["trace_id"]) == (None, None)


def assert_envelope(event: dict[str, Any], correlation_id: str) -> None:
    """What holds for verdicts and errors alike."""
    assert event.keys() == ENVELOPE_FIELDS
    assert (event["event_type"], event["source_service"]) == (EVENT_TYPE, "llm_provider_service")
    assert (event["schema_version"], event["data_schema_uri"]) == (1, None)
    assert UUID(event["event_id"]).version == 5
    data = event["data"]
    assert data.keys() == DATA_FIELDS
    assert (event["correlation_id"], data["correlation_id"]) == (correlation_id, correlation_id)
    assert data["request_metadata"] == {"pair": [3, 11], "note": "für später"}
    assert type(data["response_time_ms"]) is int
    assert data["cost_estimate"] >= 0
    times = [datetime.fromisoformat(each) for each in (data["requested_at"], data["completed_at"])]
    assert all(each.utcoffset() == timedelta(0) for each in times)
    assert times[0] <= times[1]


@pytest.mark.parametrize(("provider", "outcome"), [("mock", "succeeded"), ("openai", "failed")])
def test_the_headers_are_exactly_these(
    service: Service, topics: list[str], consumers: list[Consumer], provider: str, outcome: str
) -> None:
    """CloudEvents in binary mode, the trace context, and what a consumer filters by."""
    correlation_id, queue_id = post(service, topics[0], provider=provider, traceparent=TRACEPARENT)
    record = consumers[0].record_with(correlation_id)
    event = json.loads(record.value)
    headers = {name: value.decode("utf-8") for name, value in record.headers}
    time_told = datetime.fromisoformat(headers.pop("ce_time"))
    assert time_told == datetime.fromisoformat(event["event_timestamp"])
    assert headers == {
        "content-type": "application/json",
        "event_id": event["event_id"],
        "event_type": EVENT_TYPE,
        "schema_version": "1",
        "ce_specversion": "1.0",
        "ce_id": event["event_id"],
        "ce_source": "llm_provider_service",
        "ce_type": f"{EVENT_TYPE}.{outcome}",
        "ce_subject": queue_id,
        "traceparent": TRACEPARENT,
    }
    assert len(record.headers) == len(headers) + 1


def test_two_teams_read_each_their_own_events(service: Service, topics: list[str], consumers: list[Consumer]) -> None:
    """Success and failure, on the topic that each request named and on no other."""
    sent = [[post(service, topic, provider=each)[0] for each in ("mock", "openai")] for topic in topics]
    for consumer, ids in zip(consumers, sent, strict=True):
        for correlation_id in ids:
            consumer.record_with(correlation_id)
    for consumer, others in zip(consumers, reversed(sent), strict=True):
        consumer.poll(300)
        assert not {record.key.decode() for record in consumer.records} & set(others)


def test_the_models_that_consumers_install_read_every_event(
    service: Service, topics: list[str], consumers: list[Consumer]
) -> None:
    """One line, and what it read writes the same bytes again."""
    for provider in ("mock", "openai"):
        correlation_id, _ = post(service, topics[1], provider=provider)
        value = consumers[1].record_with(correlation_id).value
        event = EventEnvelope[LLMComparisonResultV1].model_validate_json(value)
        assert event.data.is_success is (provider == "mock")
        assert event.model_dump_json().encode() == value
