"""The payload of a callback: the outcome of one comparison."""

from typing import Annotated, Final, Self
from uuid import UUID

from pydantic import BaseModel, Field, model_validator
from pydantic.config import JsonDict

from contracts.enums import EssayWinner, LLMProviderType
from contracts.errors import ErrorDetail
from contracts.wire import MESSAGE, Count, JsonObject, Number, Text, UtcDatetime

UUID_TEXT: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

# What `_one_outcome` checks, said once more for the readers of the JSON Schema.
ONE_OUTCOME: Final[JsonDict] = {
    "oneOf": [
        {
            "title": "Success",
            "required": ["winner", "justification", "confidence"],
            "properties": {
                "winner": {"type": "string"},
                "justification": {"type": "string"},
                "confidence": {"type": "number"},
                "error_detail": {"type": "null"},
            },
        },
        {
            "title": "Failure",
            "required": ["error_detail"],
            "properties": {"winner": {"type": "null"}, "error_detail": {"type": "object"}},
        },
    ]
}


class TokenUsage(BaseModel):
    """The tokens that the provider counted; zeros when it counted none."""

    model_config = MESSAGE

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0


class LLMComparisonResultV1(BaseModel):
    """The outcome of one comparison: a winner with its reasons, or an error, never both."""

    model_config = {**MESSAGE, "json_schema_extra": ONE_OUTCOME}

    request_id: Annotated[str, Field(pattern=UUID_TEXT, json_schema_extra={"format": "uuid"})] = Field(
        description="The queue id that the 202 answer named."
    )
    correlation_id: UUID = Field(description="The caller's own; many comparisons may share one.")

    winner: EssayWinner | None = None
    justification: Annotated[Text, Field(max_length=500)] | None = None
    confidence: Annotated[Number, Field(ge=1, le=5)] | None = Field(
        default=None, description="1 is a guess, 5 is certain."
    )
    error_detail: ErrorDetail | None = None

    provider: LLMProviderType
    model: Text = Field(description="The model that was asked.")
    response_time_ms: Count = Field(
        description="The provider's call alone; 0 for a request that expired or was given up."
    )
    token_usage: TokenUsage = Field(default_factory=TokenUsage)
    cost_estimate: Annotated[Number, Field(ge=0)] = Field(description="US dollars.")
    requested_at: UtcDatetime = Field(description="When the request was accepted.")
    completed_at: UtcDatetime = Field(description="When its outcome was decided.")
    trace_id: Text | None = None
    request_metadata: JsonObject = Field(
        default_factory=dict,
        description="The metadata of the request, nothing of it changed, with prompt_sha256, dropped_parameters and "
        "cost_note beside it, as far as they apply.",
    )

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        if self.is_success == self.is_error:
            found = "both" if self.is_success else "neither"
            raise ValueError(f"exactly one of winner and error_detail must be given, found {found}")
        missing = [name for name in ("justification", "confidence") if getattr(self, name) is None]
        if self.is_success and missing:
            raise ValueError(f"a winner needs justification and confidence; missing: {', '.join(missing)}")
        return self

    @property
    def is_success(self) -> bool:
        return self.winner is not None

    @property
    def is_error(self) -> bool:
        return self.error_detail is not None
