"""A response is told apart before any JSON of the model is read."""

import json
from typing import Any

import pytest
from google.genai import types

from llm_provider.adapters.pricing import price
from llm_provider.adapters.providers.google_provider import GoogleProvider
from llm_provider.adapters.providers.google_response import read_response
from llm_provider.adapters.providers.replies import Reply
from llm_provider.errors import ProviderError, ProviderOverloaded, ProviderServerError, QuotaExceeded, RateLimited
from llm_provider.internal_models import TokenCounts
from llm_provider.model_manifest import StructuredOutput, load_manifest

SECRET = "zebra-secret-zebra"
UNKNOWN = "for an unknown reason"


def read(**fields: Any) -> Reply:
    return read_response(json.dumps(fields))


def read_candidate(*parts: Any, reason: object = "STOP", **fields: Any) -> Reply:
    return read(candidates=[{"content": {"parts": list(parts)}, "finishReason": reason, **fields}])


def test_the_text_is_that_of_all_parts_but_the_thoughts() -> None:
    """In their order, around calls, images and what is not known yet."""
    parts = [
        {"text": "thought", "thought": True},
        {"text": "one "},
        {"functionCall": {"name": "f"}},
        {"text": "two", "thought": False, "thoughtSignature": "x"},
        {"text": None},
        {"text": 7},
        {"inlineData": {}},
        None,
        "three",
    ]
    reply = read_candidate(*parts)
    assert (reply.text, reply.problem) == ("one two", None)


def test_only_the_first_candidate_counts() -> None:
    """No more than one was asked for."""
    candidates = [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"} for text in ("first", "second")]
    assert read(candidates=candidates).text == "first"


@pytest.mark.parametrize("reason", ["STOP", "FINISH_REASON_UNSPECIFIED", None])
def test_a_text_that_ended_by_itself_is_whole(reason: str | None) -> None:
    """Or of which nothing else is said."""
    assert read_candidate({"text": "{}"}, reason=reason).problem is None


@pytest.mark.parametrize("reason", [reason.value for reason in types.FinishReason])
def test_every_other_reason_is_a_problem_that_is_named(reason: str) -> None:
    """Even with a text that reads like a verdict; all that the SDK knows are known here, too."""
    problem = read_candidate({"text": "{}"}, reason=reason).problem
    assert (problem is None) is (reason in ("STOP", "FINISH_REASON_UNSPECIFIED"))
    assert UNKNOWN not in str(problem)


@pytest.mark.parametrize("reason", [SECRET, "", 7, ["SAFETY"], {"a": 1}, "stop"])
def test_with_an_unknown_reason_the_text_decides(reason: object) -> None:
    """There will be others, and gateways have their own; it could be any text, and is not quoted."""
    assert read_candidate({"text": "{}"}, reason=reason).problem is None
    assert read_candidate({"text": ""}, reason=reason).problem == "google's answer holds no text."


def test_a_reason_is_known_in_any_case() -> None:
    """Some gateways write it small."""
    assert "refused" in str(read_candidate({"text": "{}"}, reason="safety").problem)
    assert "cut off" in str(read_candidate({"text": "{"}, reason="max_tokens").problem)


@pytest.mark.parametrize(
    ("told", "meaning"),
    [
        ({"code": 503, "message": SECRET, "status": "UNAVAILABLE"}, ProviderOverloaded),
        (
            {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}]},
            RateLimited,
        ),
        ({"code": 402}, QuotaExceeded),
        ({"code": SECRET}, ProviderServerError),
        ({}, ProviderServerError),
    ],
)
def test_an_error_in_place_of_an_answer_is_that_error(told: dict[str, object], meaning: type[ProviderError]) -> None:
    """Though it came with the status of a success."""
    failure = read(error=told).failure
    assert type(failure) is meaning
    assert str(failure).startswith("Instead of an answer came an error: ")
    assert SECRET not in str(failure) + repr(vars(failure))
    assert failure is not None
    assert failure.retry_after_seconds == (17 if meaning is RateLimited else None)


