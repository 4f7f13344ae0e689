"""The openai provider with the real SDK, over HTTP, against a server that makes every kind of trouble."""

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from typing import Any

import pytest

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.config import Settings
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    ProviderBusy,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import ComparisonTexts, ProviderAnswer, ProviderCall
from llm_provider.model_manifest import ModelManifest, ModelRow, StructuredOutput
from llm_provider.prompts import build_prompt
from llm_provider.verdicts import VERDICT_SCHEMA
from tests.integration.openai_server import OpenAIServer
from tests.integration.vendor_server import VERDICT

KEY = "sk-key-that-opens-nothing"
SECRET = "zebra-secret-zebra"
MODEL = "gpt-5.4-mini"
TEXTS = ComparisonTexts(user_prompt=f"{SECRET} {{essay_a}} or {{essay_b}}", essay_a="Cats.", essay_b="Dogs.")
DEADLINE = 0.4
TOLERANCE = 0.4


def call_with(texts: ComparisonTexts = TEXTS, **fields: Any) -> ProviderCall:
    return ProviderCall(**{"texts": texts, "prompt": build_prompt(texts), "model": MODEL, **fields})


CALL = call_with()


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.behave()
    running.reset()
    running.requests.clear()
    return running


@pytest.fixture
def provider(server: OpenAIServer) -> Iterator[OpenAIProvider]:
    with asking(server.base_url) as provider:
        yield provider


@contextmanager
def asking(
    base_url: str, key: str = KEY, manifest: ModelManifest | None = None, **settings: Any
) -> Iterator[OpenAIProvider]:
    vendor = {"api_key": key, "base_url": base_url, **settings}
    provider = OpenAIProvider(Settings.model_validate({"vendors": {"openai": vendor}}), manifest)
    try:
        yield provider
    finally:
        provider.close()


def ask(provider: OpenAIProvider, seconds: float = 5.0, call: ProviderCall = CALL) -> ProviderAnswer:
    return provider.compare(call, timeout_seconds=seconds)


def failure_of(provider: OpenAIProvider, seconds: float = 5.0, call: ProviderCall = CALL) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        ask(provider, seconds, call)
    return raised.value


def seconds_until_failure(
    provider: OpenAIProvider, *expected: type[ProviderError], seconds: float = DEADLINE, call: ProviderCall = CALL
) -> float:
    begin = time.monotonic()
    assert type(failure_of(provider, seconds, call)) in expected
    return time.monotonic() - begin


# What is sent


def test_the_request_is_a_chat_completion_with_our_schema(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Exactly these fields, and nothing that a model may refuse."""
    ask(provider)
    (request,) = server.requests
    system, user = request.json()["messages"]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert (system["role"], user) == ("system", {"role": "user", "content": f"{SECRET} Cats. or Dogs."})
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
    assert sent["messages"][0] == {"role": "system", "content": "Be strict."}


def test_what_is_sent_is_the_prompt_of_the_call(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Whoever made it knows its digest, so nothing is added here."""
    prompt = build_prompt(TEXTS, complaint="It was no JSON.")
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


def test_a_redirect_is_not_followed(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """The key and the essays stay with the host that the settings name."""
    with OpenAIServer() as elsewhere:
        server.behave(status=307, headers={"location": f"{elsewhere.base_url}/chat/completions"})
        assert type(failure_of(provider)) is CallRefused
        assert elsewhere.connections == 0


def test_a_key_that_ends_with_a_newline_works(server: OpenAIServer) -> None:
    """That is how a key comes out of a file."""
    with asking(server.base_url, key=f"{KEY}\n") as provider:
        ask(provider)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_without_a_key_nothing_is_sent(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with the key of the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with asking(server.base_url, key=" ") as provider:
        assert not provider.is_configured()
        assert type(failure_of(provider)) is AuthenticationFailed
    assert server.total == 0


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
    assert type(failure_of(provider)) is InvalidAnswer
    assert server.total == 1


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '"text"', "7", '{"choices": []}', '{"choices": [{}]}'])
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_an_odd_200_is_invalid(server: OpenAIServer, provider: OpenAIProvider, body: str, content_type: str) -> None:
    """Whatever the SDK makes of it: a str, None, a list, an object of Nones, an exception."""
    server.behave(body=body, headers={"content-type": content_type})
    assert type(failure_of(provider)) is InvalidAnswer


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_cannot_be_decompressed_is_invalid(
    server: OpenAIServer, provider: OpenAIProvider, encoding: str
) -> None:
    """It arrived whole, so the connection was not at fault."""
    server.behave(body="This is not compressed.", headers={"content-encoding": encoding})
    assert type(failure_of(provider)) is InvalidAnswer


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (400, CallRefused),
        (401, AuthenticationFailed),
        (402, QuotaExceeded),
        (403, AuthenticationFailed),
        (404, CallRefused),
        (408, ProviderBusy),
        (409, ProviderBusy),
        (413, CallRefused),
        (422, CallRefused),
        (429, RateLimited),
        (500, ProviderServerError),
        (502, ProviderServerError),
        (503, ProviderOverloaded),
        (504, ProviderTimeout),
        (529, ProviderOverloaded),
    ],
)
@pytest.mark.parametrize("body", [None, "<html>no</html>", "", "[]"])
def test_an_error_is_one_call_and_one_class(
    server: OpenAIServer, provider: OpenAIProvider, status: int, meaning: type[ProviderError], body: str | None
) -> None:
    """The SDK's own retries are off, whether the error is in the vendor's shape or a proxy's."""
    server.behave(status=status, body=body, headers={"retry-after-ms": "1500", "x-should-retry": "true"})
    failure = failure_of(provider)
    assert type(failure) is meaning
    assert failure.retry_after_seconds == 1.5
    assert server.total == 1


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


