"""GET /models: what is known about the models that may be asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from flask import Blueprint, Response, jsonify, request

from contracts.enums import LLMProviderType
from llm_provider.errors import RequestRejected
from llm_provider.model_manifest import ModelManifest, ModelPrice, ModelRow
from llm_provider.protocols import LLMProviderProtocol

PricePerMillion = Callable[[LLMProviderType, str], ModelPrice | None]


class ProvidersProtocol(Protocol):
    """What is asked of the ProviderCaller here."""

    def all(self) -> Sequence[LLMProviderProtocol]: ...


class ModelViews:
    """The manifest's rows with today's prices, and the default models that the manifest lacks."""

    def __init__(self, manifest: ModelManifest, caller: ProvidersProtocol, price_per_million: PricePerMillion) -> None:
        self._manifest = manifest
        self._caller = caller
        self._price_per_million = price_per_million

    def blueprint(self) -> Blueprint:
        routes = Blueprint("models", __name__, url_prefix="/api/v1/models")
        routes.add_url_rule("", view_func=self.list)
        return routes

    def list(self) -> Response:
        asked = _provider(request.args.get("provider"))
        described = (
            model for provider in self._caller.all() if asked in (None, provider.name) for model in self._of(provider)
        )
        return jsonify(models=[*described])

    def _of(self, provider: LLMProviderProtocol) -> Iterator[dict[str, Any]]:
        default = self._manifest.find(provider.name, provider.default_model)
        if default is None:
            yield self._described(provider, provider.default_model, None, is_default=True)
        for row in self._manifest.models:
            if row.provider is provider.name:
                yield self._described(provider, row.model, row, is_default=row is default)

    def _described(
        self, provider: LLMProviderProtocol, model: str, row: ModelRow | None, *, is_default: bool
    ) -> dict[str, Any]:
        return {
            "provider": provider.name,
            "model": model,
            "configured": provider.is_configured(),
            "is_default": is_default,
            **_known(row),
            **_priced(self._price_per_million(provider.name, model)),
            "as_of": None if row is None else self._manifest.as_of.isoformat(),
        }


def _provider(name: str | None) -> LLMProviderType | None:
    if name is None:
        return None
    if name in set(LLMProviderType):
        return LLMProviderType(name)
    known = ", ".join(LLMProviderType)
    raise RequestRejected(f"No provider is called that; there are: {known}.", field="provider")


def _known(row: ModelRow | None) -> dict[str, Any]:
    """The manifest's part; all null for a model that it lacks, which is allowed."""
    return {
        "context_tokens": row and row.context_tokens,
        "max_output_tokens": row and row.max_output_tokens,
        "structured_output": row and row.structured_output,
        "accepts_sampling": row and row.accepts_sampling,
        "sampling_effort": row and row.sampling_effort,
        "reasoning_efforts": row and row.reasoning_efforts,
        "default_effort": row and row.default_effort,
    }


def _priced(price: ModelPrice | None) -> dict[str, Any]:
    """US dollars per million tokens; null when unknown, the lowest tier's when there are several."""
    return {
        "input_usd_per_million": price and price.input_usd,
        "output_usd_per_million": price and price.output_usd,
        "price_has_tiers": price and price.has_tiers,
    }
