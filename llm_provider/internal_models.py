"""What the parts of the service hand to one another; nothing here is seen on the wire."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from contracts.enums import EssayWinner, LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider import errors
from llm_provider.errors import ComparisonError, ProviderError

JUSTIFICATION_MAX_CHARS = 500
# Vendors' rule of thumb for English.
CHARS_PER_TOKEN = 4

E = TypeVar("E", bound=ComparisonError)


class ComparisonTexts(BaseModel):
    """The confidential part of a request: it is stored apart, leaves Redis with the outcome, is never logged."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    user_prompt: str = Field(repr=False)
    essay_a: str = Field(repr=False)
    essay_b: str = Field(repr=False)
    system_prompt: str | None = Field(default=None, repr=False)


class Prompt(BaseModel):
    """The two messages of a call; confidential like the essays in them."""

    model_config = ConfigDict(frozen=True)

    system: str = Field(repr=False)
    user: str = Field(repr=False)

    @property
    def sha256(self) -> str:
        """Hex digest of both messages as UTF-8 with a NUL byte between them: what was sent, without showing it."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode(errors="surrogatepass")).hexdigest()


class ProviderCall(BaseModel):
    """One comparison as a provider is asked for it; None leaves the choice to the provider."""

    model_config = ConfigDict(frozen=True)

    texts: ComparisonTexts
    prompt: Prompt
    model: str
    temperature: float | None = None
    max_tokens: int | None = None
    # Whether it only finds out if a call succeeds, and so shall cost as little as one can.
    is_trial: bool = False


class Bill(BaseModel):
    """What calls have cost, in tokens as the vendor counted them and in US dollars."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    token_usage: TokenUsage = TokenUsage()
    cost_usd: Annotated[float, Field(ge=0.0)] = 0.0

    def plus(self, usage: TokenUsage, cost_usd: float) -> Self:
        """This and one more call."""
        return self.model_copy(
            update={
                "token_usage": TokenUsage(
                    prompt_tokens=self.token_usage.prompt_tokens + usage.prompt_tokens,
                    completion_tokens=self.token_usage.completion_tokens + usage.completion_tokens,
                    total_tokens=self.token_usage.total_tokens + usage.total_tokens,
                ),
                "cost_usd": self.cost_usd + cost_usd,
            }
        )

    def put_on(self, error: E) -> E:
        """The same error, told with what was spent."""
        return error.billed(self.token_usage, self.cost_usd)


class FailedCall(BaseModel):
    """What is to be told of a call that gave no verdict, should it have been the last one."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    # The name of its class in errors.py, to which code and retryability belong.
    kind: str
    message: str
    retry_after_seconds: float | None = None
    details: dict[str, str | int | float | bool] = {}
    notes: dict[str, JsonValue] = {}
    response_time_ms: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def of(cls, error: ProviderError) -> Self:
        """Raises ValueError for an error that could not be read again: it must not break the next claim."""
        told = cls(
            kind=type(error).__name__,
            message=error.message,
            retry_after_seconds=error.retry_after_seconds,
            details=error.details,
            notes=dict(error.notes),
            response_time_ms=error.response_time_ms,
        )
        return cls.model_validate_json(told.model_dump_json())

    def error(self) -> ProviderError | None:
        """The same error again, without what it cost; None when another version of this service knew its class."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, ProviderError)):
            return None
        error = kind(self.message, retry_after_seconds=self.retry_after_seconds, details=self.details).noted(self.notes)
        error.response_time_ms = self.response_time_ms
        return error


class CallProgress(BaseModel):
    """What a request that waits for its next call brings along.

    Stored without a version: a new field here, or in its parts, has a default, and older code passes it over.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    # Calls that have failed so far, but for those turned away while the vendor granted others, which are counted apart.
    failures: Annotated[int, Field(ge=0)] = 0
    turned_away: Annotated[int, Field(ge=0)] = 0
    # Whether its turn under the rate limits has been reserved, so that it goes on without asking again; and missed.
    has_turn: bool = False
    is_late: bool = False
    # What those calls cost: a part of what the answer costs in the end.
    bill: Bill = Bill()
    last_failure: FailedCall | None = None

    def last_error(self) -> ProviderError | None:
        """What its last call ended with, on it the bill of all; None when no call has failed."""
        error = None if self.last_failure is None else self.last_failure.error()
        return None if error is None else self.bill.put_on(error)


class Verdict(BaseModel):
    """A model's judgement, validated; confidence is 0..1 inside the service."""

    model_config = ConfigDict(frozen=True)

    winner: EssayWinner
    justification: Annotated[str, Field(min_length=1, max_length=JUSTIFICATION_MAX_CHARS)]
    confidence: Annotated[float, Field(ge=0.0, le=1.0)]

    @property
    def confidence_on_the_wire(self) -> float:
        """Confidence on the 1..5 scale of HTTP and Kafka."""
        return round(1.0 + 4.0 * self.confidence, 4)


class TokenCounts(BaseModel):
    """What a vendor counted: `prompt` includes the cached tokens, `completion` those of reasoning."""

    model_config = ConfigDict(frozen=True)

    prompt: Annotated[int, Field(ge=0)] = 0
    completion: Annotated[int, Field(ge=0)] = 0
    cache_read: Annotated[int, Field(ge=0)] = 0
    cache_written: Annotated[int, Field(ge=0)] = 0
    # A part of those, kept for an hour in place of minutes, which costs more.
    cache_written_1h: Annotated[int, Field(ge=0)] = 0

    @property
    def is_empty(self) -> bool:
        return self.prompt == 0 and self.completion == 0


class Cost(BaseModel):
    """US dollars, and why the figure is not to be taken for the vendor's bill, if so."""

    model_config = ConfigDict(frozen=True)

    usd: Annotated[float, Field(ge=0.0)]
    note: str | None = None


class ProviderAnswer(BaseModel):
    """What a provider's successful call yields."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    token_usage: TokenUsage
    cost_usd: Annotated[float, Field(ge=0.0)]
    # What the caller should know about the call, told in the result's metadata.
    notes: Mapping[str, JsonValue] = {}


class ComparisonTarget(BaseModel):
    """The provider and model a request was resolved to when it was accepted."""

    model_config = ConfigDict(frozen=True)

    provider: LLMProviderType
    model: str
