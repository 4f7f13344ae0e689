"""What the HTTP API takes and gives: contract.md section 3 as models."""

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from contracts.enums import CallbackStatus, EssayWinner, LLMProviderType, QueueStatus
from contracts.events.llm_provider_events import TokenUsage

METADATA_MAX_BYTES = 64 * 1024
# A consumer's JSON parser gives up at about 200 levels, and the envelope around the metadata needs a few of them.
METADATA_MAX_DEPTH = 100
# Where what we add to a caller's metadata stands when a key of the caller's has a name of ours.
NOTES_KEY = "llm_provider_notes"
# Anything but white space, control and format characters; and of the others what Unicode calls default ignorable
# (joiners, fillers, variation selectors, tags), the blank of Braille and the empty head of a note.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LEGAL_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def legal_topic(topic: str) -> str:
    """A topic name that Kafka allows and that is not one of its internal ones."""
    if not _LEGAL_TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise ValueError("must be a legal Kafka topic name: 1 to 249 of the characters a-z A-Z 0-9 . _ -")
    if topic.startswith("__"):
        raise ValueError("must not be an internal Kafka topic (a name that begins with __)")
    return topic


def is_blank(text: str) -> bool:
    """Whether nobody would see anything of it."""
    return _VISIBLE.search(text) is None


def _plain_json(metadata: dict[str, Any]) -> dict[str, Any]:
    _refuse_what_json_cannot_say(metadata, METADATA_MAX_DEPTH)
    if len(to_json(metadata)) > METADATA_MAX_BYTES:
        raise ValueError(f"must be at most {METADATA_MAX_BYTES} bytes as JSON")
    if NOTES_KEY in metadata:
        raise ValueError(f"must not have the key {NOTES_KEY}, which is this service's own")
    return metadata


def _refuse_what_json_cannot_say(value: object, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"must not be nested deeper than {METADATA_MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or an infinite number")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _refuse_what_json_cannot_say(child, depth - 1)


class LLMConfigOverrides(BaseModel):
    """What a caller may choose instead of the defaults; null leaves the default."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    provider_override: LLMProviderType | None = None
    model_override: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    temperature_override: Annotated[float, Field(ge=0, le=2)] | None = None
    system_prompt_override: str | None = Field(default=None, repr=False)
    max_tokens_override: Annotated[int, Field(gt=0)] | None = None


class LLMComparisonRequest(BaseModel):
    """The body of `POST /api/v1/comparison`; types are strict, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    user_prompt: str = Field(repr=False)
    essay_a: str = Field(repr=False)
    essay_b: str = Field(repr=False)
    callback_topic: Annotated[str, AfterValidator(legal_topic)] | None = None
    llm_config_overrides: LLMConfigOverrides | None = None
    correlation_id: UUID | None = None
    user_id: Annotated[str, Field(max_length=200)] | None = None
    # Seconds from acceptance; None: as long as this service allows.
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_plain_json)] | None = None


class LLMComparisonResponse(BaseModel):
    """A finished comparison: the synchronous 200, the polled result, and what the result backend keeps."""

    winner: EssayWinner
    justification: str
    confidence: Annotated[float, Field(ge=1, le=5)]
    provider: LLMProviderType
    model: str
    response_time_ms: Annotated[int, Field(ge=0)]
    token_usage: TokenUsage
    cost_estimate: Annotated[float, Field(ge=0)]
    correlation_id: UUID
    trace_id: str | None
    metadata: dict[str, Any]


class LLMQueuedResponse(BaseModel):
    """The body of a 202: accepted, and where to ask."""

    queue_id: str
    status: Literal[QueueStatus.QUEUED] = QueueStatus.QUEUED
    message: str
    estimated_wait_minutes: Annotated[int, Field(ge=1)]
    status_url: str
    retry_after: Annotated[int, Field(ge=1)]
    correlation_id: UUID


class LLMQueueStatusResponse(BaseModel):
    """The body of `GET /api/v1/status/<queue_id>`; position counts from 1 and is null once a worker has it."""

    queue_id: str
    status: QueueStatus
    message: str
    queued_at: datetime
    position_in_queue: int | None
    estimated_wait_minutes: int | None
    result_available: bool
    callback_status: CallbackStatus
    error_message: str | None
    expires_at: datetime | None
    correlation_id: UUID
