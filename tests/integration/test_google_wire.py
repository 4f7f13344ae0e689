"""The google provider with the real SDK, over HTTP, against a server that makes every kind of trouble."""

import json
import logging
import pickle
import time
import traceback
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.providers.google_provider import GoogleProvider
from llm_provider.errors import (
    AuthenticationFailed,
    CallUnsendable,
    InvalidAnswer,
    KeyUnusable,
    NoVerdict,
    ProviderTimeout,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import Prompt, ProviderCall
from llm_provider.model_manifest import ModelManifest, ModelRow, StructuredOutput
from llm_provider.verdicts import VERDICT_SCHEMA
from tests.integration.google_server import GoogleServer
from tests.integration.vendor_server import VERDICT
from tests.integration.wire import (
    DEADLINE,
    GOOGLE,
    KEY,
    SECRET,
    TEXTS,
    TOLERANCE,
    ask,
    failure_of,
    seconds_until_failure,
)

MODEL = "gemini-3.8-flash"
PATH = f"/v1/models/{MODEL}:generateContent"
PROMPT = Prompt(system="Judge these.", user=f"{SECRET} Cats. or Dogs.")
CALL = ProviderCall(texts=TEXTS, prompt=PROMPT, model=MODEL)


def row(model: str, **fields: Any) -> ModelRow:
    known: dict[str, Any] = {
        "context_tokens": 1_000_000,
        "max_output_tokens": 65_536,
        "structured_output": StructuredOutput.JSON_SCHEMA,
        "accepts_sampling": True,
        "reasoning_efforts": ("minimal", "low", "medium", "high"),
    }
    return ModelRow(provider=LLMProviderType.GOOGLE, model=model, **{**known, **fields})


MANIFEST = ModelManifest(
    as_of=date(2026, 11, 22),
    models=(
        row(MODEL),
        row("rigid", accepts_sampling=False, max_output_tokens=100, reasoning_efforts=()),
        row("plain", structured_output=StructuredOutput.PROMPT),
    ),
)


WIRE = replace(GOOGLE, manifest=MANIFEST)
running, server, provider = WIRE.fixtures()
asking = WIRE.asking


# What is sent


def test_the_request_is_a_generate_content_with_our_schema(server: GoogleServer, provider: GoogleProvider) -> None:
    """Exactly these fields, and nothing that a model may refuse."""
    ask(provider, call=CALL)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", PATH)
    assert request.json() == {
        "contents": [{"role": "user", "parts": [{"text": PROMPT.user}]}],
        "systemInstruction": {"role": "user", "parts": [{"text": PROMPT.system}]},
        "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": VERDICT_SCHEMA},
    }


def test_the_key_goes_out_in_its_header(server: GoogleServer, provider: GoogleProvider) -> None:
    """And nowhere else."""
    ask(provider)
    headers = server.requests[0].headers
    assert headers["x-goog-api-key"] == KEY
    assert [name for name, value in headers.items() if KEY in value] == ["x-goog-api-key"]
    assert "authorization" not in headers


@pytest.mark.parametrize(("seconds", "told"), [(5.0, "5"), (5.2, "6"), (0.8, "1")])
def test_the_vendor_is_told_how_long_we_wait(
    server: GoogleServer, provider: GoogleProvider, seconds: float, told: str
) -> None:
    """In whole seconds, while the SDK is told in milliseconds."""
    ask(provider, seconds)
    assert server.requests[0].headers["x-server-timeout"] == told


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_the_caller_overrides_is_sent(server: GoogleServer, provider: GoogleProvider, temperature: float) -> None:
    """Temperature, a limit of tokens and a model; 0 is a value."""
    call = CALL.model_copy(update={"model": "another", "temperature": temperature, "max_tokens": 300})
    assert "dropped_parameters" not in ask(provider, call=call).notes
    config = server.requests[0].json()["generationConfig"]
    assert server.requests[0].path == "/v1/models/another:generateContent"
    assert (config["temperature"], config["maxOutputTokens"]) == (temperature, 300)


def test_what_a_model_refuses_is_left_out_and_noted(server: GoogleServer) -> None:
    """By its row in the manifest."""
    call = CALL.model_copy(update={"model": "rigid", "temperature": 0.0, "max_tokens": 101})
    with asking(server.base_url, reasoning_effort="low") as provider:
        notes = ask(provider, call=call).notes
    assert notes["dropped_parameters"] == ["temperature", "max_tokens", "reasoning_effort"]
    assert server.requests[0].json()["generationConfig"].keys() == {"responseMimeType", "responseJsonSchema"}


