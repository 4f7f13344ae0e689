import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts.enums import EssayWinner, LLMProviderType
from contracts.errors import ErrorCode
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1, TokenUsage
from contracts.wire import MAX_NESTING
from tests.unit.contracts.messages import (
    CORRELATION_ID,
    LEAVE_OUT,
    QUEUE_ID,
    envelope,
    error,
    failure,
    success,
)
from tests.unit.contracts.reading import read, refusal

NOT_NUMBERS = ["4", "", True, [4], {"value": 4}]
NO_MOMENTS = [
    "2026-11-22T10:15:00",
    "2026-11-22",
    "soon",
    "",
    1_763_806_500,
    "1763806500",
    "1763806500000",
    "0001-01-01T00:00:00+14:00",
]
REQUIRED = [
    "request_id",
    "correlation_id",
    "provider",
    "model",
    "response_time_ms",
    "cost_estimate",
    "requested_at",
    "completed_at",
]


def rows(field: str, values: list[Any]) -> list[tuple[str, Any]]:
    return [(field, value) for value in values]


def test_a_success_is_read_with_its_types_and_defaults() -> None:
    """The payload that most consumers see."""
    result = read(LLMComparisonResultV1, success())
    assert (result.is_success, result.is_error) == (True, False)
    assert (result.request_id, result.correlation_id) == (QUEUE_ID, UUID(CORRELATION_ID))
    assert (result.winner, result.confidence) == (EssayWinner.ESSAY_B, 4.2)
    assert result.provider is LLMProviderType.OPENAI
    assert result.requested_at == datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
    assert result.token_usage == TokenUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    assert (result.error_detail, result.trace_id, result.request_metadata) == (None, None, {})


def test_a_failure_is_read_with_its_error() -> None:
    """Provider, model and times are there all the same."""
    result = read(LLMComparisonResultV1, failure())
    assert (result.is_success, result.is_error) == (False, True)
    assert result.error_detail is not None
    assert result.error_detail.error_code is ErrorCode.TIMEOUT
    assert (result.winner, result.justification, result.confidence) == (None, None, None)


@pytest.mark.parametrize("message", [success, failure])
@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [LEAVE_OUT, None])
def test_a_required_field_is_neither_missing_nor_null_on_errors_too(message: Any, field: str, value: object) -> None:
    """A consumer finds them on every event."""
    assert refusal(LLMComparisonResultV1, message(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *rows("request_id", ["", "42", 42, QUEUE_ID + "\n", f"urn:uuid:{QUEUE_ID}", QUEUE_ID.replace("-", "")]),
        *rows("correlation_id", ["", "42", 42]),
        *rows("winner", ["Essay C", "essay a", "A", "", 1]),
        *rows("justification", ["x" * 501, 7, ["x"]]),
        *rows("confidence", [0.99, 5.01, 0, -1, *NOT_NUMBERS]),
        *rows("provider", ["azure", "OpenAI", "", 1]),
        *rows("model", [7, ["gpt"]]),
        *rows("response_time_ms", [-1, 3.0, 3.5, *NOT_NUMBERS]),
        *rows("token_usage", [None, 7, [], "none"]),
        *rows("cost_estimate", [-0.01, *NOT_NUMBERS]),
        *rows("requested_at", NO_MOMENTS),
        *rows("completed_at", NO_MOMENTS),
        *rows("trace_id", [7, ["x"]]),
        *rows("request_metadata", [None, [], "text", 7]),
    ],
)
def test_a_result_refuses_a_wrong_value_and_names_its_field(field: str, value: Any) -> None:
    """Existing consumers drop what they cannot parse, so it must not be made in the first place."""
    assert refusal(LLMComparisonResultV1, success(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *rows("request_id", [QUEUE_ID, QUEUE_ID.upper()]),
        *rows("winner", ["Essay A", "Essay B"]),
        *rows("justification", ["", "x" * 500, "é" * 500, "📝" * 500]),
        *rows("confidence", [1, 1.0, 3, 4.999, 5, 5.0]),
        *rows("provider", ["anthropic", "openai", "google", "openrouter", "mock"]),
        *rows("response_time_ms", [0, 1, 14_400_000]),
        *rows("cost_estimate", [0, 0.0, 1e-9, 12]),
        *rows("trace_id", [None, "4bf92f3577b34da6a3ce929d0e0e4736"]),
        *rows("request_metadata", [{}, {"essay_id": "a-1", "tags": ["x", 1, 1.5, None, True], "n": {"d": {}}}]),
    ],
)
def test_a_result_accepts_what_the_contract_allows(field: str, value: Any) -> None:
    """The limits themselves are inside."""
    result = read(LLMComparisonResultV1, success(**{field: value}))
    assert getattr(result, field) == value


