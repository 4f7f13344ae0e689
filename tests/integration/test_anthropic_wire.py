"""The anthropic provider with the real SDK, over HTTP, against a server that makes every kind of trouble."""

import json
import logging
import pickle
import traceback
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.pricing import NOTHING_COUNTED, price
from llm_provider.adapters.providers.anthropic_provider import DEFAULT_MAX_TOKENS, AnthropicProvider
from llm_provider.config import Settings
from llm_provider.errors import (
    CallRefused,
    CallUnsendable,
    InvalidAnswer,
    InvalidVerdict,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import TokenCounts
from llm_provider.model_manifest import ModelManifest, ModelRow, StructuredOutput, load_manifest
from llm_provider.verdicts import VERDICT_SCHEMA
from tests.integration.anthropic_server import AnthropicServer
from tests.integration.vendor_server import VERDICT
from tests.integration.wire import (
    ANTHROPIC,
    KEY,
    SECRET,
    TEXTS,
    a_call,
    ask,
    failure_of,
)
from tests.unit.builders import a_prompt

MODEL = "claude-haiku-4-5"
NATIVE = {"format": {"type": "json_schema", "schema": VERDICT_SCHEMA}}
THINKING = [
    {"type": "thinking", "thinking": "Cats or dogs?", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
]


def row(model: str, **fields: Any) -> ModelRow:
    """A row of a model that thinks and takes no temperature, except where `fields` say otherwise."""
    usual = {
        "provider": LLMProviderType.ANTHROPIC,
        "model": model,
        "context_tokens": 200_000,
        "max_output_tokens": 64_000,
        "structured_output": StructuredOutput.JSON_SCHEMA,
        "accepts_sampling": False,
        "reasoning_efforts": ("low", "high"),
    }
    return ModelRow.model_validate({**usual, **fields})


# MODEL is unknown to it.
MANIFEST = ModelManifest(
    as_of=date(2026, 11, 22),
    models=(
        row("claude-that-thinks"),
        row("claude-of-old", accepts_sampling=True, max_output_tokens=4_096, reasoning_efforts=()),
        row("claude-with-tools", structured_output=StructuredOutput.FORCED_TOOL),
        row("claude-without", structured_output=StructuredOutput.PROMPT),
    ),
)


WIRE = replace(ANTHROPIC, manifest=MANIFEST)
running, server, provider = WIRE.fixtures()
asking = WIRE.asking


def text(content: object) -> dict[str, object]:
    return {"type": "text", "text": content}


# What is sent


def test_the_request_is_a_message_with_our_schema(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """Exactly these fields, and nothing that a model may refuse."""
    ask(provider)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.json() == {
        "model": MODEL,
        "max_tokens": DEFAULT_MAX_TOKENS,
        "system": a_prompt(TEXTS).system,
        "messages": [{"role": "user", "content": a_prompt(TEXTS).user}],
        "output_config": NATIVE,
    }


def test_the_key_goes_out_as_a_bearer_token(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """And nowhere else; the server is told how long we wait, and that it is asked for the first time."""
    ask(provider, 5.0)
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert [name for name, value in headers.items() if KEY in value] == ["authorization"]
    assert headers["anthropic-version"] == "2026-10-21"
    assert headers["x-stainless-retry-count"] == "0"
    assert headers["x-stainless-timeout"] == "5.0"


def test_what_the_caller_overrides_is_sent(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """A model, a limit of tokens and a system prompt."""
    texts = TEXTS.model_copy(update={"system_prompt": "Be strict."})
    ask(provider, call=a_call("another", texts, max_tokens=300))
    sent = server.requests[0].json()
    assert (sent["model"], sent["max_tokens"], sent["system"]) == ("another", 300, a_prompt(texts).system)


def test_an_empty_system_prompt_is_none(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """The vendor takes no empty block of text."""
    ask(provider, call=a_call(MODEL, TEXTS.model_copy(update={"system_prompt": ""})))
    assert "system" not in server.requests[0].json()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_temperature_needs_the_older_version_of_the_api(
    server: AnthropicServer, provider: AnthropicProvider, temperature: float
) -> None:
    """A model of before takes it there; 0 is a value."""
    answer = ask(provider, call=a_call("claude-of-old", temperature=temperature))
    (request,) = server.requests
    assert request.json()["temperature"] == temperature
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "dropped_parameters" not in answer.notes


@pytest.mark.parametrize(
    ("model", "temperature"), [("claude-that-thinks", 0.2), ("claude-nobody-knows", 0.0), ("claude-of-old", 1.1)]
)
def test_a_temperature_that_would_be_refused_is_left_out(
    server: AnthropicServer, provider: AnthropicProvider, model: str, temperature: float
) -> None:
    """By a model that thinks, by one that nobody knows, and by any above this vendor's scale; the caller is told."""
    answer = ask(provider, call=a_call(model, temperature=temperature))
    (request,) = server.requests
    assert "temperature" not in request.json()
    assert request.headers["anthropic-version"] == "2026-10-21"
    assert answer.notes["dropped_parameters"] == ["temperature"]


def test_no_more_tokens_are_asked_for_than_the_model_writes(
    server: AnthropicServer, provider: AnthropicProvider
) -> None:
    """Neither by default nor by the caller, who is told."""
    ask(provider, call=a_call("claude-of-old"))
    answer = ask(provider, call=a_call("claude-of-old", max_tokens=5_000))
    assert [request.json()["max_tokens"] for request in server.requests] == [4_096, 4_096]
    assert answer.notes["dropped_parameters"] == ["max_tokens"]


def test_a_tool_is_forced_on_a_model_that_needs_it(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """Its arguments are the answer."""
    assert ask(provider, call=a_call("claude-with-tools")).verdict.winner is EssayWinner.ESSAY_B
    sent = server.requests[0].json()
    (tool,) = sent["tools"]
    assert (tool["name"], tool["input_schema"], tool["strict"]) == ("verdict", VERDICT_SCHEMA, True)
    assert sent["tool_choice"] == {"type": "tool", "name": "verdict", "disable_parallel_tool_use": True}
    assert "output_config" not in sent


def test_a_model_without_structured_output_is_asked_in_words(
    server: AnthropicServer, provider: AnthropicProvider
) -> None:
    """The system prompt says what JSON it wants."""
    assert ask(provider, call=a_call("claude-without")).verdict.winner is EssayWinner.ESSAY_B
    assert server.requests[0].json().keys() == {"model", "max_tokens", "system", "messages"}


@pytest.mark.parametrize(
    ("model", "sent", "dropped"),
    [
        ("claude-that-thinks", {**NATIVE, "effort": "low"}, None),
        ("claude-nobody-knows", {**NATIVE, "effort": "low"}, None),
        ("claude-with-tools", {"effort": "low"}, None),
        ("claude-of-old", NATIVE, ["reasoning_effort"]),
    ],
)
def test_the_effort_of_the_settings_is_sent_to_a_model_that_has_one(
    server: AnthropicServer, model: str, sent: dict[str, object], dropped: list[str] | None
) -> None:
    """Beside whatever makes it answer in our schema."""
    with asking(server.base_url, reasoning_effort="low") as provider:
        answer = ask(provider, call=a_call(model))
    assert server.requests[0].json()["output_config"] == sent
    assert answer.notes.get("dropped_parameters") == dropped


TRAPS = {
    "ANTHROPIC_API_KEY": "sk-other",
    "ANTHROPIC_AUTH_TOKEN": "sk-token",
    "ANTHROPIC_BASE_URL": "{trap}",
    "ANTHROPIC_CUSTOM_HEADERS": "Authorization: Bearer trap\nX-Api-Key: trap\nHost: trap.test\nX-Trap: yes",
    "ANTHROPIC_PROFILE": "trap",
    "ANTHROPIC_WEBHOOK_SIGNING_KEY": "whsec_other",
    "ANTHROPIC_OPEN_TELEMETRY": "true",
    "HTTP_PROXY": "{trap}",
    "http_proxy": "{trap}",
    "ALL_PROXY": "{trap}",
}


@pytest.mark.parametrize("names", [*([name] for name in TRAPS), list(TRAPS)], ids=lambda names: "+".join(names))
def test_the_environment_changes_nothing(
    server: AnthropicServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str]
) -> None:
    """Neither a variable of the SDK's, nor a profile on disk, nor a proxy decides where the key goes and with what."""
    with AnthropicServer() as trap:
        put_profile(tmp_path, trap.base_url)
        monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
        for name in names:
            monkeypatch.setenv(name, TRAPS[name].format(trap=trap.base_url))
        with asking(server.base_url) as provider:
            ask(provider)
        assert trap.connections == 0
    (request,) = server.requests
    assert request.path == "/v1/messages"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert not {"x-api-key", "x-trap", "anthropic-workspace-id", "anthropic-beta"} & request.headers.keys()


def put_profile(folder: Path, base_url: str) -> None:
    """A profile of the SDK's, named trap and chosen, with credentials and a host of its own."""
    for part in ("configs", "credentials"):
        (folder / part).mkdir()
    (folder / "active_config").write_text("trap")
    authentication = {"type": "user_oauth", "client_id": "trap"}
    profile = {"version": "1.0", "base_url": base_url, "workspace_id": "wrkspc_trap", "authentication": authentication}
    (folder / "configs" / "trap.json").write_text(json.dumps(profile))
    (folder / "credentials" / "trap.json").write_text(json.dumps({"access_token": "sk-trap", "expires_at": 9e9}))


def test_the_profile_on_disk_is_one_that_the_sdk_would_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or else the test above would show nothing."""
    from anthropic import Anthropic

    put_profile(tmp_path, "https://trap.test")
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with Anthropic() as careless:
        assert careless.base_url.host == "trap.test"


def test_without_a_base_url_the_vendor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the host of the environment."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://trap.test")
    provider = AnthropicProvider(Settings.model_validate({"vendors": {"anthropic": {"api_key": KEY}}}), MANIFEST)
    client = provider._client.get()  # noqa: SLF001 - The vendor itself is not asked in a test.
    assert str(client.base_url).rstrip("/") == AnthropicProvider.default_base_url == "https://api.anthropic.com"
    provider.close()


def test_the_sdk_makes_no_spans(monkeypatch: pytest.MonkeyPatch, provider: AnthropicProvider) -> None:
    """They would send the ids of our trace to the vendor."""
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY", "true")
    tracing = provider._client.get().open_telemetry  # noqa: SLF001 - No call that we make would show it.
    assert not tracing["traces"]["enabled"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_gateway_may_have_a_path(server: AnthropicServer, slash: str) -> None:
    """The SDK's path is put behind it; this server knows none such."""
    with asking(f"{server.base_url}/gateway{slash}") as provider:
        assert failure_of(provider).details == {"http_status": 404}


def test_an_essay_with_half_a_character_is_refused(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """UTF-8 cannot write a lone surrogate, so that nothing can be sent."""
    call = a_call(MODEL, TEXTS.model_copy(update={"essay_a": "\ud800"}))
    assert type(failure_of(provider, call=call)) is CallUnsendable
    assert server.total == 0


def test_the_default_model_has_a_row_and_a_price() -> None:
    """What is used unless somebody chooses should be known."""
    model = AnthropicProvider(Settings(), MANIFEST).default_model
    assert load_manifest().find(LLMProviderType.ANTHROPIC, model) is not None
    assert price(LLMProviderType.ANTHROPIC, model, TokenCounts(prompt=1_000_000)).usd > 0


def test_the_settings_choose_the_default_model(server: AnthropicServer) -> None:
    """For this installation, not for the class."""
    with asking(server.base_url, default_model="claude-that-thinks") as provider:
        assert provider.default_model == "claude-that-thinks"
    with asking(server.base_url) as provider:
        assert provider.default_model == MODEL


# What comes back


def test_a_good_answer_becomes_verdict_tokens_and_cost(provider: AnthropicProvider) -> None:
    """As the server counted and the price list says."""
    answer = ask(provider)
    assert answer.verdict.winner is EssayWinner.ESSAY_B
    assert answer.verdict.justification == VERDICT["justification"]
    assert answer.verdict.confidence == 0.75
    used = answer.token_usage
    assert used.prompt_tokens > used.completion_tokens > 0
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert answer.cost_usd > 0
    assert answer.notes == {}


def test_an_unknown_model_costs_nothing_and_says_so(provider: AnthropicProvider) -> None:
    """Nobody knows its price."""
    answer = ask(provider, call=a_call("claude-nobody-knows"))
    assert answer.cost_usd == 0
    assert "cost_note" in answer.notes


WHOLE = json.dumps(VERDICT)


@pytest.mark.parametrize(
    "content",
    [
        [text(WHOLE[:20]), text(WHOLE[20:60]), text(WHOLE[60:])],
        [*THINKING, text(WHOLE)],
        [text(WHOLE[:20]), THINKING[1], text(WHOLE[20:])],
        [{"type": "of_next_year", "text": "Hello"}, text(WHOLE), {"type": "of_next_year", "data": {"x": [1]}}],
        [{"text": WHOLE, "extra": {"deep": [1, None]}, "citations": [], "type": "text"}],
        [text("I shall use the tool."), {"type": "tool_use", "id": "toolu_1", "name": "verdict", "input": VERDICT}],
        [text(None), text(WHOLE), text(7)],
    ],
    ids=["split", "thinking", "thinking between", "unknown", "extra fields", "tool", "odd text"],
)
def test_the_answer_is_found_among_the_blocks(
    server: AnthropicServer, provider: AnthropicProvider, content: list[object]
) -> None:
    """All the text is one answer; thoughts and what is not known yet are passed over."""
    server.behave(message={"content": content, "of_next_year": {"a": 1}, "context_management": None})
    assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


@pytest.mark.parametrize("stop_reason", ["end_turn", "stop_sequence", "tool_use", "of_next_year", None, 7])
def test_a_whole_answer_counts_whatever_its_end_is_called(
    server: AnthropicServer, provider: AnthropicProvider, stop_reason: object
) -> None:
    """Gateways invent names, or give none."""
    server.behave(message={"stop_reason": stop_reason})
    assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"stop_reason": "refusal"}, "refused"),
        (
            {
                "stop_reason": "refusal",
                "content": [],
                "stop_details": {"type": "refusal", "category": "bio", "explanation": SECRET},
            },
            "refused",
        ),
        ({"stop_reason": "max_tokens", "content": [text(WHOLE[:40])]}, "cut off"),
        ({"stop_reason": "max_tokens", "content": THINKING}, "cut off"),
        ({"stop_reason": "max_tokens"}, "cut off"),
        ({"stop_reason": "model_context_window_exceeded", "content": []}, "do not fit"),
        ({"stop_reason": "pause_turn"}, "paused"),
        ({"content": []}, "holds no text"),
        ({"content": THINKING}, "holds no text"),
        ({"content": None}, "not a message"),
        ({"content": WHOLE}, "not a message"),
        ({"content": [WHOLE, None, 7, [], {}]}, "holds no text"),
        ({"content": [text(SECRET)]}, "not a JSON object"),
        ({"content": [text('{"winner": "Essay C"}')]}, "no known winner"),
        ({"content": [{"type": "tool_use", "id": "x", "name": "verdict", "input": {}}]}, "no known winner"),
        ({"content": [{"type": "tool_use", "id": "x", "name": "verdict", "input": None}]}, "not a JSON object"),
        ({"content": [{"type": "tool_use", "id": "x", "name": "another", "input": VERDICT}]}, "holds no text"),
    ],
)
def test_an_answer_that_is_no_verdict_says_why_and_what_it_cost(
    server: AnthropicServer, provider: AnthropicProvider, message: dict[str, object], says: str
) -> None:
    """It was one call, and it is billed; what the model wrote is not told."""
    server.behave(message=message)
    failure = failure_of(provider)
    assert isinstance(failure, InvalidAnswer)
    # Only what the model itself wrote can be asked for in better words.
    assert isinstance(failure, InvalidVerdict) == says.startswith(("no known", "not a JSON"))
    assert says in str(failure)
    assert SECRET not in str(failure) + repr(vars(failure))
    assert failure.token_usage.total_tokens > 0
    assert failure.cost_usd > 0
    assert server.total == 1


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '"text"', "7", "[[]]", '{"content": [{}]}', '{"usage": 1}'])
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_an_odd_200_is_invalid(
    server: AnthropicServer, provider: AnthropicProvider, body: str, content_type: str
) -> None:
    """Whatever the SDK makes of it: a str, None, a list, an object of Nones, an exception."""
    server.behave(body=body, headers={"content-type": content_type})
    assert type(failure_of(provider)) is InvalidAnswer


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"content": ' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"content": [{"type": "text", "text": "{' + '\\"a\\":[' * 5_000 + '"}]}',
    ],
    ids=["deep and broken", "deep", "deep answer"],
)
def test_a_200_that_hides_trouble_is_invalid(server: AnthropicServer, provider: AnthropicProvider, body: str) -> None:
    """Nesting that no parser follows."""
    server.behave(body=body)
    assert isinstance(failure_of(provider), InvalidAnswer)


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        ("overloaded_error", ProviderOverloaded),
        ("rate_limit_error", RateLimited),
        ("billing_error", QuotaExceeded),
        ("timeout_error", ProviderTimeout),
        ("invalid_request_error", CallRefused),
        ("of_next_year", ProviderServerError),
        (7, ProviderServerError),
    ],
)
def test_an_error_with_status_200_means_what_its_type_says(
    server: AnthropicServer, provider: AnthropicProvider, kind: object, meaning: type[ProviderError]
) -> None:
    """It came too late for a status of its own."""
    server.behave(body=json.dumps({"type": "error", "error": {"type": kind, "message": SECRET}}))
    failure = failure_of(provider)
    assert type(failure) is meaning
    assert failure.message.startswith("Instead of an answer came an error: ")
    assert failure.notes == ({"cost_note": NOTHING_COUNTED} if failure.may_be_billed else {})
    assert SECRET not in str(failure) + repr(vars(failure))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("prompt is too long: 1000001 tokens > 1000000 maximum", "longer than the model"),
        ("Output blocked by content filtering policy", "blocked the answer"),
    ],
)
def test_a_refusal_that_only_words_tell_apart_says_what_it_is(
    server: AnthropicServer, provider: AnthropicProvider, words: str, told: str
) -> None:
    """Whoever sent it can send shorter essays, or others."""
    server.behave(status=400, says=words)
    failure = failure_of(provider)
    assert type(failure) is CallRefused
    assert told in failure.message


