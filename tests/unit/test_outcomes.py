"""What happened to a request becomes the outcome that is stored."""

from datetime import UTC, datetime

import pytest
from pydantic import JsonValue

from contracts.enums import EssayWinner
from contracts.events.llm_provider_events import TokenUsage
from llm_provider import outcomes
from llm_provider.api_models import NOTES_KEY
from llm_provider.callbacks import build_callback, callback_event_id
from llm_provider.errors import (
    ComparisonError,
    InvalidAnswer,
    RateLimited,
    RequestExpired,
    RequestRevoked,
    UnexpectedError,
)
from llm_provider.queue_models import Outcome, OutcomeKind
from tests.unit.builders import a_request, an_answer, an_error_for

AT = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
QUEUE_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.mark.parametrize(("inside", "on_the_wire"), [(0.0, 1.0), (0.5, 3.0), (0.8125, 4.25), (1.0, 5.0)])
def test_confidence_is_stored_as_it_goes_on_the_wire(inside: float, on_the_wire: float) -> None:
    """1 + 4 c."""
    outcome = outcomes.completed(QUEUE_ID, an_answer(confidence=inside), response_time_ms=1, at=AT)
    assert outcome.verdict is not None
    assert outcome.verdict.confidence == on_the_wire


def test_a_verdict_is_stored_with_what_it_cost() -> None:
    """Everything an answer is made of, fixed before anybody is told."""
    answer = an_answer(winner=EssayWinner.ESSAY_B)
    outcome = outcomes.completed(QUEUE_ID, answer, response_time_ms=840, at=AT)
    assert (outcome.kind, outcome.error, outcome.completed_at) == (OutcomeKind.COMPLETED, None, AT)
    assert outcome.verdict is not None
    assert (outcome.verdict.winner, outcome.verdict.justification) == (EssayWinner.ESSAY_B, "Clearer structure.")
    assert (outcome.token_usage, outcome.cost_estimate) == (answer.token_usage, answer.cost_usd)
    assert outcome.response_time_ms == 840


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RateLimited("Too many calls.", details={"limit": 5}), OutcomeKind.FAILED),
        (UnexpectedError("A defect."), OutcomeKind.FAILED),
        (RequestRevoked("Revoked."), OutcomeKind.FAILED),
        (RequestExpired("Too late."), OutcomeKind.EXPIRED),
    ],
)
def test_an_error_is_stored_with_its_code_and_its_kind(error: ComparisonError, kind: OutcomeKind) -> None:
    """Only a deadline that has passed makes a request expired; every other error makes it failed."""
    outcome = outcomes.failed(QUEUE_ID, error, response_time_ms=7, at=AT)
    assert (outcome.kind, outcome.verdict, outcome.completed_at) == (kind, None, AT)
    assert outcome.error is not None
    assert outcome.error.error_code is error.error_code
    assert (outcome.error.message, outcome.error.details) == (error.message, error.details)
    assert outcome.error.is_retryable is error.is_retryable
    assert (outcome.response_time_ms, outcome.token_usage.total_tokens, outcome.cost_estimate) == (7, 0, 0.0)


def test_every_outcome_of_a_request_has_the_same_event_id() -> None:
    """Whichever wins, a consumer that has seen it once knows it."""
    completed = outcomes.completed(QUEUE_ID, an_answer(), response_time_ms=1, at=AT)
    failed = outcomes.failed(QUEUE_ID, RateLimited("Too many calls."), response_time_ms=1, at=AT)
    assert completed.event_id == failed.event_id == callback_event_id(QUEUE_ID)


@pytest.mark.parametrize("notes", [{}, {"prompt_sha256": "ours", "cost_note": "ours"}])
@pytest.mark.parametrize("key", sorted(outcomes.NOTE_NAMES))
def test_no_key_of_a_caller_is_taken_for_a_note_of_ours(key: str, notes: dict[str, JsonValue]) -> None:
    """Ours stand apart then, all of them, and be there none: whoever reads them is never told the caller's."""
    request = a_request(metadata={key: "forged"})
    stored = outcomes.with_notes_apart(an_error_for(request).model_copy(update={"notes": notes}), request)
    assert stored.notes == {NOTES_KEY: notes}
    assert outcomes.with_notes_apart(stored, request) == stored
    told = build_callback(request, stored).data.request_metadata
    assert told == {key: "forged", NOTES_KEY: notes}


def test_notes_stand_beside_keys_that_are_no_names_of_ours() -> None:
    """As they always have."""
    request = a_request(metadata={"mine": 1})
    outcome = an_error_for(request).model_copy(update={"notes": {"cost_note": "ours"}})
    assert outcomes.with_notes_apart(outcome, request) == outcome


def test_an_outcome_survives_being_stored() -> None:
    """What is read back is what was written."""
    for outcome in (
        outcomes.completed(QUEUE_ID, an_answer(), response_time_ms=1, at=AT),
        outcomes.failed(QUEUE_ID, RateLimited("Too many calls.", details={"limit": 5}), response_time_ms=1, at=AT),
    ):
        assert Outcome.model_validate_json(outcome.model_dump_json()) == outcome


def test_a_failure_tells_what_the_vendor_counted() -> None:
    """An answer nobody can use is on the bill, too; an error without a call costs nothing."""
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    billed = outcomes.failed("id", InvalidAnswer("no verdict").billed(usage, 0.25), response_time_ms=7, at=AT)
    free = outcomes.failed("id", InvalidAnswer("no verdict"), response_time_ms=7, at=AT)
    assert (billed.token_usage, billed.cost_estimate) == (usage, 0.25)
    assert (free.token_usage, free.cost_estimate) == (TokenUsage(), 0.0)
