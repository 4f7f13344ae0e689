"""What a call costs."""

import socket

import pytest

from contracts.enums import LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.pricing import cost_usd
from llm_provider.config import Settings

OPENAI = LLMProviderType.OPENAI
MODEL = Settings().openai_default_model
USAGE = TokenUsage(prompt_tokens=1200, completion_tokens=150, total_tokens=1350)


def doubled(usage: TokenUsage) -> TokenUsage:
    return TokenUsage(**{name: 2 * count for name, count in usage.model_dump().items()})


def test_the_default_model_has_a_price() -> None:
    """A comparison of two essays costs something, but not a dollar."""
    assert 0 < cost_usd(OPENAI, MODEL, USAGE) < 1


def test_the_price_grows_with_the_tokens() -> None:
    """Twice the tokens cost twice as much."""
    assert cost_usd(OPENAI, MODEL, doubled(USAGE)) == pytest.approx(2 * cost_usd(OPENAI, MODEL, USAGE))


def test_cached_tokens_are_a_cheaper_part_of_the_prompt() -> None:
    """They lower the price; more of them than there were tokens count as all of them."""
    all_cached = cost_usd(OPENAI, MODEL, USAGE, cached_tokens=USAGE.prompt_tokens)
    assert 0 < all_cached < cost_usd(OPENAI, MODEL, USAGE)
    assert cost_usd(OPENAI, MODEL, USAGE, cached_tokens=10**6) == all_cached


def test_the_service_tier_changes_the_price() -> None:
    """A tier that nobody knows is priced like the default one."""
    price = cost_usd(OPENAI, MODEL, USAGE, service_tier="default")
    assert cost_usd(OPENAI, MODEL, USAGE, service_tier="flex") < price
    assert cost_usd(OPENAI, MODEL, USAGE, service_tier="unheard-of") == price


@pytest.mark.parametrize("model", ["my-own-llama", "", "gpt", "x:y/z", "\x00", "gpt-5.4-mini-unheard-of"])
@pytest.mark.parametrize("provider", LLMProviderType)
def test_an_unknown_model_costs_nothing_and_raises_nothing(provider: LLMProviderType, model: str) -> None:
    """A verdict is not lost because its price is not known."""
    assert cost_usd(provider, model, USAGE) == 0.0


def test_no_price_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices come from the installed list alone."""

    def refuse(*_: object) -> None:
        raise AssertionError("A connection was asked for.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert cost_usd(OPENAI, MODEL, USAGE) > 0
