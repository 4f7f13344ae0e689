"""What a call costs; the figures are worked out by hand from the published prices, which stand beside them."""

import math
import socket
from dataclasses import dataclass, field

import pytest

from contracts.enums import LLMProviderType
from llm_provider.adapters.pricing import NOTHING_COUNTED, UNKNOWN_PRICE, price, price_per_million
from llm_provider.internal_models import Cost, TokenCounts
from llm_provider.model_manifest import load_manifest

ANTHROPIC, GOOGLE, OPENAI, OPENROUTER = (
    LLMProviderType.ANTHROPIC,
    LLMProviderType.GOOGLE,
    LLMProviderType.OPENAI,
    LLMProviderType.OPENROUTER,
)
MODEL = "gpt-5.4-mini"
COUNTS = TokenCounts(prompt=1200, completion=150)


@dataclass(frozen=True)
class Bill:
    """A call, and what it costs by the vendor's page."""

    provider: LLMProviderType
    model: str
    counts: TokenCounts
    usd: float
    context: dict[str, str] = field(default_factory=dict)


# In US dollars per million tokens: input, cache read, cache write, output.
BILLS = [
    # 4, 0.2, 5, 20: 700 x 4 + 200 x 0.2 + 100 x 5 + 300 x 20 = 2800 + 40 + 500 + 6000
    Bill(
        ANTHROPIC,
        "claude-opus-5-5",
        TokenCounts(prompt=1000, cache_read=200, cache_written=100, completion=300),
        0.00934,
    ),
    # 1, 0.1, 1.25, 5: 1200 x 1 + 150 x 5 = 1200 + 750, by the name of a snapshot
    Bill(ANTHROPIC, "claude-haiku-4-5-20251001", COUNTS, 0.00195),
    # 0.75, 0.075, -, 4.5: 1000 x 0.75 + 200 x 0.075 + 150 x 4.5 = 750 + 15 + 675
    Bill(OPENAI, MODEL, TokenCounts(prompt=1200, cache_read=200, completion=150), 0.00144),
    # The same at the flex tier: half of everything.
    Bill(OPENAI, MODEL, TokenCounts(prompt=1200, cache_read=200, completion=150), 0.00072, {"service_tier": "flex"}),
    # No price for writing a cache: it is ordinary input. 1200 x 0.75 + 150 x 4.5 = 900 + 675
    Bill(OPENAI, MODEL, TokenCounts(prompt=1200, cache_written=200, completion=150), 0.001575),
    # 1.5, 0.15, -, 9: 1000 x 1.5 + 500 x 0.15 + 400 x 9 = 1500 + 75 + 3600, of which most may be thoughts
    Bill(GOOGLE, "gemini-3.5-flash", TokenCounts(prompt=1500, cache_read=500, completion=400), 0.005175),
    # 2, 0.2, -, 12 up to 200,000 tokens of prompt: 200000 x 2 + 100 x 12 = 400000 + 1200
    Bill(GOOGLE, "gemini-3.1-pro-preview", TokenCounts(prompt=200_000, completion=100), 0.4012),
    # 4, 0.4, -, 18 beyond, for all of them: 200001 x 4 + 100 x 18 = 800004 + 1800
    Bill(GOOGLE, "gemini-3.1-pro-preview", TokenCounts(prompt=200_001, completion=100), 0.801804),
    # 1, 0.1, 1.25, 5: 600 x 1 + 300 x 0.1 + 100 x 1.25 + 200 x 5 = 600 + 30 + 125 + 1000
    Bill(
        OPENROUTER,
        "anthropic/claude-haiku-4.5",
        TokenCounts(prompt=1000, cache_read=300, cache_written=100, completion=200),
        0.001755,
    ),
]


@pytest.mark.parametrize("bill", BILLS, ids=lambda bill: f"{bill.model} {bill.usd}")
def test_a_call_costs_what_the_vendor_publishes(bill: Bill) -> None:
    """Cached tokens at their own prices; `completion` includes reasoning, which costs what an answer costs."""
    cost = price(bill.provider, bill.model, bill.counts, bill.context)

    assert cost.usd == pytest.approx(bill.usd, rel=1e-9)
    assert cost.note is None


@pytest.mark.parametrize("charged", [0.0, 0.0123, 7])
def test_what_a_vendor_says_it_charged_counts(charged: float) -> None:
    """It knows its discounts; this needs no entry in the list, so there is nothing to note either."""
    for model in ("anthropic/claude-haiku-4.5", "nobody/knows-this"):
        cost = price(OPENROUTER, model, COUNTS, charged_usd=charged)

        assert (cost.usd, cost.note) == (charged, None)


@pytest.mark.parametrize("charged", [math.nan, math.inf, -0.01])
def test_a_charge_that_makes_no_sense_is_not_believed(charged: float) -> None:
    """The list is asked instead."""
    listed = price(OPENROUTER, "anthropic/claude-haiku-4.5", COUNTS)

    assert price(OPENROUTER, "anthropic/claude-haiku-4.5", COUNTS, charged_usd=charged) == listed
    assert listed.usd > 0


