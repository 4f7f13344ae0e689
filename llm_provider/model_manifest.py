"""What is known about the vendors' models: models.toml, read once."""

import tomllib
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from contracts.enums import LLMProviderType
from llm_provider.internal_models import ProviderCall
from llm_provider.model_names import bare_name, base_name

DATA_FILE = Path(__file__).parent / "models.toml"

TokenCount = Annotated[int, Field(gt=0)]

# What can be known about a model.
Column = Literal[
    "context_tokens",
    "max_output_tokens",
    "structured_output",
    "accepts_sampling",
    "sampling_effort",
    "reasoning_efforts",
    "default_effort",
]


class StructuredOutput(StrEnum):
    """The vendor's means to make a model answer in a schema."""

    JSON_SCHEMA = "json_schema"
    FORCED_TOOL = "forced_tool"
    PROMPT = "prompt"  # None: the prompt alone asks for it.


class ModelRow(BaseModel):
    """One model; limits in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: LLMProviderType
    model: str
    # The most that may be sent; with some vendors the answer counts, too.
    context_tokens: TokenCount
    # Reasoning included.
    max_output_tokens: TokenCount
    structured_output: StructuredOutput
    accepts_sampling: bool
    # The only effort at which it does, when there is such a condition.
    sampling_effort: str | None = None
    # What the vendor calls it when a model reasons, the least first; empty: it has no such knob, or nobody knows it.
    reasoning_efforts: tuple[str, ...] = ()
    # How it reasons when it is not told; None: nobody knows.
    default_effort: str | None = None
    # For scripts/renew_models.py: the row's key in litellm's data, and the columns it must not touch.
    source: str | None = None
    by_hand: tuple[Column, ...] = ()

    def takes_sampling_at(self, effort: str | None) -> bool:
        """Whether sampling parameters may be sent beside this effort; None: the model is not told any."""
        at = self.default_effort if effort is None else effort
        return self.accepts_sampling and self.sampling_effort in (None, at)


class ModelManifest(BaseModel):
    """All rows, and the day and the origin of their data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    data: str = ""
    models: tuple[ModelRow, ...]
    _by_name: dict[tuple[LLMProviderType, str], ModelRow] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _index(self) -> Self:
        self._by_name.update({(row.provider, row.model): row for row in self.models})
        if len(self._by_name) < len(self.models):
            raise ValueError("two rows are of the same model")
        return self

    def find(self, provider: LLMProviderType, model: str) -> ModelRow | None:
        """The row of a model, or of the model that it is a snapshot of; None when it is unknown, which is allowed."""
        name = bare_name(provider, model)
        return self._by_name.get((provider, name)) or self._by_name.get((provider, base_name(name)))


class FittedCall(BaseModel):
    """A call's parameters with what the model refuses left out; `dropped` names it."""

    model_config = ConfigDict(frozen=True)

    temperature: float | None
    max_tokens: int | None
    reasoning_effort: str | None
    structured_output: StructuredOutput | None
    # The most that the model writes; None: nobody knows.
    max_output_tokens: int | None
    dropped: tuple[str, ...]


class ModelPrice(NamedTuple):
    """US dollars per million tokens, of an ordinary call with a short prompt."""

    input_usd: float
    output_usd: float
    # Whether a long prompt makes all tokens dearer.
    has_tiers: bool


@cache
def load_manifest() -> ModelManifest:
    """The manifest that ships with this package."""
    return ModelManifest.model_validate(tomllib.loads(DATA_FILE.read_text(encoding="utf-8")))


def fit(call: ProviderCall, row: ModelRow | None, *, reasoning_effort: str | None = None) -> FittedCall:
    """What of a call may be sent to its model; to an unknown one, everything."""
    dropped = () if row is None else tuple(_refused(call, row, reasoning_effort))
    return FittedCall(
        temperature=None if "temperature" in dropped else call.temperature,
        max_tokens=None if "max_tokens" in dropped else call.max_tokens,
        reasoning_effort=None if "reasoning_effort" in dropped else reasoning_effort,
        structured_output=None if row is None else row.structured_output,
        max_output_tokens=None if row is None else row.max_output_tokens,
        dropped=dropped,
    )


def _refused(call: ProviderCall, row: ModelRow, effort: str | None) -> Iterator[str]:
    told = effort if effort in row.reasoning_efforts else None
    if call.temperature is not None and not row.takes_sampling_at(told):
        yield "temperature"
    if call.max_tokens is not None and call.max_tokens > row.max_output_tokens:
        yield "max_tokens"
    if effort != told:
        yield "reasoning_effort"
