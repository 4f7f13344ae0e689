"""A completion is read without trust."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.providers.openai_completion import read_completion
from llm_provider.adapters.providers.replies import to_answer
from llm_provider.errors import InvalidAnswer, ProviderServerError, RateLimited
from llm_provider.internal_models import ProviderAnswer

OPENAI = LLMProviderType.OPENAI
MODEL = "gpt-5.4-mini"
VERDICT = json.dumps({"winner": "Essay A", "justification": "It is clearer.", "confidence": 2})
USAGE = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}


def completion(message: dict[str, Any] | None = None, finish_reason: object = "stop", **fields: Any) -> object:
    """An object like the SDK's, which takes every shape that the vendor's JSON has."""
    choice = SimpleNamespace(
        message=SimpleNamespace(**{"content": VERDICT, "refusal": None, **(message or {})}),
        finish_reason=finish_reason,
    )
    return SimpleNamespace(**{"choices": [choice], "usage": SimpleNamespace(**USAGE), **fields})


def answer_to(completion: object) -> ProviderAnswer:
    return to_answer(read_completion(OPENAI, completion), provider=OPENAI, model=MODEL)


def test_a_good_completion_is_read() -> None:
    """Verdict, tokens and cost."""
    answer = answer_to(completion())
    assert answer.verdict.winner is EssayWinner.ESSAY_A
    assert answer.token_usage == TokenUsage(**USAGE)
    assert answer.cost_usd > 0


@pytest.mark.parametrize("finish_reason", [None, "stop", "tool_calls", "unheard-of", 7])
def test_a_whole_answer_counts_whatever_its_end_is_called(finish_reason: object) -> None:
    """Compatible servers invent names, or give none."""
    assert answer_to(completion(finish_reason=finish_reason)).verdict.confidence == 0.25


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"finish_reason": "length"}, "cut off"),
        ({"finish_reason": "content_filter"}, "content filter"),
        ({"message": {"refusal": "I can't."}}, "refused"),
        ({"message": {"refusal": "I can't.", "content": None}}, "refused"),
        ({"message": {"refusal": "I can't."}, "finish_reason": "length"}, "refused"),
    ],
)
def test_a_refusal_or_a_truncation_is_seen_before_its_json(changes: dict[str, Any], says: str) -> None:
    """Even when what is there happens to be a whole verdict."""
    with pytest.raises(InvalidAnswer, match=says):
        answer_to(completion(**changes))


def test_an_answer_that_is_no_verdict_is_billed_all_the_same() -> None:
    """The vendor counted it; whoever pays wants to see it."""
    good = answer_to(completion())
    with pytest.raises(InvalidAnswer) as refused:
        answer_to(completion({"content": '{"winner": "Essay C"}'}))
    assert (refused.value.token_usage, refused.value.cost_usd) == (good.token_usage, good.cost_usd)


@pytest.mark.parametrize("parts", [[VERDICT], [VERDICT[:9], VERDICT[9:]]])
def test_a_text_may_come_in_parts(parts: list[str]) -> None:
    """Some servers send lists, with parts of other types among them."""
    thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    content = [thoughts, *({"type": "text", "text": part} for part in parts), {"type": "new", "text": "!"}]
    assert answer_to(completion({"content": content})).verdict.winner is EssayWinner.ESSAY_A


@pytest.mark.parametrize(
    "content",
    [None, "", 7, [], [7, {}, {"type": "text", "text": 7}], [{"type": "new", "text": VERDICT}], {}, "Only A."],
)
def test_content_that_is_no_verdict_is_refused(content: object) -> None:
    """Numbers, prose and parts of another type are no answer to our schema."""
    with pytest.raises(InvalidAnswer):
        answer_to(completion({"content": content}))


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
        answer_to(odd)


@pytest.mark.parametrize("usage", [None, {}, "many", SimpleNamespace(prompt_tokens=None, completion_tokens="7")])
def test_without_counts_the_tokens_are_zero(usage: object) -> None:
    """A verdict is not lost because its tokens were not counted."""
    answer = answer_to(completion(usage=usage))
    assert answer.token_usage == TokenUsage()
    assert answer.cost_usd == 0.0


@pytest.mark.parametrize(("total", "written"), [(1900, 900), (1200, 200), (None, 200), (5000, 200)])
def test_thoughts_that_are_counted_beside_the_answer_are_billed(total: int | None, written: int) -> None:
    """As some servers do, which the total tells; as a part of the answer's, with the others."""
    details = SimpleNamespace(reasoning_tokens=700)
    usage = SimpleNamespace(
        prompt_tokens=1000, completion_tokens=200, total_tokens=total, completion_tokens_details=details
    )
    assert answer_to(completion(usage=usage)).token_usage.completion_tokens == written


def test_the_total_is_what_the_parts_add_up_to() -> None:
    """Whatever the server says about it; impossible counts are none."""
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=-3, total_tokens=99)
    counted = answer_to(completion(usage=usage)).token_usage
    assert counted == TokenUsage(prompt_tokens=10, completion_tokens=0, total_tokens=10)
    huge = SimpleNamespace(prompt_tokens=10**400, completion_tokens=True)
    assert answer_to(completion(usage=huge)).token_usage == TokenUsage()


def test_an_error_in_place_of_an_answer_is_told_with_its_bill() -> None:
    """Wherever it stands; an empty one is none."""
    with pytest.raises(RateLimited) as limited:
        answer_to(completion(error={"code": 429, "message": "Slow down."}))
    assert limited.value.token_usage == TokenUsage(**USAGE)
    with pytest.raises(ProviderServerError):
        answer_to(completion(finish_reason="error"))
    assert answer_to(completion(error={})) == answer_to(completion(error=None)) == answer_to(completion())


def test_cached_tokens_and_the_service_tier_lower_the_cost() -> None:
    """The vendor says both in the completion."""
    full = answer_to(completion(service_tier="default")).cost_usd
    cached = SimpleNamespace(**USAGE, prompt_tokens_details=SimpleNamespace(cached_tokens=900))
    assert answer_to(completion(usage=cached)).cost_usd < full
    written = SimpleNamespace(**USAGE, prompt_tokens_details=SimpleNamespace(cache_write_tokens=900))
    assert read_completion(OPENAI, completion(usage=written)).counts.cache_written == 900
    assert answer_to(completion(service_tier="flex")).cost_usd < full
