"""The event as a Kafka record: key, value and headers of contract.md section 2."""

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.protocols import EventBusProtocol

CONTENT_TYPE = "application/json"


class KafkaEventPublisher:
    """LLMEventPublisherProtocol over an event bus."""

    def __init__(self, bus: EventBusProtocol) -> None:
        self._bus = bus

    def publish_comparison_result(self, topic: str, envelope: EventEnvelope[LLMComparisonResultV1]) -> None:
        self._bus.publish(
            topic,
            key=str(envelope.correlation_id).encode(),
            value=envelope.model_dump_json().encode(),
            headers=[(name, value.encode()) for name, value in _headers(envelope).items()],
        )


def _headers(envelope: EventEnvelope[LLMComparisonResultV1]) -> dict[str, str]:
    """Additive: a consumer needs none of them. CloudEvents 1.0 in binary mode, W3C trace context, and our own."""
    event_id, event_type = str(envelope.event_id), envelope.event_type
    outcome = "succeeded" if envelope.data.is_success else "failed"
    return {
        "content-type": CONTENT_TYPE,
        "event_id": event_id,
        "event_type": event_type,
        "schema_version": str(envelope.schema_version),
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": envelope.source_service,
        "ce_type": f"{event_type}.{outcome}",
        "ce_time": envelope.event_timestamp.isoformat().replace("+00:00", "Z"),
        "ce_subject": envelope.data.request_id,
        **{name: str(value) for name, value in (envelope.metadata or {}).items()},
    }
