"""A completion is read without trust."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.enums import EssayWinner
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.providers.openai_completion import read_completion
from llm_provider.config import Settings
from llm_provider.errors import InvalidAnswer

MODEL = Settings().openai_default_model
VERDICT = json.dumps({"winner": "Essay A", "justification": "It is clearer.", "confidence": 2})
USAGE = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}


def completion(message: dict[str, Any] | None = None, finish_reason: object = "stop", **fields: Any) -> object:
    """An object like the SDK's, which takes every shape that the vendor's JSON has."""
    choice = SimpleNamespace(
        message=SimpleNamespace(**{"content": VERDICT, "refusal": None, **(message or {})}),
        finish_reason=finish_reason,
    )
    return SimpleNamespace(**{"choices": [choice], "usage": SimpleNamespace(**USAGE), **fields})


def test_a_good_completion_is_read() -> None:
    """Verdict, tokens and cost."""
    answer = read_completion(completion(), model=MODEL)
    assert answer.verdict.winner is EssayWinner.ESSAY_A
    assert answer.token_usage == TokenUsage(**USAGE)
    assert answer.cost_usd > 0


@pytest.mark.parametrize("finish_reason", [None, "stop", "tool_calls", "unheard-of", 7])
def test_a_whole_answer_counts_whatever_its_end_is_called(finish_reason: object) -> None:
    """Compatible servers invent names, or give none."""
    assert read_completion(completion(finish_reason=finish_reason), model=MODEL).verdict.confidence == 0.25


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"finish_reason": "length"}, "cut off"),
        ({"finish_reason": "content_filter"}, "refused"),
        ({"message": {"refusal": "I can't."}}, "refused"),
        ({"message": {"refusal": "I can't.", "content": None}}, "refused"),
        ({"message": {"refusal": "I can't."}, "finish_reason": "length"}, "refused"),
    ],
)
def test_a_refusal_or_a_truncation_is_seen_before_its_json(changes: dict[str, Any], says: str) -> None:
    """Even when what is there happens to be a whole verdict."""
    with pytest.raises(InvalidAnswer, match=says):
        read_completion(completion(**changes), model=MODEL)


def test_an_answer_that_is_no_verdict_is_billed_all_the_same() -> None:
    """The vendor counted it; whoever pays wants to see it."""
    good = read_completion(completion(), model=MODEL)
    with pytest.raises(InvalidAnswer) as refused:
        read_completion(completion({"content": '{"winner": "Essay C"}'}), model=MODEL)
    assert (refused.value.token_usage, refused.value.cost_usd) == (good.token_usage, good.cost_usd)


@pytest.mark.parametrize("content", [None, "", 7, [], [{"type": "text", "text": VERDICT}], {}, "I choose A."])
def test_content_that_is_no_verdict_is_refused(content: object) -> None:
    """Parts, numbers and prose are no answer to our schema."""
    with pytest.raises(InvalidAnswer):
        read_completion(completion({"content": content}), model=MODEL)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "<html>",
        "",
        [],
        [1],
        {},
        0,
        SimpleNamespace(),
        SimpleNamespace(choices=None),
        SimpleNamespace(choices=[]),
        SimpleNamespace(choices="x"),
        SimpleNamespace(choices=[None]),
        SimpleNamespace(choices=[{}]),
        SimpleNamespace(choices={}),
    ],
)
def test_a_200_of_any_other_shape_is_refused(odd: object) -> None:
    """The SDK hands on a str, None, a list or an empty object without a word."""
    with pytest.raises(InvalidAnswer):
        read_completion(odd, model=MODEL)


@pytest.mark.parametrize("usage", [None, {}, "many", SimpleNamespace(prompt_tokens=None, completion_tokens="7")])
def test_without_counts_the_tokens_are_zero(usage: object) -> None:
    """A verdict is not lost because its tokens were not counted."""
    answer = read_completion(completion(usage=usage), model=MODEL)
    assert answer.token_usage == TokenUsage()
    assert answer.cost_usd == 0.0


def test_the_total_is_what_the_parts_add_up_to() -> None:
    """Whatever the server says about it; impossible counts are none."""
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=-3, total_tokens=99)
    counted = read_completion(completion(usage=usage), model=MODEL).token_usage
    assert counted == TokenUsage(prompt_tokens=10, completion_tokens=0, total_tokens=10)
    huge = SimpleNamespace(prompt_tokens=10**400, completion_tokens=True)
    assert read_completion(completion(usage=huge), model=MODEL).token_usage == TokenUsage()


def test_cached_tokens_and_the_service_tier_lower_the_cost() -> None:
    """The vendor says both in the completion."""
    full = read_completion(completion(service_tier="default"), model=MODEL).cost_usd
    cached = SimpleNamespace(**USAGE, prompt_tokens_details=SimpleNamespace(cached_tokens=900))
    assert read_completion(completion(usage=cached), model=MODEL).cost_usd < full
    assert read_completion(completion(service_tier="flex"), model=MODEL).cost_usd < full
