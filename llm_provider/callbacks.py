"""Pure functions from what is stored to what is told: the same bytes, whoever builds them and however often."""

from typing import Any
from uuid import UUID, uuid5

from contracts.errors import ErrorDetail
from contracts.event_enums import ProcessingEvent, topic_name
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.api_models import LLMComparisonResponse
from llm_provider.queue_models import Outcome, OutcomeError, QueuedRequest

SOURCE_SERVICE = "llm_provider_service"
OPERATION = "llm_comparison"
EVENT_TYPE = topic_name(ProcessingEvent.LLM_COMPARISON_RESULT)
# Changing this would give every event that is published again another id.
_EVENT_NAMESPACE = UUID("6f1d6a52-3a0e-5b1c-9f0e-0d5c1b7a4e21")


def callback_event_id(queue_id: str) -> UUID:
    """The id of a request's one event, derived so that every publication of it carries the same."""
    return uuid5(_EVENT_NAMESPACE, f"{queue_id}:{EVENT_TYPE}")


def build_callback(request: QueuedRequest, outcome: Outcome) -> EventEnvelope[LLMComparisonResultV1]:
    """The event that tells a request's outcome; nothing in it depends on when or where it is built."""
    return EventEnvelope[LLMComparisonResultV1](
        event_id=outcome.event_id,
        event_type=EVENT_TYPE,
        event_timestamp=outcome.completed_at,
        source_service=SOURCE_SERVICE,
        correlation_id=request.correlation_id,
        data=_result(request, outcome),
        metadata=request.trace_context.model_dump(exclude_none=True) if request.trace_context else None,
    )


def _result(request: QueuedRequest, outcome: Outcome) -> LLMComparisonResultV1:
    verdict = outcome.verdict
    return LLMComparisonResultV1(
        request_id=request.queue_id,
        correlation_id=request.correlation_id,
        winner=verdict and verdict.winner,
        justification=verdict and verdict.justification,
        confidence=verdict and verdict.confidence,
        error_detail=outcome.error and _error_detail(request, outcome, outcome.error),
        provider=request.provider,
        model=request.model,
        response_time_ms=outcome.response_time_ms,
        token_usage=outcome.token_usage,
        cost_estimate=outcome.cost_estimate,
        requested_at=request.queued_at,
        completed_at=outcome.completed_at,
        trace_id=request.trace_id,
        request_metadata=_metadata(request, outcome),
    )


def _metadata(request: QueuedRequest, outcome: Outcome) -> dict[str, Any]:
    """The caller's own, and what we add; a key of the caller's is never overwritten."""
    return {**outcome.notes, **request.metadata}


def _error_detail(request: QueuedRequest, outcome: Outcome, error: OutcomeError) -> ErrorDetail:
    return ErrorDetail(
        error_code=error.error_code,
        message=error.message,
        correlation_id=request.correlation_id,
        timestamp=outcome.completed_at,
        service=SOURCE_SERVICE,
        operation=OPERATION,
        details=error.details,
        trace_id=request.trace_id,
    )


def build_response(request: QueuedRequest, outcome: Outcome) -> LLMComparisonResponse:
    """The same verdict as the body of a 200; only for an outcome with a verdict."""
    if outcome.verdict is None:
        raise ValueError(f"the outcome of {request.queue_id} has no verdict")
    return LLMComparisonResponse(
        **outcome.verdict.model_dump(),
        provider=request.provider,
        model=request.model,
        response_time_ms=outcome.response_time_ms,
        token_usage=outcome.token_usage,
        cost_estimate=outcome.cost_estimate,
        correlation_id=request.correlation_id,
        trace_id=request.trace_id,
        metadata=_metadata(request, outcome),
    )
