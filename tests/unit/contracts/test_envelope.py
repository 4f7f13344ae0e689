import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from tests.unit.contracts.messages import LEAVE_OUT, envelope, failure, success
from tests.unit.contracts.reading import read, refusal

Typed = EventEnvelope[LLMComparisonResultV1]
BOTH = pytest.mark.parametrize("model", [Typed, EventEnvelope], ids=["typed", "bare"])
OUTCOMES = pytest.mark.parametrize("data", [success(), failure()], ids=["success", "failure"])


def test_the_defaults_of_an_envelope_are_those_of_the_contract() -> None:
    """A producer names the type, the source and the payload; the rest is made."""
    before = datetime.now(UTC)
    made: EventEnvelope[LLMComparisonResultV1] = EventEnvelope(
        event_type="t", source_service="s", data=LLMComparisonResultV1(**success())
    )
    other: EventEnvelope[LLMComparisonResultV1] = EventEnvelope(event_type="t", source_service="s", data=made.data)
    assert before <= made.event_timestamp <= datetime.now(UTC)
    assert (made.event_id.version, made.correlation_id.version) == (4, 4)
    assert (made.event_id, made.correlation_id) != (other.event_id, other.correlation_id)
    assert (made.schema_version, made.data_schema_uri, made.metadata) == (1, None, None)


@BOTH
@pytest.mark.parametrize("field", ["event_type", "source_service", "data"])
@pytest.mark.parametrize("value", [LEAVE_OUT, None])
def test_a_required_field_of_an_envelope_is_neither_missing_nor_null(
    model: type[EventEnvelope[Any]], field: str, value: object
) -> None:
    """An event without payload, type or source tells nothing."""
    assert refusal(model, envelope(**{field: value})).startswith(f"{field}: ")


@BOTH
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", None),
        ("event_id", "not-a-uuid"),
        ("event_id", 7),
        ("event_type", 7),
        ("event_timestamp", None),
        ("event_timestamp", "2026-11-22T10:15:02"),
        ("event_timestamp", "2026-11-22"),
        ("event_timestamp", "yesterday"),
        ("event_timestamp", 1_763_806_502),
        ("event_timestamp", 1_763_806_502.5),
        ("event_timestamp", "1763806502"),
        ("event_timestamp", True),
        ("event_timestamp", "0001-01-01T00:00:00+14:00"),
        ("event_timestamp", "9999-12-31T23:59:59-12:00"),
        ("source_service", ["llm_provider_service"]),
        ("schema_version", None),
        ("schema_version", True),
        ("schema_version", "1"),
        ("schema_version", 1.0),
        ("correlation_id", None),
        ("correlation_id", ""),
        ("data_schema_uri", 7),
        ("data", "text"),
        ("data", 7),
        ("data", [success()]),
        ("metadata", "text"),
        ("metadata", ["text"]),
    ],
)
def test_an_envelope_refuses_a_wrong_value_and_names_its_field(
    model: type[EventEnvelope[Any]], field: str, value: object
) -> None:
    """Nothing is converted silently, with or without a payload type."""
    assert refusal(model, envelope(**{field: value})).startswith(f"{field}: ")


def test_a_typed_envelope_checks_its_payload() -> None:
    """The complaint names the way to the field."""
    assert refusal(Typed, envelope(data=success(confidence=6))).startswith("data.confidence: ")


