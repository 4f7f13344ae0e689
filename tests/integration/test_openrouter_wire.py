"""The openrouter provider with the real OpenAI SDK, over HTTP: what differs from openai.

What is the same for all vendors, deadlines and broken connections, is in test_wire.py.
"""

import json
import logging
import traceback
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.pricing import UNKNOWN_PRICE, price
from llm_provider.adapters.providers.openrouter_provider import OpenRouterProvider
from llm_provider.config import Settings
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    NoVerdict,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import TokenCounts
from llm_provider.model_manifest import ModelManifest, ModelRow, StructuredOutput
from llm_provider.retries import RetrySchedule
from llm_provider.verdicts import VERDICT_SCHEMA
from tests.integration.openai_server import completion
from tests.integration.openrouter_server import COST_USD, OpenRouterServer
from tests.integration.vendor_server import VERDICT
from tests.integration.wire import KEY, SECRET, TEXTS, a_call, ask, failure_of
from tests.integration.wire import OPENROUTER as OPENROUTER_WIRE
from tests.unit.builders import a_prompt

OPENROUTER = LLMProviderType.OPENROUTER
MODEL = OpenRouterProvider.default_model
MANIFEST = ModelManifest(
    as_of=date(2026, 11, 1),
    models=(
        ModelRow(
            provider=OPENROUTER,
            model="a-host/thinker",
            context_tokens=100_000,
            max_output_tokens=1000,
            structured_output=StructuredOutput.PROMPT,
            accepts_sampling=False,
            reasoning_efforts=("low",),
        ),
    ),
)


running, server, provider = OPENROUTER_WIRE.fixtures()
asking = OPENROUTER_WIRE.asking


def completed(**changes: Any) -> dict[str, Any]:
    """A good completion as plain JSON, with other top fields."""
    return {**completion({"model": MODEL, "messages": [{"content": SECRET * 20}]}), **changes}


# What is sent


def test_the_request_is_a_chat_completion_for_hosts_that_know_our_schema(
    server: OpenRouterServer, provider: OpenRouterProvider
) -> None:
    """Exactly these fields: a host that does not know one of them would not be asked."""
    ask(provider)
    (request,) = server.requests
    system, user = request.json()["messages"]
    assert (request.method, request.path) == ("POST", "/api/v1/chat/completions")
    assert (system["role"], user) == ("system", {"role": "user", "content": a_prompt(TEXTS).user})
    assert request.json() == {
        "model": MODEL,
        "messages": [system, user],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
        },
        "provider": {"require_parameters": True},
    }


