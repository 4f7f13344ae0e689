"""From what is stored to what is told: the same bytes for ever, whoever builds them and whenever."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.callbacks import build_callback, build_response, callback_event_id
from llm_provider.queue_models import (
    OUTCOME_SCHEMA_VERSION,
    REQUEST_SCHEMA_VERSION,
    Outcome,
    OutcomeKind,
    QueuedRequest,
)
from tests.unit.builders import a_request, a_verdict_for, an_error_for

STORED = Path(__file__).parent / "stored"
# Records of every version that was ever written may still lie in somebody's Redis.
ENDINGS = [(version, kind) for version in range(1, OUTCOME_SCHEMA_VERSION + 1) for kind in OutcomeKind]


def stored_request(version: int) -> QueuedRequest:
    return QueuedRequest.model_validate_json((STORED / f"request-v{version}.json").read_bytes())


def stored_outcome(version: int, kind: OutcomeKind) -> Outcome:
    return Outcome.model_validate_json((STORED / f"outcome-v{version}-{kind}.json").read_bytes())


@pytest.mark.parametrize(("version", "kind"), ENDINGS)
def test_a_stored_record_gives_the_same_bytes_for_ever(version: int, kind: OutcomeKind) -> None:
    """A consumer may drop duplicates by their bytes, and a rollout may come between two publications."""
    envelope = build_callback(stored_request(1), stored_outcome(version, kind))
    assert envelope.model_dump_json().encode() == (STORED / f"envelope-v{version}-{kind}.json").read_bytes()


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_what_we_add_never_overwrites_what_the_caller_sent(kind: OutcomeKind) -> None:
    """The metadata comes back as it was, beside our notes."""
    request, outcome = stored_request(1), stored_outcome(2, kind)
    told = build_callback(request, outcome).data.request_metadata

    assert {key: told[key] for key in request.metadata} == request.metadata
    assert set(told) - set(request.metadata) == set(outcome.notes) - set(request.metadata)


def test_an_outcome_of_a_newer_version_is_not_understood() -> None:
    """Its event would lack what that version brought, so it is left to a worker that knows it."""
    stored = json.loads((STORED / "outcome-v2-completed.json").read_bytes())
    with pytest.raises(ValueError, match="schema_version"):
        Outcome.model_validate(stored | {"schema_version": OUTCOME_SCHEMA_VERSION + 1})


@pytest.mark.parametrize("version", range(1, REQUEST_SCHEMA_VERSION + 1))
def test_every_version_of_a_request_has_a_stored_record(version: int) -> None:
    """A new version is not written before its record is pinned here."""
    assert stored_request(version).schema_version == version


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_what_is_built_is_what_a_consumer_reads(kind: OutcomeKind) -> None:
    """Through its own copy of the models, with nothing lost."""
    envelope = build_callback(stored_request(1), stored_outcome(1, kind))
    parsed = EventEnvelope[LLMComparisonResultV1].model_validate_json(envelope.model_dump_json())
    assert parsed == envelope


def test_the_times_are_those_that_were_stored() -> None:
    """Nothing in an event depends on when it is built."""
    request, outcome = stored_request(1), stored_outcome(1, OutcomeKind.FAILED)
    envelope = build_callback(request, outcome)
    assert envelope.event_timestamp == envelope.data.completed_at == outcome.completed_at
    assert envelope.data.requested_at == request.queued_at
    assert envelope.data.error_detail is not None
    assert envelope.data.error_detail.timestamp == outcome.completed_at


def test_a_stored_outcome_keeps_its_event_id() -> None:
    """Even if a later version derived it in another way."""
    outcome = stored_outcome(1, OutcomeKind.COMPLETED).model_copy(update={"event_id": UUID(int=7)})
    assert build_callback(stored_request(1), outcome).event_id == UUID(int=7)


def test_the_event_id_follows_from_the_queue_id_alone() -> None:
    """The one in the stored record was derived by version 1; deriving it differently would duplicate events."""
    assert callback_event_id(stored_request(1).queue_id) == stored_outcome(1, OutcomeKind.COMPLETED).event_id
    assert callback_event_id(a_request().queue_id) != callback_event_id(a_request().queue_id)


@pytest.mark.parametrize("topic", ["team-a.results", "team-b.results", None])
def test_the_event_type_is_the_same_on_every_topic(topic: str | None) -> None:
    """The caller chooses where the event goes, not what it is."""
    request = a_request(callback_topic=topic)
    envelope = build_callback(request, a_verdict_for(request))
    assert envelope.event_type == "huleedu.llm_provider.comparison_result.v1"


def test_the_metadata_is_echoed_verbatim() -> None:
    """Keys that look like ours stay the caller's, and values keep their types."""
    metadata = {"request_id": "mine", "trace_id": 7, "correlation_id": None, "deep": [{"x": [1.5, True, "ü"]}]}
    request = a_request(metadata=metadata)
    assert build_callback(request, a_verdict_for(request)).data.request_metadata == metadata
    assert build_response(request, a_verdict_for(request)).metadata == metadata


def test_the_trace_is_the_stored_requests() -> None:
    """Not that of whoever publishes; without one there is none."""
    traced, untraced = a_request(), a_request(trace_context=None)
    envelope = build_callback(traced, an_error_for(traced))
    assert traced.trace_context is not None
    assert envelope.metadata == traced.trace_context.model_dump()
    assert envelope.data.error_detail is not None
    assert envelope.data.trace_id == envelope.data.error_detail.trace_id == traced.trace_id
    assert build_callback(untraced, a_verdict_for(untraced)).metadata is None


def test_an_error_never_carries_a_stack_trace() -> None:
    """Nor a field for one that is filled."""
    request = a_request()
    told = json.loads(build_callback(request, an_error_for(request)).model_dump_json())
    assert told["data"]["error_detail"]["stack_trace"] is None


def test_a_polled_result_tells_the_same_verdict_as_the_event() -> None:
    """One outcome, two ways to learn of it."""
    request = a_request()
    outcome = a_verdict_for(request)
    data, response = build_callback(request, outcome).data, build_response(request, outcome)
    shared = {name for name in type(response).model_fields if name in type(data).model_fields}
    assert len(shared) == 10
    assert {name: getattr(response, name) for name in shared} == {name: getattr(data, name) for name in shared}


def test_an_error_has_no_result_to_poll() -> None:
    """Asking for one is a defect of our own."""
    request = a_request()
    with pytest.raises(ValueError, match="no verdict"):
        build_response(request, an_error_for(request))
