"""Messages as they look on the wire, for tests to bend: a success, a failure, and their envelope."""

from typing import Any

QUEUE_ID = "7b0f4c1e-5c55-4d0e-8f3a-0d7b2f1c9a10"
CORRELATION_ID = "3e9a1d52-4a1b-4b57-9c52-1f6d2f0a7b11"
LEAVE_OUT = object()
"""As the value of a field: the field is not there at all."""


def without_gaps(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not LEAVE_OUT}


def error(**changes: Any) -> dict[str, Any]:
    fields = {
        "error_code": "TIMEOUT",
        "message": "The provider did not answer in time.",
        "correlation_id": CORRELATION_ID,
        "timestamp": "2026-11-22T10:15:02Z",
        "service": "llm_provider_service",
        "operation": "llm_comparison",
    }
    return without_gaps(fields | changes)


def success(**changes: Any) -> dict[str, Any]:
    fields = {
        "request_id": QUEUE_ID,
        "correlation_id": CORRELATION_ID,
        "winner": "Essay B",
        "justification": "Its argument is better connected.",
        "confidence": 4.2,
        "provider": "openai",
        "model": "gpt-5.4-mini",
        "response_time_ms": 1830,
        "cost_estimate": 0.0012,
        "requested_at": "2026-11-22T10:15:00Z",
        "completed_at": "2026-11-22T10:15:02Z",
    }
    return without_gaps(fields | changes)


def failure(**changes: Any) -> dict[str, Any]:
    without_verdict = dict.fromkeys(["winner", "justification", "confidence"], LEAVE_OUT)
    return success(**(without_verdict | {"error_detail": error()} | changes))


def envelope(**changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": "0c8a3b52-0b6f-5b0c-9b53-2f1d5a4c7e12",
        "event_type": "huleedu.llm_provider.comparison_result.v1",
        "event_timestamp": "2026-11-22T10:15:02Z",
        "source_service": "llm_provider_service",
        "correlation_id": CORRELATION_ID,
        "data": success(),
    }
    return without_gaps(fields | changes)
