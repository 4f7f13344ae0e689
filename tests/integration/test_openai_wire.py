"""The openai provider with the real SDK, over HTTP, against a server that makes every kind of trouble."""

import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.config import Settings
from llm_provider.errors import (
    InvalidAnswer,
    NotSentInTime,
    NoVerdict,
    QuotaExceeded,
)
from llm_provider.internal_models import ComparisonTexts, Prompt, ProviderCall
from llm_provider.model_manifest import ModelManifest, ModelRow, StructuredOutput
from llm_provider.verdicts import VERDICT_SCHEMA
from tests.integration.openai_server import OpenAIServer
from tests.integration.vendor_server import VERDICT
from tests.integration.wire import (
    KEY,
    OPENAI,
    SECRET,
    TEXTS,
    TOLERANCE,
    a_call,
    ask,
    failure_of,
    seconds_until_failure,
)
from tests.unit.builders import a_prompt

MODEL = "gpt-5.4-mini"

running, server, provider = OPENAI.fixtures()
asking = OPENAI.asking


def call_with(texts: ComparisonTexts = TEXTS, model: str = MODEL, **fields: Any) -> ProviderCall:
    return a_call(model, texts, **fields)


# What is sent


def test_the_request_is_a_chat_completion_with_our_schema(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Exactly these fields, and nothing that a model may refuse."""
    ask(provider)
    (request,) = server.requests
    system, user = request.json()["messages"]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (system["role"], user) == ("system", {"role": "user", "content": a_prompt(TEXTS).user})
    assert request.json() == {
        "model": MODEL,
        "messages": [system, user],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
        },
    }


def test_the_key_goes_out_as_a_bearer_token(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """And nowhere else."""
    ask(provider)
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert [name for name, value in headers.items() if KEY in value] == ["authorization"]
    assert headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_the_caller_overrides_is_sent(server: OpenAIServer, provider: OpenAIProvider, temperature: float) -> None:
    """Temperature, a limit of tokens, a model and a system prompt; 0 is a value."""
    texts = TEXTS.model_copy(update={"system_prompt": "Be strict."})
    ask(provider, call=call_with(texts, model="another", temperature=temperature, max_tokens=300))
    sent = server.requests[0].json()
    assert sent["model"] == "another"
    assert sent["temperature"] == temperature
    assert sent["max_completion_tokens"] == 300
    assert sent["messages"][0] == {"role": "system", "content": a_prompt(texts).system}


def test_what_is_sent_is_the_prompt_of_the_call(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Whoever made it knows its digest, so nothing is added here."""
    prompt = a_prompt(TEXTS, complaint="It was no JSON.")
    ask(provider, call=call_with(prompt=prompt))
    assert [message["content"] for message in server.requests[0].json()["messages"]] == [prompt.system, prompt.user]


MANIFEST = ModelManifest(
    as_of=date(2026, 11, 1),
    models=tuple(
        ModelRow(
            provider=LLMProviderType.OPENAI,
            model=model,
            context_tokens=100_000,
            max_output_tokens=1000,
            structured_output=structured_output,
            accepts_sampling=model != "thinker",
            reasoning_efforts=("low", "high") if model == "thinker" else (),
        )
        for model, structured_output in (("thinker", StructuredOutput.JSON_SCHEMA), ("plain", StructuredOutput.PROMPT))
    ),
)


@pytest.mark.parametrize(
    ("model", "effort", "max_tokens", "sent", "dropped"),
    [
        ("thinker", "low", 300, {"max_completion_tokens": 300, "reasoning_effort": "low"}, ["temperature"]),
        ("thinker", "max", 1001, {}, ["temperature", "max_tokens", "reasoning_effort"]),
        ("plain", "low", 1000, {"max_completion_tokens": 1000, "temperature": 0.5}, ["reasoning_effort"]),
        ("new", "max", 5000, {"max_completion_tokens": 5000, "reasoning_effort": "max", "temperature": 0.5}, None),
    ],
)
def test_what_a_model_refuses_is_left_out_and_noted(
    server: OpenAIServer, model: str, effort: str, max_tokens: int, sent: dict[str, Any], dropped: list[str] | None
) -> None:
    """As its row in the manifest says; to a model without one everything is sent."""
    with asking(server.base_url, manifest=MANIFEST, reasoning_effort=effort) as provider:
        answer = ask(provider, call=call_with(model=model, temperature=0.5, max_tokens=max_tokens))
    body = server.requests[0].json()
    assert {name: body[name] for name in body.keys() - {"model", "messages", "response_format"}} == sent
    assert answer.notes.get("dropped_parameters") == dropped


@pytest.mark.parametrize(("model", "is_sent"), [("plain", False), ("thinker", True), ("new", True)])
def test_a_model_without_schemas_is_asked_by_the_prompt_alone(server: OpenAIServer, model: str, is_sent: bool) -> None:
    """It would refuse a response_format; one that nobody knows is sent it."""
    with asking(server.base_url, manifest=MANIFEST) as provider:
        ask(provider, call=call_with(model=model))
    assert ("response_format" in server.requests[0].json()) is is_sent


def test_the_settings_name_another_model(server: OpenAIServer) -> None:
    """Else the provider knows one itself, and where the vendor is."""
    with asking(server.base_url, default_model="gpt-mine") as provider:
        assert provider.default_model == "gpt-mine"
    assert OpenAIProvider(Settings()).default_model == OpenAIProvider.default_model == "gpt-5.4-mini"
    assert OpenAIProvider.default_base_url == "https://api.openai.com/v1"


def test_the_environment_changes_nothing(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the SDK's variables nor a proxy decide where the key goes, or what goes with it."""
    with OpenAIServer() as trap:
        for name, value in {
            "OPENAI_API_KEY": "sk-other",
            "OPENAI_ADMIN_KEY": "sk-admin",
            "OPENAI_BASE_URL": trap.base_url,
            "OPENAI_ORG_ID": "org-trap",
            "OPENAI_PROJECT_ID": "project-trap",
            "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer trap\nHost: trap.test\nX-Trap: yes",
            "HTTP_PROXY": trap.base_url,
            "http_proxy": trap.base_url,
            "ALL_PROXY": trap.base_url,
        }.items():
            monkeypatch.setenv(name, value)
        with asking(server.base_url) as provider:
            ask(provider)
        assert trap.connections == 0
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert not {"openai-organization", "openai-project", "x-trap"} & headers.keys()


# What comes back


def test_a_good_answer_becomes_verdict_tokens_and_cost(provider: OpenAIProvider) -> None:
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


def test_an_answer_is_read_whatever_its_order_and_its_extras(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Reversed fields, unknown ones, the text in parts after the reasoning, cached tokens; a cost is not OpenAI's."""
    verdict = json.dumps(dict(reversed(VERDICT.items())) | {"extra": [1]})
    parts = [{"type": "reasoning", "text": "{"}, {"text": verdict[:9], "type": "text"}, {"type": "text"}]
    body = {
        "usage": {
            "cost": 9.0,
            "prompt_tokens_details": {"cached_tokens": 900, "new": {}},
            "completion_tokens": 70,
            "prompt_tokens": 1000,
        },
        "choices": [
            {"finish_reason": "stop", "message": {"annotations": None, "content": parts, "x": 1}, "index": 0},
            {"finish_reason": "length", "message": None},
        ],
        "moderation": {"new": True},
    }
    parts.append({"type": "text", "text": verdict[9:]})
    server.behave(body=json.dumps(body))
    cached = ask(provider)
    server.behave(body=json.dumps(body).replace("900", "0"))
    assert cached.verdict.justification == VERDICT["justification"]
    assert (cached.token_usage.prompt_tokens, cached.token_usage.completion_tokens) == (1000, 70)
    assert 0 < cached.cost_usd < ask(provider).cost_usd < 0.1


@pytest.mark.parametrize("mode", ["refusal", "content_filter", "truncated", "invalid_json"])
def test_an_answer_that_is_no_verdict_is_invalid(server: OpenAIServer, provider: OpenAIProvider, mode: str) -> None:
    """A refusal, a truncation, half a body of JSON; each was one call."""
    server.behave(mode=mode)
    assert type(failure_of(provider)) is (InvalidAnswer if mode == "invalid_json" else NoVerdict)
    assert server.total == 1


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '"text"', "7", '{"choices": []}', '{"choices": [{}]}'])
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_an_odd_200_is_invalid(server: OpenAIServer, provider: OpenAIProvider, body: str, content_type: str) -> None:
    """Whatever the SDK makes of it: a str, None, a list, an object of Nones, an exception."""
    server.behave(body=body, headers={"content-type": content_type})
    assert type(failure_of(provider)) is InvalidAnswer


def test_an_account_without_money_is_told_from_a_limit_of_the_rate(
    server: OpenAIServer, provider: OpenAIProvider
) -> None:
    """Both are a 429."""
    server.behave(status=429, code="project_spend_limit_exceeded")
    assert type(failure_of(provider)) is QuotaExceeded


def test_no_failure_tells_a_secret(
    server: OpenAIServer, provider: OpenAIProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The server quotes the prompt; neither the error, nor its chain, nor any log at DEBUG has it, or the key."""
    caplog.set_level(logging.DEBUG)
    for mode in ("400", "429", "500", "refusal", "truncated", "invalid_json", "cut", "close"):
        server.behave(mode=mode)
        failure = failure_of(provider)
        assert failure.__cause__ is None
        assert failure.__context__ is None
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure)) + caplog.text
        assert SECRET not in shown
        assert KEY not in shown
    server.behave(body=f'{{"choices": [{{"message": {{"content": "{SECRET}"}}}}]}}')
    assert SECRET not in str(failure_of(provider)) + caplog.text


# When the network fails


def test_the_deadline_holds_while_sending() -> None:
    """A server that takes a large request a little at a time does not hold the caller."""
    large = call_with(prompt=Prompt(system="", user="word " * 3_000_000))
    # Enough for a busy machine to write the body, and too little to send it.
    seconds = 2.0
    with slow_reader() as base_url, asking(base_url) as provider:
        waited = seconds_until_failure(provider, NotSentInTime, seconds=seconds, call=large)
    assert seconds <= waited < seconds + 2 * TOLERANCE


@contextmanager
def slow_reader() -> Iterator[str]:
    """A server that reads some 3 MB a second and never answers."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Nobody may come, and then this has to end all the same.
        listening.settimeout(10)

        def read() -> None:
            with suppress(TimeoutError), listening.accept()[0] as connection:
                while not done.wait(0.02) and connection.recv(65_536):
                    pass

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            done.set()
            thread.join()
