from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from contracts.errors import ErrorCode, ErrorDetail
from tests.unit.contracts.messages import CORRELATION_ID, LEAVE_OUT, error
from tests.unit.contracts.reading import read, refusal

CODES_THAT_CONSUMERS_ACCEPT = """
    UNKNOWN_ERROR VALIDATION_ERROR RESOURCE_NOT_FOUND CONFIGURATION_ERROR EXTERNAL_SERVICE_ERROR
    KAFKA_PUBLISH_ERROR MISSING_REQUIRED_FIELD INVALID_CONFIGURATION TIMEOUT CONNECTION_ERROR
    SERVICE_UNAVAILABLE RATE_LIMIT QUOTA_EXCEEDED AUTHENTICATION_ERROR INVALID_API_KEY INVALID_REQUEST
    INVALID_RESPONSE PARSING_ERROR CIRCUIT_BREAKER_OPEN REQUEST_QUEUED PROCESSING_ERROR
    INITIALIZATION_FAILED LLM_PROVIDER_SERVICE_ERROR
"""


def test_the_error_codes_are_exactly_those_that_consumers_accept() -> None:
    """A consumer drops an event whose code it does not know, so the list is closed."""
    assert [code.value for code in ErrorCode] == CODES_THAT_CONSUMERS_ACCEPT.split()
    assert all(code.name == code.value for code in ErrorCode)


def test_an_error_needs_six_fields_and_leaves_the_others_empty() -> None:
    """The defaults are part of the contract."""
    detail = read(ErrorDetail, error())
    assert detail.error_code is ErrorCode.TIMEOUT
    assert detail.correlation_id == UUID(CORRELATION_ID)
    assert detail.details == {}
    assert (detail.stack_trace, detail.trace_id, detail.span_id) == (None, None, None)


@pytest.mark.parametrize("field", ["error_code", "message", "correlation_id", "timestamp", "service", "operation"])
@pytest.mark.parametrize("value", [LEAVE_OUT, None])
def test_a_required_field_of_an_error_is_neither_missing_nor_null(field: str, value: object) -> None:
    """Whoever acts on an error can rely on these."""
    assert refusal(ErrorDetail, error(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("error_code", "OUT_OF_CHEESE"),
        ("error_code", "timeout"),
        ("error_code", 7),
        ("message", 7),
        ("correlation_id", "not-a-uuid"),
        ("correlation_id", 7),
        ("timestamp", "2026-11-22T10:15:02"),
        ("timestamp", 1_763_806_502),
        ("service", True),
        ("operation", ["llm_comparison"]),
        ("details", None),
        ("details", "text"),
        ("details", ["text"]),
        ("stack_trace", 7),
        ("trace_id", 7),
        ("span_id", 7),
    ],
)
def test_an_error_refuses_a_wrong_value_and_names_its_field(field: str, value: object) -> None:
    """Nothing is converted silently."""
    assert refusal(ErrorDetail, error(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("details", {"attempt": 2, "nested": {"list": [1, 2.5, "x", None, True]}}),
        ("stack_trace", "Traceback"),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("span_id", "00f067aa0ba902b7"),
        ("message", ""),
    ],
)
def test_an_error_accepts_what_the_contract_allows(field: str, value: object) -> None:
    """The optional fields come back as they were sent."""
    assert getattr(read(ErrorDetail, error(**{field: value})), field) == value


def test_an_error_is_frozen() -> None:
    """What was decided is not rewritten on its way."""
    detail = read(ErrorDetail, error())
    with pytest.raises(ValidationError, match="frozen"):
        detail.message = "Something else."


def test_an_error_ignores_fields_it_does_not_know() -> None:
    """A later version may add some."""
    assert read(ErrorDetail, error(severity="high")) == read(ErrorDetail, error())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}, "\ud800"])
def test_details_that_json_cannot_say_are_refused_when_they_are_made(value: Any) -> None:
    """They would be written as null, or fail only while sending."""
    with pytest.raises(ValidationError, match="details"):
        ErrorDetail.model_validate(error(details={"value": value}))
