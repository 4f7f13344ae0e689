"""What a call costs, by the price list that ships with genai-prices; nothing is fetched."""

from genai_prices import Usage, calc_price

from contracts.enums import LLMProviderType
from contracts.events.llm_provider_events import TokenUsage


def cost_usd(
    provider: LLMProviderType,
    model: str,
    usage: TokenUsage,
    *,
    cached_tokens: int = 0,
    service_tier: str | None = None,
) -> float:
    """US dollars; 0.0 for a model that the list does not know. `cached_tokens` are a part of the prompt's."""
    billed = Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=min(cached_tokens, usage.prompt_tokens),
        output_tokens=usage.completion_tokens,
    )
    context = {"service_tier": service_tier} if service_tier else None
    try:
        price = calc_price(billed, model, provider_id=provider.value, price_context=context)
    except (LookupError, ValueError):
        return 0.0
    return float(price.total_price)