def test_the_key_goes_out_as_a_bearer_token(
    server: OpenRouterServer, provider: OpenRouterProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the settings name, and nowhere else; the SDK's own retries are off."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-other")
    ask(provider)
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert [name for name, value in headers.items() if KEY in value] == ["authorization"]
    assert headers["x-stainless-retry-count"] == "0"
    assert "openai-organization" not in headers


def test_what_is_asked_for_is_sent_in_the_vendor_s_words(server: OpenRouterServer) -> None:
    """The limit under the name that every host knows, the effort in an object of its own; 0 is a value."""
    with asking(server.base_url, reasoning_effort="low") as provider:
        ask(provider, call=a_call("any/new-model", temperature=0.0, max_tokens=300))
    sent = server.requests[0].json()
    assert sent["model"] == "any/new-model"
    assert (sent["temperature"], sent["max_tokens"], sent["reasoning"]) == (0.0, 300, {"effort": "low"})
    assert not {"max_completion_tokens", "reasoning_effort", "usage"} & sent.keys()


def test_what_a_model_refuses_is_left_out_and_noted(server: OpenRouterServer) -> None:
    """As its row in the manifest says, the schema among it."""
    with asking(server.base_url, manifest=MANIFEST, reasoning_effort="high") as provider:
        answer = ask(provider, call=a_call("a-host/thinker", temperature=0.5, max_tokens=5000))
    assert server.requests[0].json().keys() == {"model", "messages", "provider"}
    assert answer.notes["dropped_parameters"] == ["temperature", "max_tokens", "reasoning_effort"]


def test_without_settings_it_knows_where_to_ask_whom() -> None:
    """The vendor's address, and a model with a price."""
    assert OpenRouterProvider.default_base_url == "https://openrouter.ai/api/v1"
    assert OpenRouterProvider(Settings()).default_model == MODEL
    assert not OpenRouterProvider(Settings()).is_configured()
    assert price(OPENROUTER, MODEL, TokenCounts(prompt=1000, completion=100)).usd > 0


# What comes back


def test_a_good_answer_costs_what_the_vendor_says(provider: OpenRouterProvider) -> None:
    """Whatever the price list says; its reasoning is not taken for the answer."""
    answer = ask(provider)
    assert answer.verdict.winner is EssayWinner.ESSAY_B
    assert answer.verdict.justification == VERDICT["justification"]
    assert answer.verdict.confidence == 0.75
    assert answer.cost_usd == COST_USD
    assert answer.notes == {}
    assert ask(provider, call=a_call("unheard-of/model")).cost_usd == COST_USD


@pytest.mark.parametrize(
    ("said", "cost"),
    [
        ({"cost": 0}, 0.0),
        ({"cost": 0.5}, 0.5),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 0.21),
        ({"cost": 0.01, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 0.01),
    ],
)
def test_a_key_of_one_s_own_is_billed_by_the_host_as_well(
    server: OpenRouterServer, provider: OpenRouterProvider, said: dict[str, Any], cost: float
) -> None:
    """Then what OpenRouter charged is only its fee."""
    server.behave(body=json.dumps(completed(usage={"prompt_tokens": 10, "completion_tokens": 5, **said})))
    assert ask(provider).cost_usd == pytest.approx(cost)


NO_COSTS: tuple[object, ...] = (None, "1", True, -1, 10**400, float("nan"), [])


@pytest.mark.parametrize("said", [{}, *({"cost": cost} for cost in NO_COSTS), {"cost": 0, "is_byok": True}])
def test_a_cost_that_makes_no_sense_is_looked_up(
    server: OpenRouterServer, provider: OpenRouterProvider, said: dict[str, Any]
) -> None:
    """In the price list, by the tokens."""
    server.behave(body=json.dumps(completed(usage={"prompt_tokens": 1000, "completion_tokens": 50, **said})))
    assert ask(provider).cost_usd == price(OPENROUTER, MODEL, TokenCounts(prompt=1000, completion=50)).usd > 0
    assert ask(provider, call=a_call("unheard-of/model")).notes == {"cost_note": UNKNOWN_PRICE}


def test_an_answer_is_read_whatever_its_order_and_its_extras(
    server: OpenRouterServer, provider: OpenRouterProvider
) -> None:
    """Reversed fields, unknown ones, reasoning in every place where hosts put it, cached tokens."""
    message = {
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "e30="}, {"type": "new"}],
        "reasoning": '{"winner": "Essay A"}',
        "reasoning_content": "Hm.",
        "refusal": None,
        "content": "\n" + json.dumps(dict(reversed(VERDICT.items()))),
        "role": "assistant",
        "images": [],
    }
    usage = {
        "completion_tokens_details": {"reasoning_tokens": 40, "new": None},
        "prompt_tokens_details": {"cached_tokens": 900, "cache_write_tokens": 50},
        "cost": 0.002,
        "completion_tokens": 70,
        "prompt_tokens": 1000,
    }
    choice = {"native_finish_reason": "end_turn", "message": message, "finish_reason": "stop", "error": None}
    body: dict[str, Any] = {"usage": usage, "error": None, "choices": [choice], "openrouter_metadata": {"new": []}}
    server.behave(body=json.dumps(body))
    answer = ask(provider)
    assert answer.verdict.winner is EssayWinner.ESSAY_B
    assert answer.token_usage.model_dump() == {"prompt_tokens": 1000, "completion_tokens": 70, "total_tokens": 1070}
    assert answer.cost_usd == 0.002


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("refusal", "refused"),
        ("content_filter", "content filter of openrouter"),
        ("truncated", "limit of tokens"),
        ("invalid_json", "openrouter answered"),
    ],
)
def test_an_answer_that_is_no_verdict_is_invalid(
    server: OpenRouterServer, provider: OpenRouterProvider, mode: str, says: str
) -> None:
    """Each kind says so in its own words, was one call, and was billed if it was counted."""
    server.behave(mode=mode)
    failure = failure_of(provider)
    assert type(failure) is (InvalidAnswer if mode == "invalid_json" else NoVerdict)
    assert says in failure.message
    assert failure.cost_usd == (0.0 if mode == "invalid_json" else COST_USD)
    assert server.total == 1


