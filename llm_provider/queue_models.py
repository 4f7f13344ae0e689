"""What the ledger stores about a request; every stored form carries its schema version."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from contracts.enums import EssayWinner, LLMProviderType
from contracts.errors import ErrorCode
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.api_models import LLMConfigOverrides

# https://www.w3.org/TR/trace-context/: version ff and ids of zeros are invalid, and tracestate may be dropped.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
TRACESTATE_MAX_CHARS = 512

# The Celery task of one comparison; its message carries the queue id and nothing else.
TASK_NAME = "llm_provider.process_comparison"

REQUEST_SCHEMA_VERSION = 1
OUTCOME_SCHEMA_VERSION = 2


class TraceContext(BaseModel):
    """W3C trace context of the request that was accepted."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    traceparent: str
    tracestate: str | None = None

    @property
    def trace_id(self) -> str:
        return self.traceparent.split("-")[1]


class QueuedRequest(BaseModel):
    """An accepted request without its texts, which are stored beside it so that they can go first."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    schema_version: Annotated[int, Field(le=REQUEST_SCHEMA_VERSION)] = REQUEST_SCHEMA_VERSION
    queue_id: str
    correlation_id: UUID
    callback_topic: str | None
    provider: LLMProviderType
    model: str
    overrides: LLMConfigOverrides
    user_id: str | None = None
    metadata: dict[str, Any]
    queued_at: AwareDatetime
    deadline_seconds: Annotated[float, Field(gt=0)]
    trace_context: TraceContext | None = None

    def once_delivered(self) -> "QueuedRequest":
        """What status and a resent event need; a result that is polled holds its metadata itself."""
        spent: dict[str, Any] = {"user_id": None, "overrides": LLMConfigOverrides()}
        return self.model_copy(update=spent if self.callback_topic else spent | {"metadata": {}})

    @property
    def trace_id(self) -> str | None:
        return self.trace_context.trace_id if self.trace_context else None

    @property
    def seconds_left(self) -> float:
        """Until its deadline by this host's clock; Redis's own is the one that counts."""
        return self.deadline_seconds - (utc_now() - self.queued_at).total_seconds()

    def ended_now(self) -> datetime:
        """The wall clock, and never before it was accepted: that was another host's clock."""
        return max(utc_now(), self.queued_at)


class OutcomeKind(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"


class OutcomeError(BaseModel):
    """Why there is no verdict; the message is ours, the details are plain values."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    error_code: ErrorCode
    message: str
    is_retryable: bool
    details: dict[str, Any] = {}


class OutcomeVerdict(BaseModel):
    """The verdict as it goes on the wire; confidence is 1..5."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    winner: EssayWinner
    justification: str
    confidence: float


class Outcome(BaseModel):
    """Everything an answer is made of, fixed before the first attempt to deliver it; one of verdict and error."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    # A newer one is left to a newer worker: here its event would lack what that version brought.
    schema_version: Annotated[int, Field(le=OUTCOME_SCHEMA_VERSION)] = OUTCOME_SCHEMA_VERSION
    kind: OutcomeKind
    event_id: UUID
    completed_at: AwareDatetime
    verdict: OutcomeVerdict | None = None
    error: OutcomeError | None = None
    response_time_ms: Annotated[int, Field(ge=0)] = 0
    token_usage: TokenUsage = TokenUsage()
    cost_estimate: Annotated[float, Field(ge=0)] = 0.0
    # Since version 2: what we add to the caller's metadata.
    notes: dict[str, JsonValue] = {}


def utc_now() -> datetime:
    """The wall clock, timezone-aware."""
    return datetime.now(UTC)


def parse_trace_context(traceparent: str | None, tracestate: str | None) -> TraceContext | None:
    """The W3C trace context a caller sent, or None when there is none that is valid."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return TraceContext(traceparent=traceparent, tracestate=_legal_tracestate(tracestate))


def _legal_tracestate(tracestate: str | None) -> str | None:
    if not tracestate or len(tracestate) > TRACESTATE_MAX_CHARS or not tracestate.isascii():
        return None
    return tracestate