def test_a_context_that_nobody_knows_changes_nothing() -> None:
    """A tier of tomorrow is priced like the ordinary one."""
    ordinary = price(OPENAI, MODEL, COUNTS)

    for context in ({"service_tier": "unheard-of"}, {"service_tier": ""}, {"moon": "full"}, {}, None):
        assert price(OPENAI, MODEL, COUNTS, context) == ordinary


@pytest.mark.parametrize(
    "counts",
    [
        TokenCounts(prompt=10, cache_read=11),
        TokenCounts(prompt=10, cache_written=11),
        TokenCounts(prompt=10, cache_read=6, cache_written=5),
        TokenCounts(prompt=0, cache_read=10**9, cache_written=10**9),
    ],
)
@pytest.mark.parametrize("provider", [ANTHROPIC, OPENROUTER])
def test_more_cached_tokens_than_tokens_never_cost_a_verdict(provider: LLMProviderType, counts: TokenCounts) -> None:
    """A vendor that miscounts is priced as if all had been cached, and the total stays within the prompt's price."""
    model = "claude-haiku-4-5" if provider is ANTHROPIC else "anthropic/claude-haiku-4.5"
    dearest = counts.prompt * 1.25 / 1e6

    assert 0 <= price(provider, model, counts).usd <= dearest * (1 + 1e-9)


@pytest.mark.parametrize("model", ["my-own-llama", "", "gpt", "x:y/z", "\x00", "\ud800", "gpt-5.4-mini-unheard-of"])
@pytest.mark.parametrize("provider", LLMProviderType)
def test_an_unknown_model_costs_nothing_and_says_so(provider: LLMProviderType, model: str) -> None:
    """A verdict is not lost because its price is not known."""
    cost = price(provider, model, COUNTS)

    assert (cost.usd, cost.note) == (0.0, UNKNOWN_PRICE)
    assert price_per_million(provider, model) is None


@pytest.mark.parametrize("model", [MODEL, "unheard-of"])
def test_a_vendor_that_counts_nothing_is_not_taken_to_charge_nothing(model: str) -> None:
    """The 0 is explained, unless the vendor itself says that it charged so much, or nothing."""
    assert price(OPENAI, model, TokenCounts()) == Cost(usd=0, note=NOTHING_COUNTED)
    assert price(OPENAI, model, TokenCounts(), charged_usd=0.0) == Cost(usd=0)
    assert price(OPENAI, MODEL, TokenCounts(completion=1)).note is None


def test_what_is_kept_for_an_hour_costs_more_than_what_is_kept_for_minutes() -> None:
    """As anthropic publishes it: 2 and 1.25 times the price of a fresh token."""
    minutes = TokenCounts(prompt=1_000_000, cache_written=1_000_000)
    hour = minutes.model_copy(update={"cache_written_1h": 1_000_000})
    more_than_all = minutes.model_copy(update={"cache_written_1h": 2_000_000})

    assert price(ANTHROPIC, "claude-haiku-4-5", minutes).usd == pytest.approx(1.25)
    assert price(ANTHROPIC, "claude-haiku-4-5", hour).usd == pytest.approx(2.0)
    assert price(ANTHROPIC, "claude-haiku-4-5", more_than_all).usd == pytest.approx(2.0)


def test_a_name_as_a_path_is_the_same_model() -> None:
    """Google's own lists name models so."""
    assert price(GOOGLE, "models/gemini-3.1-pro-preview", COUNTS) == price(GOOGLE, "gemini-3.1-pro-preview", COUNTS)
    assert price_per_million(GOOGLE, "models/gemini-3.1-pro-preview") == (2.0, 12.0, True)
    assert price(OPENAI, f"models/{MODEL}", COUNTS).note == UNKNOWN_PRICE


def test_no_price_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices come from the installed list alone."""

    def refuse(*_: object) -> None:
        raise AssertionError("A connection was asked for.")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert price(OPENAI, MODEL, COUNTS).usd > 0
    assert price_per_million(OPENAI, MODEL) is not None


@pytest.mark.parametrize(
    ("provider", "model", "published"),
    [
        (ANTHROPIC, "claude-opus-5-5", (4.0, 20.0, False)),
        (OPENAI, "gpt-5.4-mini", (0.75, 4.5, False)),
        (GOOGLE, "gemini-3.1-pro-preview", (2.0, 12.0, True)),
        (OPENROUTER, "anthropic/claude-haiku-4.5", (1.0, 5.0, False)),
    ],
)
def test_the_list_price_is_that_of_a_short_prompt(
    provider: LLMProviderType, model: str, published: tuple[float, float, bool]
) -> None:
    """Dollars per million tokens of input and output; whether longer prompts are dearer is said, not how much."""
    assert price_per_million(provider, model) == published


def test_a_listed_model_without_a_price_has_none() -> None:
    """The list names free models, whose rows are empty; that is no price of 0 to advertise."""
    assert price_per_million(OPENROUTER, "google/gemma-4-31b-it:free") is None
    assert price(OPENROUTER, "google/gemma-4-31b-it:free", COUNTS).usd == 0


def test_nearly_every_known_model_has_a_price() -> None:
    """Those that have none are sold to few, and are named here so that another one does not go unnoticed."""
    unpriced = {row.model for row in load_manifest().models if price_per_million(row.provider, row.model) is None}

    assert unpriced == {"claude-mythos-5", "claude-mythos-5-1"}
