"""Errors as application/problem+json (RFC 9457), in sentences a caller can act on; never a stack trace."""

import math
import traceback
from http import HTTPStatus
from typing import Any

import structlog
from flask import Response, json, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from contracts.errors import ErrorCode
from llm_provider.api import correlation
from llm_provider.api.bodies import discard_body
from llm_provider.errors import RequestRejected, RequestTooLarge, ServiceError

log = structlog.get_logger(__name__)

DEFAULT_RETRY_AFTER_SECONDS = 5

_CODES = {404: ErrorCode.RESOURCE_NOT_FOUND, 405: ErrorCode.INVALID_REQUEST}


def problem(
    status: int,
    detail: str,
    error_code: ErrorCode,
    *,
    is_retryable: bool = False,
    retry_after_seconds: float | None = None,
    errors: list[dict[str, str]] | None = None,
) -> Response:
    """One problem document; `error` repeats the detail because existing clients read it."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
        "error_code": error_code,
        "correlation_id": str(correlation.current()),
        "is_retryable": is_retryable,
        "errors": errors or [],
        "error": detail,
    }
    response = Response(json.dumps(body), status=status, mimetype="application/problem+json")
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_seconds)))
    return response


def on_service_error(error: ServiceError) -> Response:
    field = error.field if isinstance(error, RequestRejected) else None
    retry_after = error.retry_after_seconds
    if retry_after is None and error.is_retryable and error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = DEFAULT_RETRY_AFTER_SECONDS
    return problem(
        error.http_status,
        error.message,
        error.error_code,
        is_retryable=error.is_retryable,
        retry_after_seconds=retry_after,
        errors=[{"field": field, "message": error.message}] if field else None,
    )


def invalid_body(error: ValidationError) -> Response:
    """Every field that is wrong, by its path; what the caller sent is not repeated."""
    errors = [
        {"field": ".".join(map(str, item["loc"])) or "body", "message": item["msg"].removeprefix("Value error, ")}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return problem(HTTPStatus.BAD_REQUEST, detail, ErrorCode.VALIDATION_ERROR, errors=errors)


def on_http_exception(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        discard_body()
        return on_service_error(RequestTooLarge("The body is larger than this service reads.", field="body"))
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    response = problem(status, error.description or error.name, _CODES.get(status, ErrorCode.VALIDATION_ERROR))
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = dict(error.get_headers()).get("Allow", "")
    return response


def on_unexpected(error: Exception) -> Response:
    # The text of a foreign exception may quote an essay; its class and place say enough.
    log.error("request_broke", error=type(error).__name__, frames=traceback.format_tb(error.__traceback__))
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The service failed unexpectedly; the failure is logged.",
        ErrorCode.UNKNOWN_ERROR,
    )