@pytest.mark.parametrize("blocks", [["Essay B it is.", WHOLE], [WHOLE[:20], WHOLE[20:]], ["", WHOLE, ""]])
def test_an_answer_may_stand_behind_what_is_said_about_it(
    server: AnthropicServer, provider: AnthropicProvider, blocks: list[str]
) -> None:
    """In a block of its own, or spread over several."""
    server.behave(message={"content": [text(block) for block in blocks]})
    assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


def test_tokens_computed_in_one_country_cost_a_tenth_more(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """The vendor says where."""
    costs = {}
    for place in ("global", "us", None, 7):
        server.behave(message={"usage": {"input_tokens": 1000, "output_tokens": 100, "inference_geo": place}})
        costs[place] = ask(provider).cost_usd
    assert costs["us"] == pytest.approx(1.1 * costs["global"])
    assert costs["global"] == costs[None] == costs[7] > 0


def test_more_than_the_model_writes_is_all_that_it_writes(server: AnthropicServer) -> None:
    """Whoever asks for the most does not get the default."""
    with asking(server.base_url, manifest=load_manifest()) as provider:
        answer = ask(provider, call=a_call("claude-haiku-4-5", max_tokens=10**9))
    assert server.requests[0].json()["max_tokens"] == 64_000
    assert answer.notes == {"dropped_parameters": ["max_tokens"]}


def test_half_a_body_of_json_is_invalid(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """Though it arrived as the server sent it."""
    server.behave(mode="invalid_json")
    assert type(failure_of(provider)) is InvalidAnswer


def test_cached_tokens_are_counted_and_priced(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """This vendor counts them beside the others; reading costs less, and writing more, than a token sent afresh."""
    costs = {}
    for name, fresh, read, written in (("fresh", 5000, 0, 0), ("read", 1000, 4000, 0), ("written", 1000, 0, 4000)):
        usage = {"input_tokens": fresh, "cache_read_input_tokens": read, "cache_creation_input_tokens": written}
        server.behave(message={"usage": {**usage, "output_tokens": 100, "output_tokens_details": {"new": 1}}})
        answer = ask(provider)
        assert answer.token_usage.prompt_tokens == 5000
        assert answer.token_usage.total_tokens == 5100
        costs[name] = answer.cost_usd
    usage = {"input_tokens": 1000, "cache_creation_input_tokens": 4000, "output_tokens": 100}
    server.behave(message={"usage": {**usage, "cache_creation": {"ephemeral_1h_input_tokens": 4000, "new": None}}})
    costs["written for an hour"] = ask(provider).cost_usd
    assert costs["read"] < costs["fresh"] < costs["written"] < costs["written for an hour"]


def test_a_fast_answer_costs_more(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """A gateway may ask for it; the vendor says so in its counts."""
    costs = []
    for speed in (None, "standard", "fast", "of_next_year", 7):
        server.behave(message={"usage": {"input_tokens": 1000, "output_tokens": 100, "speed": speed}})
        costs.append(ask(provider, call=a_call("claude-opus-5-5")).cost_usd)
    assert costs[0] == costs[1] == costs[3] == costs[4] < costs[2]


@pytest.mark.parametrize("usage", [None, 7, "many", [], {}, {"input_tokens": "7", "output_tokens": -1}])
def test_without_counts_the_tokens_are_zero(
    server: AnthropicServer, provider: AnthropicProvider, usage: object
) -> None:
    """A verdict is not lost because its tokens were not counted; that its cost is no bill is said."""
    server.behave(message={"usage": usage})
    answer = ask(provider)
    assert (answer.token_usage.total_tokens, answer.cost_usd) == (0, 0)
    assert answer.notes == {"cost_note": NOTHING_COUNTED}


# Errors


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "17"}, 0.25),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_what_the_vendor_says_about_waiting_is_kept(
    server: AnthropicServer, provider: AnthropicProvider, headers: dict[str, str], seconds: float | None
) -> None:
    """In milliseconds or seconds."""
    server.behave(mode="429", headers=headers)
    assert failure_of(provider).retry_after_seconds == seconds


def test_the_vendor_may_say_a_date_to_wait_for(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """Told as the seconds that are left."""
    moment = datetime.now(UTC) + timedelta(seconds=30)
    server.behave(mode="529", headers={"retry-after": format_datetime(moment, usegmt=True)})
    seconds = failure_of(provider).retry_after_seconds
    assert seconds is not None
    assert 25 < seconds <= 30


@pytest.mark.parametrize(
    ("status", "code", "says", "meaning"),
    [
        (429, "enforced_spend_limit_reached", "You have reached your API usage limits", QuotaExceeded),
        (429, "contract_spend_limit_reached", None, QuotaExceeded),
        (402, "linked_organization_spend_limit_reached", None, QuotaExceeded),
        (429, "ramp_limit_exceeded", None, RateLimited),
        (429, "of_next_year", None, RateLimited),
        (400, None, "You have reached your specified API usage limits. You will regain access on", QuotaExceeded),
        (400, None, "You have reached your specified workspace API usage limits.", QuotaExceeded),
        (400, None, "Your credit balance is too low to access the Anthropic API.", QuotaExceeded),
        (400, None, "messages: Your credit balance is too low, writes a student.", CallRefused),
    ],
)
def test_an_account_without_money_is_told_from_other_troubles(
    server: AnthropicServer,
    provider: AnthropicProvider,
    status: int,
    code: str | None,
    says: str | None,
    meaning: type[ProviderError],
) -> None:
    """A 429 or a 400 may be either; a customer's own limit has no code, only words that it begins with."""
    server.behave(status=status, code=code, says=says)
    assert type(failure_of(provider)) is meaning


def test_no_failure_tells_a_secret(
    server: AnthropicServer, provider: AnthropicProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The server quotes the prompt; neither the error, nor its chain, nor any log at DEBUG has it, or the key."""
    caplog.set_level(logging.DEBUG)
    for mode in ("400", "401", "429", "500", "529", "invalid_json", "cut", "close"):
        server.behave(mode=mode)
        assert_discreet(failure_of(provider), caplog.text)
    for message in ({"content": [text(SECRET)]}, {"stop_reason": "refusal", "stop_details": {"explanation": SECRET}}):
        server.behave(message=message)
        assert_discreet(failure_of(provider), caplog.text)
    server.behave()
    ask(provider)
    assert SECRET not in caplog.text
    assert KEY not in caplog.text + repr(provider)


def assert_discreet(failure: ProviderError, logs: str) -> None:
    assert failure.__cause__ is None
    assert failure.__context__ is None
    copy = pickle.loads(pickle.dumps(failure))  # noqa: S301 - It was pickled here.
    assert (type(copy), str(copy), copy.details) == (type(failure), str(failure), failure.details)
    shown = "".join(traceback.format_exception(failure)) + repr(vars(failure)) + str(pickle.dumps(failure)) + logs
    assert SECRET not in shown
    assert KEY not in shown


def test_the_sdk_s_own_switch_for_logs_shows_no_prompt(
    server: AnthropicServer, caplog: pytest.LogCaptureFixture
) -> None:
    """ANTHROPIC_LOG=debug sets its logger's level, at which whole prompts are logged, when the SDK is imported."""
    logging.getLogger("anthropic").setLevel(logging.DEBUG)
    with asking(server.base_url) as provider, caplog.at_level(logging.DEBUG):
        ask(provider)
    assert SECRET not in caplog.text


# When the network fails


def test_a_slow_answer_within_the_deadline_counts(server: AnthropicServer, provider: AnthropicProvider) -> None:
    """Slow is not late."""
    server.behave(latency_ms=500)
    assert ask(provider, 2.0).verdict.winner is EssayWinner.ESSAY_B


def test_nothing_connects_before_the_first_call(server: AnthropicServer) -> None:
    """Making and closing a provider costs no connection."""
    before = server.connections
    with asking(server.base_url) as provider:
        assert provider.is_configured()
    assert server.connections == before
