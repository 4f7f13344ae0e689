"""Errors as application/problem+json (RFC 9457), in sentences a caller can act on; never a stack trace."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import structlog
from flask import Response, json, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from contracts.errors import ErrorCode
from llm_provider.api import correlation
from llm_provider.api.bodies import UnsupportedEncoding
from llm_provider.errors import ComparisonError, LedgerUnavailable, RequestRejected, RequestTooLarge, ServiceError
from llm_provider.logs import log_defect
from llm_provider.queue_models import Outcome

log = structlog.get_logger(__name__)

DEFAULT_RETRY_AFTER_SECONDS = 5

# Of what a caller sent, no answer repeats more: a key, a path.
_QUOTED_MAX_CHARS = 2_000

BODY_TOO_LARGE = "The body is larger than this service reads."
QUEUE_AWAY = "The queue cannot be reached now; send the request again later."

_CODES = dict.fromkeys((403, 405, 415), ErrorCode.INVALID_REQUEST) | {404: ErrorCode.RESOURCE_NOT_FOUND}

# The parser's only two words for a lone surrogate; of the first nobody would guess what it means.
_SURROGATE_ERRORS = ("unexpected end of hex escape", "lone leading surrogate in hex escape")


def problem(
    status: int,
    detail: str,
    error_code: ErrorCode,
    *,
    is_retryable: bool = False,
    retry_after_seconds: float | None = None,
    errors: list[dict[str, str]] | None = None,
    spent: Mapping[str, Any] | None = None,
) -> Response:
    """One problem document; `spent` is for a comparison that ended without a verdict."""
    own = {"instance": _path(), "correlation_id": str(correlation.current()), **(spent or {})}
    body = members(status, _bounded(detail), error_code, is_retryable=is_retryable, errors=errors or []) | own
    response = Response(json.dumps(body), status=status, mimetype="application/problem+json")
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_seconds)))
    return response


def members(
    status: int, detail: str, error_code: ErrorCode, *, is_retryable: bool, errors: list[dict[str, str]]
) -> dict[str, Any]:
    """What is in every problem document; `error` repeats the detail because existing clients read it."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": "",
        "error_code": error_code,
        "correlation_id": str(uuid4()),
        "is_retryable": is_retryable,
        "errors": errors,
        "error": detail,
    }


def spent_on(comparison: ComparisonError | Outcome) -> dict[str, Any]:
    """The members that say what a comparison without a verdict has cost; its calls may have been billed."""
    cost = comparison.cost_usd if isinstance(comparison, ComparisonError) else comparison.cost_estimate
    return {"token_usage": comparison.token_usage.model_dump(), "cost_estimate": cost}


def on_service_error(error: ServiceError) -> Response:
    field = error.field if isinstance(error, RequestRejected) else None
    retry_after = error.retry_after_seconds
    if retry_after is None and error.is_retryable and error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = DEFAULT_RETRY_AFTER_SECONDS
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", error_code=error.error_code, reason=error.message)
    return problem(
        error.http_status,
        # Which of our stores did not answer, and how, is for the log: a caller knows one queue.
        QUEUE_AWAY if isinstance(error, LedgerUnavailable) else error.message,
        error.error_code,
        is_retryable=error.is_retryable,
        retry_after_seconds=retry_after,
        errors=[{"field": field, "message": _bounded(error.message)}] if field else None,
        spent=spent_on(error) if isinstance(error, ComparisonError) else None,
    )


def invalid_body(error: ValidationError) -> Response:
    """Every field that is wrong, by its path; what the caller sent is not repeated."""
    errors = [
        {"field": ".".join(map(str, item["loc"])) or "body", "message": _message(item["msg"])}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return problem(HTTPStatus.BAD_REQUEST, detail, ErrorCode.VALIDATION_ERROR, errors=errors)


def _message(message: str) -> str:
    for words in _SURROGATE_ERRORS:
        message = message.replace(words, r"a lone surrogate (\ud800 to \udfff) is not text")
    return message.removeprefix("Value error, ")


def on_http_exception(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return on_service_error(RequestTooLarge(BODY_TOO_LARGE, field="body"))
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    response = problem(status, _sentence(error), _CODES.get(status, ErrorCode.VALIDATION_ERROR))
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
    if isinstance(error, UnsupportedEncoding):
        response.headers["Accept-Encoding"] = "identity"
    return response


def _sentence(error: HTTPException) -> str:
    """Ours for what callers meet; werkzeug's are written for people in front of a browser."""
    if isinstance(error, NotFound):
        return f"No such path: {_path()}"
    if isinstance(error, MethodNotAllowed):
        # HEAD and OPTIONS, which Flask adds and Allow names, are nobody's way to the answer.
        methods = set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}
        return f"This path takes {' and '.join(sorted(methods))}."
    return error.description or error.name


def _path() -> str:
    """The path that was asked, the prefix of a proxy before it."""
    # Werkzeug's `path` has lost what slashes stand before the first one.
    path = request.environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
    return quote(_bounded(request.root_path + path))


def _bounded(text: str) -> str:
    return text if len(text) <= _QUOTED_MAX_CHARS else f"{text[:_QUOTED_MAX_CHARS]}..."


def on_unexpected(error: Exception) -> Response:
    log_defect(log, "request_broke", error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The service failed unexpectedly; the failure is logged.",
        ErrorCode.UNKNOWN_ERROR,
    )
