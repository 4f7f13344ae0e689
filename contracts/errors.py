"""What a consumer is told when a comparison failed."""

from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, Field

from contracts.wire import MESSAGE, JsonObject, Text, UtcDatetime


class ErrorCode(StrEnum):
    """Closed: an existing consumer drops an event whose code it does not know. Meanings: docs/events.md."""

    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    CONFIGURATION_ERROR = "CONFIGURATION_ERROR"
    EXTERNAL_SERVICE_ERROR = "EXTERNAL_SERVICE_ERROR"
    KAFKA_PUBLISH_ERROR = "KAFKA_PUBLISH_ERROR"
    MISSING_REQUIRED_FIELD = "MISSING_REQUIRED_FIELD"
    INVALID_CONFIGURATION = "INVALID_CONFIGURATION"
    TIMEOUT = "TIMEOUT"
    CONNECTION_ERROR = "CONNECTION_ERROR"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    RATE_LIMIT = "RATE_LIMIT"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    AUTHENTICATION_ERROR = "AUTHENTICATION_ERROR"
    INVALID_API_KEY = "INVALID_API_KEY"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_RESPONSE = "INVALID_RESPONSE"
    PARSING_ERROR = "PARSING_ERROR"
    CIRCUIT_BREAKER_OPEN = "CIRCUIT_BREAKER_OPEN"
    REQUEST_QUEUED = "REQUEST_QUEUED"
    PROCESSING_ERROR = "PROCESSING_ERROR"
    INITIALIZATION_FAILED = "INITIALIZATION_FAILED"
    LLM_PROVIDER_SERVICE_ERROR = "LLM_PROVIDER_SERVICE_ERROR"


class ErrorDetail(BaseModel):
    """Why a comparison failed. It never holds prompts, essays, keys or broker addresses."""

    model_config = MESSAGE

    error_code: ErrorCode
    message: Text = Field(description="A sentence for people; programs read error_code.")
    correlation_id: UUID
    timestamp: UtcDatetime = Field(description="When the failure was decided.")
    service: Text
    operation: Text
    details: JsonObject = Field(default_factory=dict)
    stack_trace: Text | None = Field(default=None, description="Always null in a callback.")
    trace_id: Text | None = None
    span_id: Text | None = None