def test_a_model_that_only_thought_is_invalid(server: OpenRouterServer, provider: OpenRouterProvider) -> None:
    """Its reasoning is no answer, even when a verdict stands there."""
    message = {"role": "assistant", "content": None, "reasoning": json.dumps(VERDICT)}
    server.behave(body=json.dumps(completed(choices=[{"message": message, "finish_reason": "stop"}])))
    failure = failure_of(provider)
    assert type(failure) is NoVerdict
    assert failure.message == "openrouter's answer holds no text."


# Errors


@pytest.mark.parametrize("status", [402, 429, 503])
def test_what_the_vendor_says_about_waiting_is_kept(
    server: OpenRouterServer, provider: OpenRouterProvider, status: int
) -> None:
    """In seconds, as a date, or in the body."""
    server.behave(status=status, headers={"Retry-After": "17"})
    assert failure_of(provider).retry_after_seconds == 17.0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.behave(status=status, headers={"Retry-After": later})
    wait = failure_of(provider).retry_after_seconds
    assert wait is not None
    assert 80 < wait <= 90
    told = {"code": status, "message": SECRET, "availability": {"retryable": True, "retry_after": 30}}
    server.behave(status=status, body=json.dumps({"error": told}))
    assert failure_of(provider).retry_after_seconds == 30.0


@pytest.mark.parametrize(
    ("status", "metadata", "meaning"),
    [
        (402, {"limit_source": "openrouter_credits", "reason": "weight_exceeds_budget"}, QuotaExceeded),
        (402, {"limit_source": "openrouter_in_flight_budget"}, RateLimited),
        (403, {"limit_source": "openrouter_key_limit", "limit_usd": 5}, QuotaExceeded),
        (403, {"reasons": ["violence"], "flagged_input": SECRET}, CallRefused),
        (403, {"patterns": ["ignore all previous instructions"]}, CallRefused),
        (400, {"error_type": "content_policy_violation"}, CallRefused),
        (429, {"error_type": "rate_limit_exceeded", "provider_code": ["odd"]}, RateLimited),
        (429, ["odd"], RateLimited),
    ],
)
def test_a_status_that_means_two_things_is_told_apart(
    server: OpenRouterServer,
    provider: OpenRouterProvider,
    status: int,
    metadata: object,
    meaning: type[ProviderError],
) -> None:
    """An empty account from calls that are not settled yet, a bad key from an essay that was objected to."""
    told = {"message": SECRET, "metadata": metadata, "code": status}
    server.behave(status=status, body=json.dumps({"user_id": "user", "error": told}))
    assert type(failure_of(provider)) is meaning


CODES: list[tuple[object, type[ProviderError]]] = [
    (400, CallRefused),
    (401, AuthenticationFailed),
    (402, QuotaExceeded),
    (408, ProviderTimeout),
    (524, ProviderTimeout),
    (429, RateLimited),
    ("429", RateLimited),
    (502, ProviderServerError),
    (503, ProviderOverloaded),
    (200, ProviderServerError),
    ("server_error", ProviderServerError),
    (10**400, ProviderServerError),
    ([], ProviderServerError),
    (None, ProviderServerError),
]


