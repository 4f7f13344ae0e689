"""What is stored about a request: readable by older and newer code, and without its texts."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from llm_provider.internal_models import CallProgress, ComparisonTexts, FailedCall
from llm_provider.queue_models import (
    OUTCOME_SCHEMA_VERSION,
    REQUEST_SCHEMA_VERSION,
    TRACESTATE_MAX_CHARS,
    Outcome,
    QueuedRequest,
    TraceContext,
    parse_trace_context,
)
from tests.unit.builders import TRACE, a_request, a_verdict_for, an_error_for, some_texts

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_request_survives_being_stored() -> None:
    """What is read back is what was accepted, metadata and callback topic included."""
    for request in (a_request(), a_request(callback_topic=None, trace_context=None, user_id="teacher-7")):
        assert QueuedRequest.model_validate_json(request.model_dump_json()) == request


def test_every_stored_form_carries_its_version() -> None:
    """The builder of an envelope is chosen by it."""
    request = a_request()
    assert json.loads(request.model_dump_json())["schema_version"] == REQUEST_SCHEMA_VERSION
    for outcome in (a_verdict_for(request), an_error_for(request)):
        assert json.loads(outcome.model_dump_json())["schema_version"] == OUTCOME_SCHEMA_VERSION


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for part in get_args(annotation):
        yield from models_in(part)


@pytest.mark.parametrize(
    "model", sorted(set(models_in(QueuedRequest | Outcome | ComparisonTexts | CallProgress)), key=str)
)
def test_what_is_stored_is_not_quoted_when_it_cannot_be_read(model: type[BaseModel]) -> None:
    """An error's text may end in a log."""
    broken = {name: {"secret": ["zebra"]} for name in model.model_fields}
    with pytest.raises(ValidationError) as told:
        model.model_validate_json(json.dumps(broken))
    assert "zebra" not in str(told.value)


def test_older_code_reads_what_newer_code_added() -> None:
    """During a rollout both read each other's records."""
    request = a_request()
    outcome = a_verdict_for(request)
    newer_request = {**json.loads(request.model_dump_json()), "added": {"later": True}}
    newer_outcome = {**json.loads(outcome.model_dump_json()), "added": {"later": True}}
    assert QueuedRequest.model_validate_json(json.dumps(newer_request)) == request
    assert Outcome.model_validate_json(json.dumps(newer_outcome)) == outcome


def test_progress_is_read_whatever_version_stored_it() -> None:
    """It carries none: what an older one did not know has a default, and an error of a newer one is none."""
    older = CallProgress.model_validate_json('{"failures": 2, "bill": {"cost_usd": 0.25}}')
    newer = CallProgress.model_validate_json('{"failures": 2, "last_failure": {"kind": "OfTomorrow", "message": "no"}}')
    assert (older.failures, older.bill.cost_usd, older.last_error()) == (2, 0.25, None)
    assert (newer.failures, newer.last_error()) == (2, None)


@pytest.mark.parametrize("name", ["ServiceError", "Mapping", "__doc__", ""])
def test_only_what_a_vendor_did_is_a_last_error(name: str) -> None:
    """Whatever else errors.py holds by that name."""
    assert FailedCall(kind=name, message="no").error() is None


def test_a_stored_request_has_no_field_for_a_text() -> None:
    """The texts lie beside it, so that they can go first; what shows them shows nothing of them."""
    assert set(QueuedRequest.model_fields).isdisjoint({"user_prompt", "essay_a", "essay_b", "system_prompt"})
    assert "zebra" not in repr(some_texts())


def test_a_request_needs_a_time_zone_and_some_time() -> None:
    """A naive time or no time at all is a defect of whoever built it."""
    request = a_request()
    for wrong in ({"queued_at": "2026-11-22T10:15:00"}, {"deadline_seconds": 0}):
        stored = {**json.loads(request.model_dump_json()), **wrong}
        with pytest.raises(ValidationError):
            QueuedRequest.model_validate_json(json.dumps(stored))


def test_a_trace_context_that_is_valid_is_kept_as_it_came() -> None:
    """Its trace id is the one that the caller sees in the event."""
    context = parse_trace_context(TRACE.traceparent, "a=1,b=2")
    assert context == TraceContext(traceparent=TRACE.traceparent, tracestate="a=1,b=2")
    assert context.trace_id == TRACE_ID
    assert a_request(trace_context=context).trace_id == TRACE_ID
    assert a_request(trace_context=None).trace_id is None


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f"00-{TRACE_ID}-{SPAN_ID}",
    ],
)
def test_a_trace_context_that_is_not_valid_is_dropped(traceparent: str | None) -> None:
    """It is never a reason to refuse a request, and never passed on."""
    assert parse_trace_context(traceparent, "a=1") is None


@pytest.mark.parametrize("tracestate", [None, "", "x" * (TRACESTATE_MAX_CHARS + 1), "vendor=ümlaut"])
def test_a_tracestate_that_is_not_legal_is_dropped_alone(tracestate: str | None) -> None:
    """The traceparent beside it stays good."""
    assert parse_trace_context(TRACE.traceparent, tracestate) == TraceContext(traceparent=TRACE.traceparent)
