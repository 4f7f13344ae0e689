"""POST /comparison, GET /status and /results: contract.md section 3."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from contracts.enums import CallbackStatus, QueueStatus
from contracts.errors import ErrorCode
from llm_provider.api import correlation
from llm_provider.api.bodies import read_json, refuse_ambiguous
from llm_provider.api.callers import has_hung_up
from llm_provider.api.problems import invalid_body, problem, spent_on
from llm_provider.api_models import LLMComparisonRequest, LLMQueuedResponse, LLMQueueStatusResponse
from llm_provider.callbacks import build_response
from llm_provider.ledger import LedgerProtocol, RequestView
from llm_provider.orchestrator import LLMOrchestratorImpl, Queued, RequestContext
from llm_provider.outcomes import EXPIRED_MESSAGE
from llm_provider.protocols import ResultStoreProtocol
from llm_provider.queue_models import Outcome, OutcomeError, parse_trace_context, utc_now

POLL_AFTER_SECONDS = 2

MESSAGES = {
    QueueStatus.QUEUED: "The request waits for a worker.",
    QueueStatus.PROCESSING: "A worker is on it.",
    QueueStatus.COMPLETED: "The comparison is finished.",
    QueueStatus.FAILED: "The comparison failed.",
    QueueStatus.EXPIRED: EXPIRED_MESSAGE,
}

SUSPENDED = "The request waits for its turn with the provider, or for its next try."

# Where a result is that nobody can fetch here.
DELIVERIES = {
    CallbackStatus.PENDING: "The result goes to the callback topic {topic} and is not yet published there.",
    CallbackStatus.PUBLISHED: "The result went to the callback topic {topic}.",
    CallbackStatus.DEAD: "The result could not be published to the callback topic {topic}; an operator can replay it.",
}


class ComparisonViews:
    """The routes a platform team calls."""

    def __init__(self, orchestrator: LLMOrchestratorImpl, ledger: LedgerProtocol, results: ResultStoreProtocol) -> None:
        self._orchestrator = orchestrator
        self._ledger = ledger
        self._results = results

    def blueprint(self) -> Blueprint:
        routes = Blueprint("comparisons", __name__, url_prefix="/api/v1")
        routes.add_url_rule("/comparison", view_func=self.compare, methods=["POST"])
        routes.add_url_rule("/status/<queue_id>", view_func=self.status)
        routes.add_url_rule("/results/<queue_id>", view_func=self.result)
        return routes

    def compare(self) -> Response:
        body = read_json()
        try:
            comparison = LLMComparisonRequest.model_validate_json(body)
        except ValidationError as error:
            # The caller's own id belongs into the answer that says what else was wrong.
            _remember(_sent_correlation_id(body))
            return invalid_body(error)
        _remember(comparison.correlation_id)
        refuse_ambiguous(body)
        answer = self._orchestrator.perform_comparison(comparison, _context())
        return _accepted(answer) if isinstance(answer, Queued) else _json(answer, HTTPStatus.OK)

    def status(self, queue_id: str) -> Response:
        view = self._view(queue_id)
        return _json(self._status(view), HTTPStatus.OK) if view else _unknown(queue_id)

    def result(self, queue_id: str) -> Response:
        view = self._view(queue_id)
        if view is None:
            return _unknown(queue_id)
        if not view.is_finished:
            response = _json(self._status(view), HTTPStatus.ACCEPTED)
            response.headers["Retry-After"] = str(POLL_AFTER_SECONDS)
            return response
        if view.status is not QueueStatus.COMPLETED:
            return _failed(view)
        if view.request.callback_topic is not None:
            return _gone(DELIVERIES[view.callback_status].format(topic=view.request.callback_topic))
        return self._polled(view)

    def _view(self, queue_id: str) -> RequestView | None:
        view = self._ledger.view(queue_id)
        if view is not None:
            correlation.remember(view.request.correlation_id)
        return view

    def _polled(self, view: RequestView) -> Response:
        """What the ledger holds until the result backend has it, and from then on what that one holds."""
        if view.outcome is not None:
            return _json(build_response(view.request, view.outcome), HTTPStatus.OK)
        result = self._results.load_result(view.request.queue_id)
        return _gone("The result has expired.") if result is None else _json(result, HTTPStatus.OK)

    def _status(self, view: RequestView) -> LLMQueueStatusResponse:
        return LLMQueueStatusResponse(
            queue_id=view.request.queue_id,
            status=view.status,
            message=SUSPENDED if view.is_suspended else MESSAGES[view.status],
            queued_at=view.request.queued_at,
            position_in_queue=view.position,
            estimated_wait_minutes=view.estimated_wait_minutes,
            result_available=self._has_result(view),
            callback_status=view.callback_status,
            error_message=view.outcome.error.message if view.outcome and view.outcome.error else None,
            expires_at=view.expires_at,
            correlation_id=view.request.correlation_id,
        )

    def _has_result(self, view: RequestView) -> bool:
        if view.status is not QueueStatus.COMPLETED or view.request.callback_topic is not None:
            return False
        return view.outcome is not None or self._results.load_result(view.request.queue_id) is not None


class _OnlyCorrelationId(BaseModel):
    correlation_id: UUID | None = None


def _sent_correlation_id(body: bytes) -> UUID | None:
    try:
        return _OnlyCorrelationId.model_validate_json(body, strict=True).correlation_id
    except ValidationError:
        return None


def _remember(sent: UUID | None) -> None:
    if sent is not None:
        correlation.remember(sent)


def _context() -> RequestContext:
    headers = request.headers
    return RequestContext(
        correlation_id=correlation.current(),
        trace_context=parse_trace_context(headers.get("traceparent"), headers.get("tracestate")),
        prefers_async=_prefers_async(headers.get("Prefer", "")),
        is_gone=partial(has_hung_up, request.environ.get("gunicorn.socket")),
    )


def _prefers_async(prefer: str) -> bool:
    """Whether RFC 7240's `Prefer` header holds `respond-async`."""
    return any(part.split(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


def _accepted(queued: Queued) -> Response:
    queue_id = queued.request.queue_id
    topic = queued.request.callback_topic
    told = f"Its outcome will be published to {topic}." if topic else "Poll its status, then fetch its result."
    body = LLMQueuedResponse(
        queue_id=queue_id,
        message=f"The request is accepted. {told}",
        estimated_wait_minutes=queued.acceptance.estimated_wait_minutes,
        status_url=url_for("comparisons.status", queue_id=queue_id),
        retry_after=POLL_AFTER_SECONDS,
        correlation_id=queued.request.correlation_id,
    )
    response = _json(body, HTTPStatus.ACCEPTED)
    response.headers["Location"] = body.status_url
    response.headers["Retry-After"] = str(POLL_AFTER_SECONDS)
    return response


def _json(body: BaseModel | Mapping[str, Any], status: HTTPStatus) -> Response:
    text = body.model_dump_json() if isinstance(body, BaseModel) else to_json(body)
    return Response(text, status=status, mimetype="application/json")


def _failed(view: RequestView) -> Response:
    outcome = view.outcome
    if outcome is None or outcome.error is None:
        return _gone("The error of this request has expired.")
    error = outcome.error
    return problem(
        HTTPStatus.CONFLICT,
        error.message,
        error.error_code,
        is_retryable=error.is_retryable,
        retry_after_seconds=_left_of_wait(outcome, error),
        spent=spent_on(outcome),
    )


def _left_of_wait(outcome: Outcome, error: OutcomeError) -> float | None:
    """Seconds of the vendor's wish that have not passed since."""
    wait = error.details.get("retry_after_seconds")
    # It was another host's clock that noted when.
    left = (wait or 0.0) - max(0.0, (utc_now() - outcome.completed_at).total_seconds())
    return left if left > 0 else None


def _gone(detail: str) -> Response:
    return problem(HTTPStatus.GONE, detail, ErrorCode.RESOURCE_NOT_FOUND)


def _unknown(queue_id: str) -> Response:
    return problem(HTTPStatus.NOT_FOUND, f"No request {queue_id} is known here.", ErrorCode.RESOURCE_NOT_FOUND)