@pytest.mark.parametrize(("code", "meaning"), CODES)
def test_an_error_with_status_200_means_what_its_code_says(
    server: OpenRouterServer, provider: OpenRouterProvider, code: object, meaning: type[ProviderError]
) -> None:
    """In place of the completion, at its top, or in the choice that the model had begun."""
    told = {"message": SECRET, "code": code}
    begun = {"message": {"role": "assistant", "content": json.dumps(VERDICT)}, "finish_reason": "error"}
    for body in (
        {"error": told, "user_id": "user"},
        {"error": told, **completed(choices=[begun])},
        completed(choices=[{**begun, "error": told}]),
    ):
        server.behave(body=json.dumps(body))
        failure = failure_of(provider)
        assert type(failure) is meaning
        assert failure.message.startswith("Instead of an answer came an error: ")
        assert str(failure) == failure.message
    assert server.total == 3


def test_an_answer_that_ends_with_an_error_is_none(server: OpenRouterServer, provider: OpenRouterProvider) -> None:
    """Without a word about it, and though a whole verdict came; what was charged for it is told."""
    begun = {"message": {"role": "assistant", "content": json.dumps(VERDICT)}, "finish_reason": "error"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 20, "cost": 0.003}
    server.behave(body=json.dumps(completed(choices=[begun], usage=usage)))
    failure = failure_of(provider)
    assert type(failure) is ProviderServerError
    assert (failure.token_usage.total_tokens, failure.cost_usd) == (1020, 0.003)


def test_what_was_charged_without_a_count_is_on_the_bill(
    server: OpenRouterServer, provider: OpenRouterProvider
) -> None:
    """So that the call is not taken for free, and made again."""
    begun = {"message": {"role": "assistant", "content": "{"}, "finish_reason": "error"}
    server.behave(body=json.dumps(completed(choices=[begun], usage={"cost": 0.01})))
    failure = failure_of(provider)
    assert (failure.is_retryable, failure.token_usage.total_tokens, failure.cost_usd) == (True, 0, 0.01)
    assert RetrySchedule(waits=(1.0,)).wait_after(failure, failures=1) is None
    assert failure.notes == {}


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '"text"', '{"error": null}', '{"choices": [{}]}'])
def test_an_odd_200_is_invalid(server: OpenRouterServer, provider: OpenRouterProvider, body: str) -> None:
    """Neither an answer nor an error."""
    server.behave(body=body)
    assert type(failure_of(provider)) is InvalidAnswer


def test_no_failure_tells_a_secret(
    server: OpenRouterServer, provider: OpenRouterProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The vendor's message quotes the prompt; neither the error, nor its chain, nor any log at DEBUG has it."""
    caplog.set_level(logging.DEBUG)
    told = {"code": 403, "message": SECRET, "metadata": {"flagged_input": SECRET, "reasons": [SECRET]}}
    bodies: list[dict[str, Any]] = [
        {"status": 403, "body": json.dumps({"error": told})},
        {"body": json.dumps({"error": told})},
        {"body": json.dumps(completed(choices=[{"finish_reason": "error", "error": told}]))},
        {"mode": "429"},
    ]
    for behaviour in bodies:
        server.behave(**behaviour)
        failure = failure_of(provider)
        assert failure.__cause__ is None
        assert failure.__context__ is None
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure)) + caplog.text
        assert SECRET not in shown
        assert KEY not in shown


@pytest.mark.parametrize(
    ("mode", "meaning"), [("cut", AnswerLost), ("close", AnswerLost), ("trickle", ProviderTimeout)]
)
def test_an_answer_that_never_ends_is_one_call(
    server: OpenRouterServer, provider: OpenRouterProvider, mode: str, meaning: type[ProviderError]
) -> None:
    """As with openai, by the same transport."""
    server.behave(mode=mode)
    assert type(failure_of(provider, 0.4)) is meaning
    assert server.total == 1
