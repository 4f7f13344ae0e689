"""The mock: deterministic, plausible, and as troublesome as it is told to be."""

import time
from collections import Counter
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.adapters.providers.mock import MockProvider
from llm_provider.config import Settings
from llm_provider.errors import ProviderError, ProviderTimeout, RateLimited
from llm_provider.internal_models import ComparisonTexts, ProviderAnswer, ProviderCall
from tests.unit.builders import a_prompt

GOOD = (
    "School uniforms divide opinion. Although some pupils feel that they lose a part of themselves, uniforms make "
    "mornings easier, because nobody has to choose. Furthermore, they hide differences in income; therefore fewer "
    "children are teased. However, a rule without exceptions is unwise, since bodies and beliefs differ."
)
POOR = "Uniforms are bad. I do not like them. My friend does not like them. They are ugly. That is all."


def mock(**settings: Any) -> MockProvider:
    return MockProvider(Settings(**{f"mock_{name}": value for name, value in settings.items()}))


def call(essay_a: str = GOOD, essay_b: str = POOR, user_prompt: str = "Which is better?") -> ProviderCall:
    texts = ComparisonTexts(user_prompt=user_prompt, essay_a=essay_a, essay_b=essay_b)
    return ProviderCall(texts=texts, prompt=a_prompt(texts), model="mock-1")


def ask(provider: MockProvider, *essays: str, **texts: str) -> ProviderAnswer:
    return provider.compare(call(*essays, **texts), timeout_seconds=5)


def failures(provider: MockProvider, number: int = 1000) -> list[type[ProviderError] | None]:
    """What becomes of each of so many different requests."""
    outcomes: list[type[ProviderError] | None] = []
    for request in range(number):
        try:
            ask(provider, user_prompt=f"id={request}")
            outcomes.append(None)
        except ProviderError as error:
            outcomes.append(type(error))
    return outcomes


def test_it_says_who_it_is() -> None:
    """The name on the wire, and the model of requests that name none."""
    assert mock().name is LLMProviderType.MOCK
    assert mock().default_model == "mock-1"


def test_the_same_essays_and_seed_give_the_same_verdict() -> None:
    """In another instance, and whatever the question is."""
    assert ask(mock(seed=3)) == ask(mock(seed=3))
    assert ask(mock(seed=3)).verdict == ask(mock(seed=3), user_prompt="Another question").verdict


def test_a_longer_and_better_connected_essay_wins_on_either_side() -> None:
    """The verdict follows the essay, not its place."""
    assert ask(mock(), GOOD, POOR).verdict.winner is EssayWinner.ESSAY_A
    assert ask(mock(), POOR, GOOD).verdict.winner is EssayWinner.ESSAY_B


def test_confidence_grows_with_the_difference() -> None:
    """From a whole essay against two words down to an essay against itself."""
    sure = ask(mock(), GOOD, "Bad essay.").verdict.confidence
    less = ask(mock(), GOOD, POOR).verdict.confidence
    close = ask(mock(), GOOD, f"{GOOD} Really.").verdict.confidence
    same = ask(mock(), GOOD, GOOD).verdict.confidence
    assert 1 >= sure > less > close > same >= 0


def test_two_equal_essays_do_not_always_make_the_same_one_win() -> None:
    """A tie is decided by the seed, not by the place."""
    winners = {ask(mock(seed=seed), GOOD, GOOD).verdict.winner for seed in range(20)}
    assert winners == set(EssayWinner)


def test_the_justification_quotes_neither_essay() -> None:
    """No run of three words of an essay appears in it."""
    justification = ask(mock(), GOOD, POOR).verdict.justification
    for essay in (GOOD, POOR):
        words = essay.split()
        runs = (" ".join(words[at : at + 3]) for at in range(len(words) - 2))
        assert not any(run in justification for run in runs)


@pytest.mark.parametrize("essays", [("", ""), ("", GOOD), ("word " * 50_000, GOOD), ("\x00", "🦓 " * 10)])
def test_any_two_texts_get_a_verdict(essays: tuple[str, str]) -> None:
    """Empty, endless and strange ones, too."""
    assert ask(mock(), *essays).verdict.justification


def test_tokens_are_estimated_from_what_is_sent_and_answered() -> None:
    """Twice the essay is more tokens; nothing is charged."""
    short, long = ask(mock(), POOR, POOR), ask(mock(), POOR * 2, POOR)
    assert long.token_usage.prompt_tokens - short.token_usage.prompt_tokens == pytest.approx(len(POOR) / 4, abs=1)
    used = short.token_usage
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert used.completion_tokens > 0
    assert short.cost_usd == 0.0


def test_an_error_rate_of_zero_never_fails_and_of_one_always() -> None:
    """A test can rely on both ends."""
    assert set(failures(mock(error_rate=0), 200)) == {None}
    assert None not in failures(mock(error_rate=1), 200)


def test_the_error_rate_holds_over_different_requests() -> None:
    """Of a thousand, about as many fail as were asked for, with each of the errors that were asked for."""
    codes = (ErrorCode.RATE_LIMIT, ErrorCode.TIMEOUT)
    outcomes = Counter(failures(mock(error_rate=0.2, error_codes=codes)))
    failed = 1000 - outcomes[None]
    assert 150 < failed < 250
    assert set(outcomes) == {None, RateLimited, ProviderTimeout}
    assert min(outcomes[RateLimited], outcomes[ProviderTimeout]) > failed / 4


def test_which_requests_fail_is_the_same_for_a_seed_and_differs_between_seeds() -> None:
    """A run can be repeated."""
    assert failures(mock(error_rate=0.3, seed=1), 200) == failures(mock(error_rate=0.3, seed=1), 200)
    assert failures(mock(error_rate=0.3, seed=1), 200) != failures(mock(error_rate=0.3, seed=2), 200)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.AUTHENTICATION_ERROR,
        ErrorCode.CONNECTION_ERROR,
        ErrorCode.EXTERNAL_SERVICE_ERROR,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_RESPONSE,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.RATE_LIMIT,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.TIMEOUT,
    ],
)
def test_an_error_code_is_raised_as_the_error_that_carries_it(code: ErrorCode) -> None:
    """Every code that a provider's error has can be asked for."""
    with pytest.raises(ProviderError) as raised:
        ask(mock(error_rate=1, error_codes=(code,)))
    assert raised.value.error_code is code


def test_an_answer_takes_as_long_as_it_is_told_to() -> None:
    """Milliseconds, as the setting says."""
    begin = time.monotonic()
    ask(mock(latency_ms=60))
    assert 0.06 <= time.monotonic() - begin < 0.5


def test_switched_off_it_is_not_configured() -> None:
    """And else it is."""
    assert mock().is_configured()
    assert not mock(enabled=False).is_configured()