@BOTH
def test_unknown_fields_are_ignored_on_reading(model: type[EventEnvelope[Any]]) -> None:
    """A later version may add some, and existing consumers must not drop its events."""
    assert read(model, envelope(priority="high")) == read(model, envelope())


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:15:02Z", datetime(2026, 11, 22, 10, 15, 2, tzinfo=UTC)),
        ("2026-11-22T10:15:02.25+00:00", datetime(2026, 11, 22, 10, 15, 2, 250_000, tzinfo=UTC)),
        ("2026-11-22T12:15:02+02:00", datetime(2026, 11, 22, 10, 15, 2, tzinfo=UTC)),
        ("2026-11-22T00:15:02-10:30", datetime(2026, 11, 22, 10, 45, 2, tzinfo=UTC)),
    ],
)
def test_every_offset_is_read_and_written_as_utc(text: str, moment: datetime) -> None:
    """There is one way to write a moment, so that equal events have equal bytes."""
    parsed = read(Typed, envelope(event_timestamp=text))
    assert (parsed.event_timestamp, parsed.event_timestamp.tzinfo) == (moment, UTC)
    assert json.loads(parsed.model_dump_json())["event_timestamp"].endswith("Z")


def test_a_datetime_of_another_zone_is_written_as_utc_and_a_naive_one_is_refused() -> None:
    """Producers pass datetimes, not text."""
    local = datetime(2026, 11, 22, 12, 15, tzinfo=timezone(timedelta(hours=2)))
    made = Typed.model_validate(envelope(event_timestamp=local))
    assert '"event_timestamp":"2026-11-22T10:15:00Z"' in made.model_dump_json()
    with pytest.raises(ValidationError, match="timezone"):
        Typed.model_validate(envelope(event_timestamp=local.replace(tzinfo=None)))


@OUTCOMES
def test_a_bare_envelope_dumps_its_whole_payload(data: dict[str, Any]) -> None:
    """With a payload model inside, not a field is lost: the bytes are those of the typed envelope."""
    payload = LLMComparisonResultV1.model_validate(data)
    bare: EventEnvelope[Any] = EventEnvelope.model_validate(envelope(data=payload))
    typed = Typed.model_validate(envelope(data=payload))
    assert bare.data is payload
    assert bare.model_dump_json() == typed.model_dump_json()
    assert bare.model_dump(mode="json") == typed.model_dump(mode="json")


@OUTCOMES
def test_a_bare_envelope_parses_the_payload_as_the_object_it_is(data: dict[str, Any]) -> None:
    """Without a type it keeps the object whole, never an empty model in its place."""
    value = Typed.model_validate(envelope(data=data)).model_dump_json()
    bare: EventEnvelope[Any] = EventEnvelope.model_validate_json(value)
    assert bare.data == json.loads(value)["data"]
    assert bare.model_dump_json() == value
    assert Typed.model_validate_json(bare.model_dump_json()) == Typed.model_validate_json(value)


@OUTCOMES
@BOTH
@pytest.mark.parametrize("metadata", [None, {}, {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-01"}])
def test_reading_an_event_and_writing_it_again_gives_the_same_bytes(
    model: type[EventEnvelope[Any]], data: dict[str, Any], metadata: object
) -> None:
    """Consumers may deduplicate on the bytes."""
    rich = {"ü": "日本", "n": [1, 1.0, 1e22, -0.5, 12345678901234567890], "none": None, "": {"b": False}}
    written = Typed.model_validate(envelope(data=data | {"request_metadata": rich}, metadata=metadata))
    value = written.model_dump_json()
    assert model.model_validate_json(value).model_dump_json() == value


def test_the_fields_are_written_in_the_order_of_the_contract() -> None:
    """The order is a part of the bytes."""
    assert list(json.loads(read(Typed, envelope()).model_dump_json())) == [
        "event_id",
        "event_type",
        "event_timestamp",
        "source_service",
        "schema_version",
        "correlation_id",
        "data_schema_uri",
        "data",
        "metadata",
    ]


def test_an_envelope_is_frozen() -> None:
    """What may be published again is not rewritten in between."""
    made = read(Typed, envelope())
    with pytest.raises(ValidationError, match="frozen"):
        made.event_id = UUID(int=0)


def test_a_complaint_does_not_quote_the_message() -> None:
    """It ends up in a log, and a justification is about a student's work."""
    with pytest.raises(ValidationError) as caught:
        Typed.model_validate(envelope(data=success(justification="secret " * 100)))
    assert "secret" not in str(caught.value)
