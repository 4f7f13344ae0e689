"""What the parts of the service hand to one another; nothing here is seen on the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from contracts.enums import EssayWinner, LLMProviderType
from contracts.events.llm_provider_events import TokenUsage

JUSTIFICATION_MAX_CHARS = 500


class ComparisonTexts(BaseModel):
    """The confidential part of a request: it is stored apart, leaves Redis with the outcome, is never logged."""

    model_config = ConfigDict(frozen=True)

    user_prompt: str = Field(repr=False)
    essay_a: str = Field(repr=False)
    essay_b: str = Field(repr=False)
    system_prompt: str | None = Field(default=None, repr=False)


class ProviderCall(BaseModel):
    """One comparison as a provider is asked for it; None leaves the choice to the provider."""

    model_config = ConfigDict(frozen=True)

    texts: ComparisonTexts
    model: str
    temperature: float | None = None
    max_tokens: int | None = None


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


class ProviderAnswer(BaseModel):
    """What a provider's successful call yields."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    token_usage: TokenUsage
    cost_usd: Annotated[float, Field(ge=0.0)]


class ComparisonTarget(BaseModel):
    """The provider and model a request was resolved to when it was accepted."""

    model_config = ConfigDict(frozen=True)

    provider: LLMProviderType
    model: str