@pytest.mark.parametrize("count", ["prompt_tokens", "completion_tokens", "total_tokens"])
@pytest.mark.parametrize("value", [-1, 1.0, 1.5, None, *NOT_NUMBERS])
def test_a_count_of_tokens_is_a_whole_number_from_zero_on(count: str, value: Any) -> None:
    """It is summed up and billed."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3} | {count: value}
    complaint = refusal(LLMComparisonResultV1, success(token_usage=usage))
    assert complaint.startswith(f"token_usage.{count}: ")


def test_counts_of_tokens_that_are_not_named_are_zero() -> None:
    """Their default is not null."""
    result = read(LLMComparisonResultV1, success(token_usage={"prompt_tokens": 7}))
    assert result.token_usage == TokenUsage(prompt_tokens=7, completion_tokens=0, total_tokens=0)


@pytest.mark.parametrize("field", ["confidence", "cost_estimate"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_number_that_is_not_finite_is_refused(field: str, value: str) -> None:
    """Python's json writes these, other parsers stop at them, and comparisons with NaN are always false."""
    text = json.dumps(success(**{field: "HERE"})).replace('"HERE"', value)
    with pytest.raises(ValidationError, match=field):
        LLMComparisonResultV1.model_validate_json(text)
    with pytest.raises(ValidationError, match=field):
        LLMComparisonResultV1.model_validate(success(**{field: float(value)}))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400"])
def test_metadata_never_turns_a_number_into_null(value: str) -> None:
    """It is echoed verbatim or refused; pydantic alone would write null."""
    text = json.dumps(success(request_metadata={"x": ["HERE"]})).replace('"HERE"', value)
    with pytest.raises(ValidationError, match="request_metadata"):
        LLMComparisonResultV1.model_validate_json(text)


@pytest.mark.parametrize("made_by_python", [(1, 2), {1, 2}, b"bytes", datetime(2026, 1, 1, tzinfo=UTC), {1: 2}])
def test_metadata_holds_nothing_but_json(made_by_python: Any) -> None:
    """What is not JSON could not be echoed as it came."""
    with pytest.raises(ValidationError, match="request_metadata"):
        LLMComparisonResultV1.model_validate(success(request_metadata={"x": made_by_python}))


@pytest.mark.parametrize("field", ["justification", "model", "trace_id"])
def test_text_that_utf8_cannot_write_is_refused_when_it_is_made(field: str) -> None:
    """A model's answer may hold half a surrogate pair; it would fail only while the event is sent."""
    with pytest.raises(ValidationError, match="surrogates"):
        LLMComparisonResultV1.model_validate(success(**{field: "half a smile \ud83d"}))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"deeper": value}
    return value


def test_the_deepest_metadata_can_be_read_back_and_deeper_is_refused() -> None:
    """Accepted means that consumers can parse it, inside its envelope."""
    deepest = success(request_metadata=nested(MAX_NESTING))
    assert read(EventEnvelope[LLMComparisonResultV1], envelope(data=deepest)).data.is_success
    assert "levels deep" in refusal(LLMComparisonResultV1, success(request_metadata=nested(MAX_NESTING + 1)))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (success(error_detail=error()), "exactly one of winner and error_detail must be given, found both"),
        (failure(error_detail=None), "exactly one of winner and error_detail must be given, found neither"),
        (success(winner=None), "exactly one of winner and error_detail must be given, found neither"),
        (success(justification=None), "a winner needs justification and confidence; missing: justification"),
        (success(confidence=LEAVE_OUT), "a winner needs justification and confidence; missing: confidence"),
        (success(justification=None, confidence=None), "missing: justification, confidence"),
    ],
)
def test_there_is_one_outcome_and_a_winner_comes_with_its_reasons(message: dict[str, Any], complaint: str) -> None:
    """The sentence says what is wrong with the whole."""
    assert complaint in refusal(LLMComparisonResultV1, message)


def test_nulls_that_are_spelled_out_are_as_good_as_left_out() -> None:
    """Our own bytes spell them out."""
    nulls = {"winner": None, "justification": None, "confidence": None, "trace_id": None}
    assert read(LLMComparisonResultV1, failure(**nulls)) == read(LLMComparisonResultV1, failure())
    assert read(LLMComparisonResultV1, success(error_detail=None)) == read(LLMComparisonResultV1, success())


def test_unknown_fields_are_ignored() -> None:
    """A later version may add some, at every level."""
    assert read(LLMComparisonResultV1, success(essay_length=7, token_usage={"cached": 1})) == read(
        LLMComparisonResultV1, success()
    )


def test_properties_are_not_written() -> None:
    """The wire has the fields of the contract, in its order, and no other."""
    assert list(json.loads(read(LLMComparisonResultV1, failure()).model_dump_json())) == [
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
    ]


def test_a_whole_confidence_is_written_as_a_float() -> None:
    """Consumers that tell floats from integers expect a float; the time stays an integer."""
    value = read(LLMComparisonResultV1, success(confidence=4, response_time_ms=12)).model_dump_json()
    assert '"confidence":4.0' in value
    assert '"response_time_ms":12,' in value


def test_two_results_do_not_share_their_defaults() -> None:
    """A change to one metadata must not show in another."""
    first, second = read(LLMComparisonResultV1, success()), read(LLMComparisonResultV1, success())
    first.request_metadata["x"] = 1
    assert second.request_metadata == {}


def test_a_result_is_frozen() -> None:
    """A rule that was checked once keeps holding."""
    result = read(LLMComparisonResultV1, success())
    with pytest.raises(ValidationError, match="frozen"):
        result.winner = None