@pytest.mark.parametrize("effort", ["low", "HIGH", "novel"])
def test_a_reasoning_effort_is_a_thinking_level(server: GoogleServer, effort: str) -> None:
    """The vendor's word for it; a budget is never sent along with it."""
    call = CALL.model_copy(update={"model": "another"})
    with asking(server.base_url, reasoning_effort=effort) as provider:
        ask(provider, call=call)
    assert server.requests[0].json()["generationConfig"]["thinkingConfig"] == {"thinkingLevel": effort.upper()}


def test_a_model_without_structured_output_is_asked_by_the_prompt_alone(
    server: GoogleServer, provider: GoogleProvider
) -> None:
    """It would refuse a schema."""
    ask(provider, call=CALL.model_copy(update={"model": "plain"}))
    assert not server.requests[0].json().get("generationConfig")


def test_an_empty_system_prompt_is_not_sent(server: GoogleServer, provider: GoogleProvider) -> None:
    """The vendor refuses a part without text."""
    ask(provider, call=CALL.model_copy(update={"prompt": Prompt(system="", user="u")}))
    assert "systemInstruction" not in server.requests[0].json()


@pytest.mark.parametrize(
    ("ending", "path"),
    [
        ("", PATH),
        ("/", PATH),
        ("/gateway", f"/gateway{PATH}"),
        ("/v1", PATH),
        ("/v1beta/", PATH.replace("v1", "v1beta")),
        ("/a/v1alpha", "/a" + PATH.replace("v1", "v1alpha")),
        ("/v2proxy", f"/v2proxy{PATH}"),
    ],
)
def test_the_base_url_may_name_a_gateway_and_a_version(server: GoogleServer, ending: str, path: str) -> None:
    """Without a version it is the stable one."""
    with asking(server.base_url + ending) as provider:
        ask(provider)
    assert server.requests[0].path == path


@pytest.mark.parametrize("model", ["models/gemini-3.8-flash", "tunedModels/essays-1"])
def test_a_model_may_be_named_with_its_collection(server: GoogleServer, provider: GoogleProvider, model: str) -> None:
    """As the vendor's lists do."""
    ask(provider, call=CALL.model_copy(update={"model": model}))
    assert server.requests[0].path == f"/v1/{model}:generateContent"


@pytest.mark.parametrize(
    "model", ["../../upload", "a/../b", "a?key=b", "a#", "a b", "/etc", "a/", "%2e%2e", "ä", "a\n"]
)
def test_a_model_cannot_lead_to_another_path(server: GoogleServer, provider: GoogleProvider, model: str) -> None:
    """It is the caller's text, and part of the URL."""
    assert type(failure_of(provider, call=CALL.model_copy(update={"model": model}))) is CallUnsendable
    assert server.total == 0


TRAPS = {
    "GOOGLE_API_KEY": "AIza-other",
    "GEMINI_API_KEY": "AIza-other",
    "GOOGLE_GEMINI_BASE_URL": "{trap}",
    "GOOGLE_VERTEX_BASE_URL": "{trap}",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_GENAI_USE_ENTERPRISE": "true",
    "GOOGLE_GENAI_API_VERSION": "v1alpha",
    "GOOGLE_GENAI_HTTP_CLIENT": "httpx2",
    "GOOGLE_GENAI_CLIENT_MODE": "record",
    "GOOGLE_CLOUD_PROJECT": "trap-project",
    "GOOGLE_CLOUD_LOCATION": "trap-location",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/trap.json",
    "GOOGLE_API_USE_MTLS_ENDPOINT": "always",
    "GOOGLE_API_USE_CLIENT_CERTIFICATE": "true",
    "HTTP_PROXY": "{trap}",
    "http_proxy": "{trap}",
    "HTTPS_PROXY": "not a url",
    "ALL_PROXY": "socks5://127.0.0.1:1",
}


