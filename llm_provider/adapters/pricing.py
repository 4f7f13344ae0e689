"""What a call costs, by the price list that ships with genai-prices; nothing is fetched."""

import math
from collections.abc import Mapping
from decimal import Decimal

from genai_prices import Usage, calc_price
from genai_prices.types import PriceCalculation, TieredPrices

from contracts.enums import LLMProviderType
from llm_provider.internal_models import Cost, TokenCounts
from llm_provider.model_manifest import ModelPrice
from llm_provider.model_names import bare_name

UNKNOWN_PRICE = "The price list does not know this model, so its cost is given as 0."
NOTHING_COUNTED = "The vendor did not say how many tokens it counted, so the cost is given as 0."
UNCOUNTED = Cost(usd=0.0, note=NOTHING_COUNTED)


def price(
    provider: LLMProviderType,
    model: str,
    counts: TokenCounts,
    context: Mapping[str, str] | None = None,
    *,
    factor: float = 1.0,
    charged_usd: float | None = None,
) -> Cost:
    """What the vendor says it charged, or `factor` times what the list says.

    0 with a note for a model that the list lacks, and where the vendor counted nothing.
    """
    if charged_usd is not None and math.isfinite(charged_usd) and charged_usd >= 0:
        return Cost(usd=charged_usd)
    if counts.is_empty:
        return UNCOUNTED
    found = _look_up(provider, model, _usage(counts), context)
    return Cost(usd=0.0, note=UNKNOWN_PRICE) if found is None else Cost(usd=float(found.total_price) * factor)


def price_per_million(provider: LLMProviderType, model: str) -> ModelPrice | None:
    """Today's list price; None for a model that the list lacks, or lists without a price."""
    found = _look_up(provider, model, Usage())
    if found is None:
        return None
    prices = found.model_price.input_mtok, found.model_price.output_mtok
    if prices[0] is None or prices[1] is None:
        return None
    has_tiers = any(isinstance(each, TieredPrices) for each in prices)
    return ModelPrice(_lowest(prices[0]), _lowest(prices[1]), has_tiers)


def _look_up(
    provider: LLMProviderType, model: str, usage: Usage, context: Mapping[str, str] | None = None
) -> PriceCalculation | None:
    try:
        return calc_price(
            usage, bare_name(provider, model), provider_id=provider.value, price_context=dict(context or {}) or None
        )
    except (LookupError, ValueError):
        return None


def _usage(counts: TokenCounts) -> Usage:
    """The list's words for it; the parts of the prompt never exceed it, which the list would not take."""
    cached = min(counts.cache_read, counts.prompt)
    written = min(counts.cache_written, counts.prompt - cached)
    return Usage(
        input_tokens=counts.prompt,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(counts.cache_written_1h, written) or None,
        output_tokens=counts.completion,
    )


def _lowest(value: Decimal | TieredPrices) -> float:
    """Below the first tier, where a prompt with two essays is."""
    return float(value.base if isinstance(value, TieredPrices) else value)