@pytest.mark.parametrize("mode", ["cut", "close"])
def test_a_connection_that_breaks_is_one_call(server: OpenAIServer, provider: OpenAIProvider, mode: str) -> None:
    """In the middle of the body or before the first byte; the call may have been billed, so it is not repeated."""
    server.behave(mode=mode)
    assert type(failure_of(provider)) is AnswerLost
    assert server.total == 1


def test_a_server_that_is_not_there_is_unreachable() -> None:
    """No port, or no such name."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    for base_url in (f"http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"):
        with asking(base_url) as provider:
            assert type(failure_of(provider)) is ProviderUnreachable


@pytest.mark.parametrize("mode", ["hang", "trickle", "trickle_headers"])
def test_the_deadline_is_total(server: OpenAIServer, provider: OpenAIProvider, mode: str) -> None:
    """However slowly the server sends, the call ends in time, and it was one."""
    server.behave(mode=mode)
    assert DEADLINE <= seconds_until_failure(provider, ProviderTimeout) < DEADLINE + TOLERANCE
    assert server.total == 1


def test_the_deadline_holds_while_connecting() -> None:
    """A host that takes no connections: it was never asked, so it is unreachable."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        provider = stack.enter_context(asking(f"http://127.0.0.1:{full.getsockname()[1]}/v1"))
        assert seconds_until_failure(provider, ProviderUnreachable) < DEADLINE + TOLERANCE


def test_the_deadline_holds_while_sending() -> None:
    """A server that takes a large request a little at a time does not hold the caller."""
    large = call_with(TEXTS.model_copy(update={"essay_a": "word " * 3_000_000}))
    # Enough for a busy machine to write the body, and too little to send it.
    seconds = 2.0
    with slow_reader() as base_url, asking(base_url) as provider:
        waited = seconds_until_failure(provider, ProviderTimeout, seconds=seconds, call=large)
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


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_deadline_that_has_passed_sends_nothing(
    server: OpenAIServer, provider: OpenAIProvider, seconds: float
) -> None:
    """Not even a connection is opened, so nothing can have been billed."""
    opened = server.connections
    assert type(failure_of(provider, seconds)) is ProviderUnreachable
    assert server.connections == opened


def test_a_good_call_follows_a_bad_one(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """A connection that failed is not used again."""
    for mode in ("hang", "cut", "close", "trickle", "500", "invalid_json"):
        server.behave(mode=mode)
        failure_of(provider, 0.1)
        server.behave()
        assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


# Many threads


def test_200_threads_share_one_client(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """All at once, none waits for another's connection, and each gets its own answer."""
    server.behave(latency_ms=1200)
    before = server.connections

    def ask_as(number: int) -> ProviderAnswer:
        texts = TEXTS.model_copy(update={"user_prompt": f"id=thread-{number} {'x' * number * 40}"})
        return ask(provider, 10.0, call_with(texts))

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask_as, range(200)))
    assert server.peak > 100
    assert server.connections - before <= 200
    assert server.by_id == {f"thread-{number}": 1 for number in range(200)}
    # A longer prompt has more tokens, so an answer that went to another thread would break the order.
    tokens = [answer.token_usage.prompt_tokens for answer in answers]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 200


def test_connections_are_kept_for_the_next_call(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Ten calls one after another need one."""
    before = server.connections
    for _ in range(10):
        ask(provider)
    assert server.connections - before == 1


def test_the_deadline_holds_for_many_threads_at_once(server: OpenAIServer, provider: OpenAIProvider) -> None:
    """Each thread has its own."""
    server.behave(mode="trickle")
    with ThreadPoolExecutor(40) as pool:
        waits: list[Any] = [pool.submit(seconds_until_failure, provider, ProviderTimeout) for _ in range(40)]
        assert max(wait.result() for wait in waits) < DEADLINE + 2 * TOLERANCE


def test_after_closing_a_new_call_opens_a_new_client(provider: OpenAIProvider) -> None:
    """Closing is no end that a late call would notice, and closing twice is nothing."""
    ask(provider)
    provider.close()
    provider.close()
    assert ask(provider)
