"""What every event on Kafka is wrapped in."""

from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, Field, field_validator

from contracts.wire import MESSAGE, Integer, JsonObject, Text, UtcDatetime

# Without a bound: pydantic would parse the payload of a bare EventEnvelope into the bound itself, an
# empty BaseModel, and so lose it. Unbound, a bare envelope keeps the JSON object, or the model, it got.
PayloadT = TypeVar("PayloadT")


def now_utc() -> datetime:
    return datetime.now(UTC)


class EventEnvelope(BaseModel, Generic[PayloadT]):
    """One event: who sent it, when, about what, and its payload in `data`."""

    model_config = MESSAGE

    event_id: UUID = Field(
        default_factory=uuid4,
        description="The same in every copy of one event, so that consumers can drop duplicates.",
    )
    event_type: Text = Field(description="What happened, whatever topic it is published to.")
    event_timestamp: UtcDatetime = Field(default_factory=now_utc)
    source_service: Text
    schema_version: Integer = 1
    correlation_id: UUID = Field(
        default_factory=uuid4,
        description="The caller's own; many comparisons may share one.",
    )
    data_schema_uri: Text | None = None
    data: PayloadT
    metadata: JsonObject | None = Field(default=None, description="Trace context.")

    @field_validator("data")
    @classmethod
    def _payload_is_an_object(cls, payload: PayloadT) -> PayloadT:
        if not isinstance(payload, BaseModel | dict):
            raise ValueError("must be a payload model or a JSON object")  # noqa: TRY004 pydantic reports ValueErrors only
        return payload