def test_an_answer_that_was_cut_off_is_told_from_none_at_all() -> None:
    """What is spent on thinking counts, too."""
    cut, none = (read_candidate({"text": text}, reason="MAX_TOKENS").problem for text in ('{"win', ""))
    assert "cut off" in str(cut)
    assert "thinking" in str(none)


@pytest.mark.parametrize("reason", [r.value for r in types.BlockedReason if not r.value.endswith("UNSPECIFIED")])
@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": None}])
def test_a_blocked_prompt_is_no_refusal_of_the_model(reason: str, candidates: dict[str, Any]) -> None:
    """It never saw it; all reasons that the SDK knows are known here, too."""
    problem = read(promptFeedback={"blockReason": reason}, **candidates).problem
    assert problem == f"google blocked the prompt before the model saw it ({reason})."


@pytest.mark.parametrize("feedback", [{}, [], 7, {"blockReason": SECRET}, {"blockReason": None}])
def test_a_prompt_that_is_blocked_for_an_unknown_reason_quotes_nothing(feedback: object) -> None:
    """It could be any text."""
    assert read(promptFeedback=feedback).problem == f"google blocked the prompt before the model saw it ({UNKNOWN})."


def test_a_rated_prompt_is_not_blocked() -> None:
    """The vendor may say how safe it is along with the answer."""
    candidate = {"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}
    assert read(promptFeedback={"safetyRatings": []}, candidates=[candidate]).problem is None


@pytest.mark.parametrize(
    "candidate",
    [{}, None, 7, [], {"content": None}, {"content": {}}, {"content": {"parts": None}}, {"content": {"parts": {}}}],
)
def test_a_candidate_without_text_is_a_problem(candidate: object) -> None:
    """Of whichever shape."""
    reply = read(candidates=[candidate])
    assert reply.text == ""
    assert reply.problem is not None


@pytest.mark.parametrize(
    "body",
    [
        *(None, "", "null", "[]", "{}", "7", "NaN", '"x"', "<html>", "[" * 200_000, "9" * 10_000),
        *('{"candidates": {}}', '{"candidates": "x"}', '{"__class__": 7, "__dict__": {}}', '{"": {"self": 1}}'),
    ],
)
def test_an_odd_body_is_a_problem(body: object) -> None:
    """Nothing is raised."""
    reply = read_response(body)
    assert reply.text == ""
    assert reply.problem is not None
    assert reply.counts == TokenCounts()


def test_the_counts_are_the_vendor_s() -> None:
    """Cached tokens are among the prompt's; thoughts come on top of the answer's, and a tool's of the prompt's."""
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 7,
        "toolUsePromptTokenCount": 3,
        "totalTokenCount": 999,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
    }
    expected = TokenCounts(prompt=103, completion=27, cache_read=40)
    assert read(usageMetadata=usage).counts == expected
    assert read_candidate({"text": "x"}, reason="SAFETY").counts == TokenCounts()
    assert read(promptFeedback={}, usageMetadata=dict(reversed(usage.items()))).counts == expected
    assert read(usageMetadata={"promptTokenCount": 5, "totalTokenCount": 8}).counts == TokenCounts(
        prompt=5, completion=3
    )


@pytest.mark.parametrize("count", [None, "12", 1.5, True, -1, 10**30, [], {}])
def test_a_count_that_makes_no_sense_is_none(count: object) -> None:
    """It must not cost us the answer."""
    assert read(usageMetadata={"promptTokenCount": count, "thoughtsTokenCount": 5}).counts == TokenCounts(completion=5)


def test_a_reply_does_not_show_its_text() -> None:
    """It may quote an essay."""
    assert SECRET not in repr(read_candidate({"text": SECRET}))


def test_the_default_model_is_known() -> None:
    """To the price list, else every call would cost 0, and to the manifest."""
    cost = price(GoogleProvider.name, GoogleProvider.default_model, TokenCounts(prompt=1000))
    assert cost.usd > 0
    assert cost.note is None
    row = load_manifest().find(GoogleProvider.name, GoogleProvider.default_model)
    assert row is not None
    assert row.structured_output is StructuredOutput.JSON_SCHEMA