@pytest.mark.parametrize("names", [[name] for name in TRAPS] + [list(TRAPS)], ids=lambda names: "+".join(names)[:40])
def test_the_environment_changes_nothing(
    server: GoogleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str]
) -> None:
    """Neither the SDK's variables nor a proxy decide where the key goes, what goes with it, or what is written down."""
    monkeypatch.setenv("GOOGLE_GENAI_REPLAYS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("GOOGLE_GENAI_REPLAY_ID", "trap")
    with GoogleServer() as trap:
        for name in names:
            monkeypatch.setenv(name, TRAPS[name].format(trap=trap.base_url))
        with asking(server.base_url) as provider:
            ask(provider)
        assert trap.connections == 0
    (request,) = server.requests
    assert request.path == PATH
    assert request.headers["x-goog-api-key"] == KEY
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert "trap" not in repr(request).replace(str(tmp_path), "")
    assert not list(tmp_path.iterdir())


def test_another_http_client_by_the_environment_changes_nothing(
    server: GoogleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not it is installed; ours is the one with the deadline."""
    monkeypatch.setenv("GOOGLE_GENAI_HTTP_CLIENT", "httpx")
    server.behave(mode="trickle")
    with asking(server.base_url) as provider:
        assert seconds_until_failure(provider, ProviderTimeout) < DEADLINE + 3 * TOLERANCE
    assert server.requests[0].headers["x-goog-api-key"] == KEY


def test_a_key_that_cannot_be_sent_is_no_key(server: GoogleServer) -> None:
    """A token of another API."""
    with asking(server.base_url, key="auth_tokens/a") as provider:
        assert type(failure_of(provider)) is KeyUnusable
    assert server.total == 0


# What comes back


def test_a_good_answer_becomes_verdict_tokens_and_cost(provider: GoogleProvider) -> None:
    """As the server counted and the price list says."""
    answer = ask(provider)
    assert answer.verdict.winner is EssayWinner.ESSAY_B
    assert answer.verdict.justification == VERDICT["justification"]
    assert answer.verdict.confidence == 0.75
    used = answer.token_usage
    assert used.prompt_tokens > used.completion_tokens > 0
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert answer.cost_usd > 0
    assert not answer.notes


def test_an_unknown_model_is_allowed_and_costs_nothing_with_a_note(provider: GoogleProvider) -> None:
    """The price list cannot know every model."""
    answer = ask(provider, call=CALL.model_copy(update={"model": "gemini-of-tomorrow"}))
    assert answer.cost_usd == 0
    assert answer.notes["cost_note"]


def candidate(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"finishReason": "STOP", "content": {"role": "model", "parts": list(parts)}, **fields}


def test_an_answer_in_several_parts_among_thoughts_is_one(server: GoogleServer, provider: GoogleProvider) -> None:
    """With fields in another order and ones that nobody knows, at every level."""
    text = json.dumps(VERDICT)
    parts: list[dict[str, Any]] = [
        {"thought": True, "text": '{"winner": "Essay A"', "thoughtSignature": "c2ln"},
        {"text": text[:30], "novelty": [1]},
        {"executableCode": {"language": "PYTHON", "code": "1"}},
        {"thoughtSignature": "c2ln", "text": ""},
        {"text": text[30:], "thought": False},
    ]
    usage = {"novelTokenCount": 5, "thoughtsTokenCount": 7, "candidatesTokenCount": 3, "promptTokenCount": 11}
    body = {
        "responseId": "r",
        "novelty": {"deep": [{}]},
        "usageMetadata": {**usage, "trafficType": "NOVEL", "serviceTier": "novel"},
        "candidates": [
            {"novelty": 1, "safetyRatings": [{"category": "NOVEL"}], "avgLogprobs": "novel", **candidate(*parts)},
            candidate({"text": "a second one"}),
        ],
        "modelStatus": {"modelStage": "NOVEL"},
    }
    server.behave(body=json.dumps(body))
    answer = ask(provider)
    assert answer.verdict.justification == VERDICT["justification"]
    assert (answer.token_usage.prompt_tokens, answer.token_usage.completion_tokens) == (11, 10)


def test_cached_tokens_are_cheaper_and_thoughts_are_paid_for(server: GoogleServer, provider: GoogleProvider) -> None:
    """The cached ones are inside the prompt's; what was thought is not inside the answer's."""

    def cost(**usage: int) -> float:
        server.behave(answer={"usageMetadata": {"promptTokenCount": 1_000_000, **usage}})
        return ask(provider).cost_usd

    prompt = cost()
    assert prompt * 0.05 < cost(cachedContentTokenCount=1_000_000) < prompt * 0.5
    assert cost(thoughtsTokenCount=1000) == pytest.approx(cost(candidatesTokenCount=1000))
    assert cost(thoughtsTokenCount=1000) > prompt
    assert cost(toolUsePromptTokenCount=1000) == pytest.approx(prompt * 1.001)


@pytest.mark.parametrize(
    "mode",
    [
        "SAFETY",
        "RECITATION",
        "blocked",
        "truncated",
        "thought_out",
        "CONTINUATION",
        "NOVEL",
        "no_parts",
        "invalid_json",
    ],
)
def test_an_answer_that_is_no_verdict_is_invalid_and_billed(
    server: GoogleServer, provider: GoogleProvider, mode: str
) -> None:
    """Whatever it is, it was one call, and what the vendor counted is told."""
    server.behave(mode=mode)
    failure = failure_of(provider)
    assert type(failure) is (InvalidAnswer if mode == "invalid_json" else NoVerdict)
    assert (failure.token_usage.prompt_tokens > 0) is (mode != "invalid_json")
    assert server.total == 1


def test_each_kind_of_no_answer_has_its_own_message(server: GoogleServer, provider: GoogleProvider) -> None:
    """A program, or a person, can tell them apart."""
    messages = set()
    modes = ["SAFETY", "blocked", "truncated", "thought_out", "CONTINUATION", "OTHER", "no_parts", "invalid_json"]
    for mode in modes:
        server.behave(mode=mode)
        messages.add(failure_of(provider).message)
    assert len(messages) == len(modes)


def test_an_answer_that_asks_to_be_continued_is_not(server: GoogleServer, provider: GoogleProvider) -> None:
    """The SDK would ask on without end, and each time is billed."""
    server.behave(mode="CONTINUATION")
    failure_of(provider, 1.0)
    assert server.total == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        "{}",
        '"text"',
        "7",
        "<html>",
        "\xff",
        '{"candidates": []}',
        '{"candidates": [{}]}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_an_odd_200_is_invalid(server: GoogleServer, provider: GoogleProvider, body: str, content_type: str) -> None:
    """Whatever a gateway may send."""
    server.behave(body=body, headers={"content-type": content_type})
    assert type(failure_of(provider)) is InvalidAnswer


@pytest.mark.parametrize("status", [201, 204, 206])
def test_another_success_is_invalid(server: GoogleServer, provider: GoogleProvider, status: int) -> None:
    """Nothing was refused, and nothing was answered."""
    server.behave(status=status, body="")
    assert type(failure_of(provider)) is InvalidAnswer


# What the vendor refuses


def test_the_vendor_may_say_in_several_ways_how_long_to_wait(server: GoogleServer, provider: GoogleProvider) -> None:
    """Seconds or a date in a header, or a RetryInfo in the body, which is the more precise."""
    server.behave(status=429, headers={"Retry-After": "17"})
    assert failure_of(provider).retry_after_seconds == 17
    moment = datetime.now(UTC) + timedelta(seconds=90)
    server.behave(status=503, headers={"Retry-After": format_datetime(moment, usegmt=True)})
    assert failure_of(provider).retry_after_seconds == pytest.approx(90, abs=5)
    retry_info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"}
    server.behave(status=429, details=[retry_info], headers={"Retry-After": "17"})
    assert failure_of(provider).retry_after_seconds == 34.074824224


def test_a_day_s_quota_is_told_from_a_minute_s(server: GoogleServer, provider: GoogleProvider) -> None:
    """Both are a 429, and both say to retry within the minute."""
    retry_info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
    for period, meaning in (("Minute", RateLimited), ("Day", QuotaExceeded)):
        violation = {"quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier"}
        quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
        server.behave(status=429, details=[quota, retry_info])
        assert type(failure_of(provider)) is meaning


def test_a_key_that_the_vendor_does_not_know_is_about_the_key(server: GoogleServer, provider: GoogleProvider) -> None:
    """It says so with a 400, like of a bad request."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    server.behave(status=400, details=[info])
    assert type(failure_of(provider)) is AuthenticationFailed


def test_nothing_tells_a_secret(
    server: GoogleServer, provider: GoogleProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The server quotes the prompt; no error, nor its chain or pickle, nor any log at DEBUG has it, or the key."""
    caplog.set_level(logging.DEBUG)
    ask(provider)
    troubles: list[dict[str, Any]] = [{"status": status} for status in (307, 400, 429, 500, 503)]
    troubles += [{"mode": mode} for mode in ("SAFETY", "blocked", "truncated", "invalid_json", "cut", "close")]
    troubles += [
        {"body": json.dumps({"candidates": [candidate({"text": SECRET})]})},
        {"body": json.dumps({"candidates": [candidate(finishReason=SECRET)]})},
        {"body": json.dumps({"promptFeedback": {"blockReason": SECRET}})},
        {"body": SECRET},
    ]
    for trouble in troubles:
        server.behave(**trouble)
        failure = failure_of(provider)
        assert failure.__cause__ is None
        assert failure.__context__ is None
        copy = pickle.loads(pickle.dumps(failure))  # noqa: S301 - Our own bytes.
        assert (type(copy), str(copy)) == (type(failure), str(failure))
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure)) + repr(pickle.dumps(failure))
        assert SECRET not in shown
        assert KEY not in shown
    assert SECRET not in caplog.text
    assert KEY not in caplog.text + repr(provider) + repr(vars(provider)["_client"].get())


# Connections


def test_closing_gives_back_the_connections(server: GoogleServer, provider: GoogleProvider) -> None:
    """The SDK leaves a client that it was given to its owner."""
    ask(provider)
    (connection,) = server.live
    provider.close()
    end = time.monotonic() + 2
    while connection in server.live and time.monotonic() < end:
        time.sleep(0.01)
    assert connection not in server.live
