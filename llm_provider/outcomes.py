"""Pure functions that turn what happened to a request into the outcome that is stored."""

from datetime import datetime

from llm_provider.api_models import NOTES_KEY
from llm_provider.callbacks import callback_event_id
from llm_provider.errors import ComparisonError, RequestExpired
from llm_provider.internal_models import CallProgress, ProviderAnswer
from llm_provider.queue_models import Outcome, OutcomeError, OutcomeKind, OutcomeVerdict, QueuedRequest

# What we may add to a caller's metadata; docs/api.md says what each means.
NOTE_NAMES = frozenset({"prompt_sha256", "dropped_parameters", "cost_note"})

EXPIRED_MESSAGE = "The request's deadline passed before it had an outcome."


def completed(queue_id: str, answer: ProviderAnswer, *, response_time_ms: int, at: datetime) -> Outcome:
    """The provider gave a verdict."""
    verdict = answer.verdict
    return Outcome(
        kind=OutcomeKind.COMPLETED,
        event_id=callback_event_id(queue_id),
        completed_at=at,
        verdict=OutcomeVerdict(
            winner=verdict.winner,
            justification=verdict.justification,
            confidence=verdict.confidence_on_the_wire,
        ),
        response_time_ms=response_time_ms,
        token_usage=answer.token_usage,
        cost_estimate=answer.cost_usd,
        notes=dict(answer.notes),
    )


def failed(queue_id: str, error: ComparisonError, *, response_time_ms: int, at: datetime) -> Outcome:
    """There is no verdict, and this is why."""
    return Outcome(
        kind=_kind(error),
        event_id=callback_event_id(queue_id),
        completed_at=at,
        error=OutcomeError(
            error_code=error.error_code,
            message=error.message,
            is_retryable=error.is_retryable,
            details=_details(error),
        ),
        response_time_ms=response_time_ms,
        token_usage=error.token_usage,
        cost_estimate=error.cost_usd,
        notes=dict(error.notes),
    )


def abandoned(queue_id: str, error: ComparisonError, progress: CallProgress, *, at: datetime) -> Outcome:
    """It ends while no call is made: no time was spent in one, but those before it are paid.

    What the last of them ended with says more than that the deadline has passed.
    """
    told = progress.bill.put_on(error)
    if isinstance(error, RequestExpired):
        told = progress.last_error() or told
    return failed(queue_id, told, response_time_ms=0, at=at).model_copy(update={"kind": _kind(error)})


def with_notes_apart(outcome: Outcome, request: QueuedRequest) -> Outcome:
    """The outcome as it is to be stored: none of the caller's keys is taken for a note of ours, nor hides one.

    Where the caller uses one of our names, all of ours stand under a key that it cannot use, be there any or not.
    """
    ours = NOTE_NAMES | outcome.notes.keys()
    if ours.isdisjoint(request.metadata) or NOTES_KEY in outcome.notes:
        return outcome
    return outcome.model_copy(update={"notes": {NOTES_KEY: outcome.notes}})


def _kind(error: ComparisonError) -> OutcomeKind:
    return OutcomeKind.EXPIRED if isinstance(error, RequestExpired) else OutcomeKind.FAILED


def _details(error: ComparisonError) -> dict[str, str | int | float | bool]:
    """With the vendor's Retry-After: a program can act on it."""
    wait = error.retry_after_seconds
    return error.details if wait is None else {**error.details, "retry_after_seconds": round(wait, 3)}
