"""OpenRouter: OpenAI's Chat Completions, spoken by the OpenAI SDK, with a few words of its own.

By its API reference of 2026-08-22, https://openrouter.ai/docs/api_reference/overview, and the pages on provider
selection, reasoning tokens and usage accounting beside it.
"""

from dataclasses import replace

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.adapters.providers.replies import Reply
from llm_provider.model_manifest import FittedCall

MAX_USD = 1_000_000.0  # More than any call costs; a greater figure is a defect.


class OpenRouterProvider(OpenAIProvider):
    """Over OpenRouter; what it charged is what it says it charged."""

    name = LLMProviderType.OPENROUTER
    default_base_url = "https://openrouter.ai/api/v1"
    default_model = "openai/gpt-5.4-mini"

    def _options(self, fitted: FittedCall) -> dict[str, object]:
        # Without require_parameters a host that knows no schema ignores ours. With it a host must know every field,
        # and there are models of which all hosts know max_tokens and none max_completion_tokens.
        options: dict[str, object] = {"provider": {"require_parameters": True}}
        if fitted.max_tokens is not None:
            options["max_tokens"] = fitted.max_tokens
        if fitted.reasoning_effort is not None:
            options["reasoning"] = {"effort": fitted.reasoning_effort}
        return options

    def _read(self, completion: object) -> Reply:
        return replace(super()._read(completion), charged_usd=_charged_usd(getattr(completion, "usage", None)))


def _charged_usd(usage: object) -> float | None:
    """US dollars, with those that the host bills itself when the key for it is the account's own; None: not said."""
    cost = _dollars(getattr(usage, "cost", None))
    if cost is None or getattr(usage, "is_byok", None) is not True:
        return cost
    details = getattr(usage, "cost_details", None)
    upstream = _dollars(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
    # The fee alone would be taken for the price, so without the host's part the price list has to do.
    return None if upstream is None else cost + upstream


def _dollars(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_USD else None
