"""What every provider does on the wire, whatever its vendor speaks: keys, deadlines, broken connections, threads.

What a vendor is sent and says is in the file of each.
"""

import gzip
import inspect
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from contracts.enums import EssayWinner, LLMProviderType
from llm_provider.adapters.pricing import NOTHING_COUNTED
from llm_provider.adapters.providers import bounded_response, deadline_transport
from llm_provider.adapters.providers.sdk_provider import SDKProvider
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    KeyUnusable,
    NotSentInTime,
    ProviderBusy,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import ProviderAnswer
from llm_provider.model_manifest import load_manifest
from tests.integration.vendor_server import VERDICT, VendorServer
from tests.integration.wire import (
    DEADLINE,
    KEY,
    TEXTS,
    TOLERANCE,
    WIRES,
    Wire,
    a_call,
    ask,
    failure_of,
    seconds_until_failure,
)

Server = VendorServer[Any]
Provider = SDKProvider[Any]


@pytest.fixture(scope="module", params=WIRES, ids=lambda wire: wire.build.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture(scope="module")
def running(wire: Wire) -> Iterator[Server]:
    with wire.server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    return running.at_rest()


@pytest.fixture
def provider(wire: Wire, server: Server) -> Iterator[Provider]:
    with wire.asking(server.base_url) as provider:
        yield provider


COMPRESSED = {"content-encoding": "gzip"}


def test_the_server_says_as_of_when_it_speaks(wire: Wire) -> None:
    """Vendors change their protocols, and whoever renews it has to know from where on."""
    about = inspect.getmodule(wire.server)
    assert about is not None
    assert re.search(r"\b(as of|of|on) 20\d\d-\d\d-\d\d\b", about.__doc__ or "")


# Keys


def test_a_key_that_ends_with_a_newline_works(wire: Wire, server: Server) -> None:
    """That is how a key comes out of a file."""
    with wire.asking(server.base_url, key=f"{KEY}\n") as provider:
        ask(provider)
    name, value = wire.key_header
    assert server.requests[0].headers[name] == value.format(KEY)


def test_without_a_key_nothing_is_sent(wire: Wire, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with the key of the environment."""
    for variable in wire.key_variables:
        monkeypatch.setenv(variable, "sk-other")
    with wire.asking(server.base_url, key=" ") as provider:
        assert not provider.is_configured()
        assert type(failure_of(provider)) is KeyUnusable
    assert server.total == 0


def test_a_redirect_is_not_followed(wire: Wire, server: Server, provider: Provider) -> None:
    """The key and the essays stay with the host that the settings name."""
    ask(provider)
    path = server.requests[0].path
    with wire.server() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            server.behave(status=status, headers={"location": f"http://127.0.0.1:{elsewhere.port}{path}"})
            failure = failure_of(provider)
            assert type(failure) is CallRefused
            assert "redirects" in failure.message
            assert "base URL" in failure.message
        assert elsewhere.connections == 0
    assert server.total == 6


# What is sent


def test_a_trial_is_as_cheap_as_it_can_be(wire: Wire, server: Server) -> None:
    """The model reasons as little as it can, whatever the setting says."""
    models = {
        LLMProviderType.ANTHROPIC: ("claude-opus-5-5", '"effort":"low"'),
        LLMProviderType.GOOGLE: ("gemini-3.8-flash", '"thinkingLevel":"LOW"'),
        LLMProviderType.OPENAI: ("gpt-6.1-terra", '"reasoning_effort":"none"'),
        LLMProviderType.OPENROUTER: ("openai/gpt-6.1-terra", '"effort":"none"'),
    }
    model, told = models[wire.build.name]
    with wire.asking(server.base_url, reasoning_effort="high", manifest=load_manifest()) as provider:
        ask(provider, call=a_call(model, is_trial=True))
    assert told in server.requests[0].body.decode().replace(" ", "")


def test_without_a_system_prompt_none_is_sent(server: Server, provider: Provider) -> None:
    """An empty message is an error to some."""
    ask(provider, call=a_call(provider.default_model, TEXTS.model_copy(update={"system_prompt": " "})))
    sent = server.requests[0].json()
    assert "system" not in sent
    assert "systemInstruction" not in sent
    assert [message["role"] for message in sent.get("messages", [])] in ([], ["user"])


# Errors


STATUSES = {
    400: CallRefused,
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    404: CallRefused,
    405: CallRefused,
    408: ProviderBusy,
    409: ProviderBusy,
    412: CallRefused,
    413: CallRefused,
    422: CallRefused,
    429: RateLimited,
    431: CallRefused,
    499: CallRefused,
    500: ProviderServerError,
    501: ProviderServerError,
    502: ProviderServerError,
    503: ProviderOverloaded,
    504: ProviderTimeout,
    520: AnswerLost,
    521: ProviderServerError,
    524: ProviderTimeout,
    529: ProviderOverloaded,
    598: ProviderTimeout,
}
# There it is the host of the model that did not answer in time.
ELSEWHERE = {(LLMProviderType.OPENROUTER, 408): ProviderTimeout}


@pytest.mark.parametrize(("status", "meaning"), STATUSES.items())
@pytest.mark.parametrize("body", [None, "<html>no</html>", "<html>\xe9", "", "[]", "null", '{"error": "no"}'])
def test_an_error_is_one_call_and_one_class(
    server: Server, provider: Provider, status: int, meaning: type[ProviderError], body: str | None
) -> None:
    """The SDK's own retries are off, whether the error is in the vendor's shape or a proxy's; our words name whose."""
    wait = {"retry-after-ms": "1500", "retry-after": "1.5", "x-should-retry": "true"}
    server.behave(status=status, body=body, headers=wait)
    failure = failure_of(provider)
    assert type(failure) is ELSEWHERE.get((provider.name, status), meaning)
    assert failure.retry_after_seconds == 1.5
    assert failure.details == {"http_status": status}
    assert {name for name in LLMProviderType if name in failure.message} == {provider.name}
    assert server.total == 1


@pytest.mark.parametrize("body", ["gzip", "cut", "trickle", "endless"])
@pytest.mark.parametrize(("status", "meaning"), [(400, CallRefused), (429, RateLimited), (503, ProviderOverloaded)])
def test_an_error_is_known_by_its_status_whatever_becomes_of_its_body(
    server: Server,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    meaning: type[ProviderError],
    body: str,
) -> None:
    """What the vendor would have said beside it is worth a moment, and its loss costs nobody another try."""
    monkeypatch.setattr(bounded_response, "ERROR_BODY_SECONDS", 0.3)
    monkeypatch.setattr(bounded_response, "ERROR_BODY_BYTES", 1000)
    broken: dict[str, dict[str, Any]] = {
        "gzip": {"body": "This is not compressed.", "headers": {"content-encoding": "gzip", "retry-after": "17"}},
        "cut": {"mode": "cut", "headers": {"retry-after": "17"}},
        "trickle": {"mode": "trickle", "headers": {"retry-after": "17"}},
        "endless": {"body": "x" * 100_000, "headers": {"retry-after": "17"}},
    }
    server.behave(status=status, **broken[body])
    begin = time.monotonic()
    failure = failure_of(provider)
    assert type(failure) is meaning
    assert (failure.retry_after_seconds, failure.details) == (17, {"http_status": status})
    assert time.monotonic() - begin < 2
    assert server.total == 1


def test_a_failure_says_what_was_left_out_too(server: Server, provider: Provider) -> None:
    """Whether the vendor refused the call or its answer was none."""
    call = a_call(provider.default_model, max_tokens=10**9)
    for trouble in ({"status": 400}, {"mode": "hang"}, {"mode": "invalid_json"}):
        server.behave(**trouble)
        assert failure_of(provider, 0.3, call).notes["dropped_parameters"] == ["max_tokens"]


@pytest.mark.parametrize(
    ("trouble", "is_noted"),
    [
        ({"mode": "hang"}, True),
        ({"mode": "cut"}, True),
        ({"mode": "invalid_json"}, True),
        ({"body": "{}"}, True),
        ({"body": '{"error": '}, True),
        ({"body": "\xff"}, True),
        ({"status": 504}, True),
        ({"status": 400}, False),
        ({"status": 429}, False),
        ({"status": 503}, False),
    ],
)
def test_a_cost_of_nothing_is_explained_where_the_vendor_may_bill(
    server: Server, provider: Provider, trouble: dict[str, Any], is_noted: bool
) -> None:
    """Whether an answer came and was none, or never came; who refuses a call bills nothing."""
    server.behave(**trouble)
    failure = failure_of(provider, 1.0)
    assert failure.cost_usd == 0
    assert failure.notes == ({"cost_note": NOTHING_COUNTED} if is_noted else {})


# Connections


@pytest.mark.parametrize("mode", ["cut", "close"])
def test_a_connection_that_breaks_is_one_call(server: Server, provider: Provider, mode: str) -> None:
    """In the middle of the body or before the first byte; the call may have been billed, so it is not repeated."""
    server.behave(mode=mode)
    failure = failure_of(provider)
    assert type(failure) is AnswerLost
    assert failure.may_be_billed
    assert server.total == 1


def test_a_server_that_is_not_there_is_unreachable(wire: Wire) -> None:
    """No port, or no such name."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    for base_url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
        with wire.asking(f"{base_url}{wire.server.path}") as provider:
            failure = failure_of(provider)
            assert type(failure) is ProviderUnreachable
            assert not failure.may_be_billed


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_cannot_be_decompressed_is_invalid(server: Server, provider: Provider, encoding: str) -> None:
    """It arrived whole, so the connection was not at fault."""
    server.behave(body="This is not compressed.", headers={"content-encoding": encoding})
    assert type(failure_of(provider)) is InvalidAnswer


def test_an_answer_without_end_is_not_read_to_its_end(
    server: Server, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor kept: no verdict is that long."""
    monkeypatch.setattr(bounded_response, "MAX_BYTES", 100_000)
    server.behave(body="x" * 1_000_000)
    failure = failure_of(provider)
    assert type(failure) is InvalidAnswer
    assert server.total == 1


@pytest.mark.parametrize("status", [200, 503])
def test_a_few_bytes_do_not_grow_to_any_size(
    server: Server, provider: Provider, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A gateway may compress though nobody asked for it; an error is known by its status all the same."""
    monkeypatch.setattr(bounded_response, "MAX_BYTES", 100_000)
    monkeypatch.setattr(bounded_response, "ERROR_BODY_BYTES", 100_000)
    server.behave(status=status, body=gzip.compress(b"x" * 50_000_000).decode("latin-1"), headers=COMPRESSED)
    assert type(failure_of(provider)) is (InvalidAnswer if status == 200 else ProviderOverloaded)


@pytest.mark.parametrize("holder", ["content", "choices", "candidates"])
def test_an_answer_of_a_million_empty_parts_is_not_read(server: Server, provider: Provider, holder: str) -> None:
    """An SDK makes an object of each, which took one of them a minute of the processor's time."""
    server.behave(body=f'{{"{holder}": [{"{}," * 1_000_000}{{}}]}}')
    assert seconds_until_failure(provider, InvalidAnswer, seconds=60) < 10


def test_no_compression_is_asked_for(server: Server, provider: Provider) -> None:
    """A few bytes of it could grow to any size."""
    ask(provider)
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_compressed_answer_is_read_all_the_same(server: Server, provider: Provider) -> None:
    """Some gateways compress whatever they are asked for."""
    server.behave()
    plain = server.answer(server_request(server, provider), server.behaviour)[1]
    server.behave(body=gzip.compress(plain).decode("latin-1"), headers=COMPRESSED)
    assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


def server_request(server: Server, provider: Provider) -> Any:
    """What the provider sends."""
    ask(provider)
    return server.requests[-1]


def test_cookies_are_not_kept(server: Server, provider: Provider) -> None:
    """They would bind all threads to one server of a gateway, and grow."""
    for number in range(3):
        server.behave(headers={"set-cookie": f"server-{number}=1; Path=/"})
        ask(provider)
    assert all("cookie" not in request.headers for request in server.requests)


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-16", "no-such-one"])
def test_json_is_utf_8_whatever_its_header_says(server: Server, provider: Provider, charset: str) -> None:
    """That is what the standard says."""
    server.behave(headers={"content-type": f"application/json; charset={charset}"})
    assert ask(provider).verdict.justification == VERDICT["justification"]


def test_connections_that_were_closed_meanwhile_cost_no_call(server: Server, provider: Provider) -> None:
    """A server that closes each one after its answer without a word: none of the calls on them was read by anybody."""
    server.behave(mode="last")
    for _ in range(200):
        assert ask(provider).verdict.winner is EssayWinner.ESSAY_B
    assert server.total == 200


def test_a_connection_that_breaks_at_its_second_call_is_one_call(server: Server, provider: Provider) -> None:
    """The first was answered on it; the second was read, and so may be billed."""
    for mode in ("close", "cut", "reset"):
        server.behave()
        ask(provider)
        server.reset()
        server.behave(mode=mode)
        assert type(failure_of(provider)) is AnswerLost
        assert server.total == 1


def test_a_certificate_that_nobody_trusts_says_so(wire: Wire, tmp_path: Path) -> None:
    """A slim image without ca-certificates ends here."""
    with tls_server(tmp_path) as port, wire.asking(f"https://127.0.0.1:{port}{wire.server.path}") as provider:
        failure = failure_of(provider)
    assert type(failure) is ProviderUnreachable
    assert "certificate" in failure.message


def test_a_good_call_follows_a_bad_one(server: Server, provider: Provider) -> None:
    """A connection that failed is not used again."""
    troubles: list[dict[str, Any]] = [{"mode": mode} for mode in ("hang", "cut", "close", "trickle", "invalid_json")]
    for trouble in (*troubles, {"status": 500}):
        server.behave(**trouble)
        failure_of(provider, 0.1)
        server.behave()
        assert ask(provider).verdict.winner is EssayWinner.ESSAY_B


def test_connections_are_kept_for_the_next_call(server: Server, provider: Provider) -> None:
    """Ten calls one after another need one."""
    before = server.connections
    for _ in range(10):
        ask(provider)
    assert server.connections - before == 1


def test_after_closing_a_new_call_opens_a_new_client(provider: Provider) -> None:
    """Closing is no end that a late call would notice, and closing twice is nothing."""
    ask(provider)
    provider.close()
    provider.close()
    assert ask(provider)


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """One with a certificate that it has signed itself; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(folder))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)

        def shake_hands() -> None:
            with suppress(OSError), listening.accept()[0] as connection:
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=shake_hands)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


def self_signed(folder: Path) -> Path:
    """A key and its certificate in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = folder / "server.pem"
    pem.write_bytes(secret + unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return pem


# Deadlines


@pytest.mark.parametrize("mode", ["hang", "trickle", "trickle_headers"])
@pytest.mark.parametrize("status", [200, 500])
def test_the_deadline_is_total(server: Server, provider: Provider, mode: str, status: int) -> None:
    """However slowly the server sends, the call ends in time, and it was one; an error's status may have come."""
    server.behave(mode=mode, status=status)
    meaning = ProviderServerError if (mode, status) == ("trickle", 500) else ProviderTimeout
    assert DEADLINE <= seconds_until_failure(provider, meaning) < DEADLINE + TOLERANCE
    assert server.total == 1


def test_the_deadline_holds_while_a_reset_is_waited_for(
    server: Server, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A used connection ends without a word: nobody waits beyond the deadline to learn whether the call was read."""
    monkeypatch.setattr(deadline_transport, "REJECTION_SECONDS", 5.0)
    ask(provider)
    server.behave(mode="close")
    assert seconds_until_failure(provider, AnswerLost, ProviderTimeout) < DEADLINE + TOLERANCE


def test_the_deadline_holds_while_connecting(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes no connections: nothing was sent, and whether it would take one later nobody knows."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        base_url = f"http://127.0.0.1:{full.getsockname()[1]}{wire.server.path}"
        provider = stack.enter_context(wire.asking(base_url))
        assert seconds_until_failure(provider, NotSentInTime) < DEADLINE + TOLERANCE
        monkeypatch.setattr(deadline_transport, "CONNECT_TIMEOUT_SECONDS", DEADLINE)
        assert seconds_until_failure(provider, ProviderUnreachable, seconds=5) < DEADLINE + TOLERANCE


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_deadline_that_has_passed_sends_nothing(server: Server, provider: Provider, seconds: float) -> None:
    """Not even a connection is opened, so nothing can have been billed."""
    opened = server.connections
    failure = failure_of(provider, seconds)
    assert type(failure) is NotSentInTime
    assert not failure.may_be_billed
    assert server.connections == opened


# Threads


def test_the_deadline_holds_for_many_threads_at_once(wire: Wire, server: Server, provider: Provider) -> None:
    """Each thread has its own."""
    with ThreadPoolExecutor(40) as pool:
        # Building the client, and 40 connections, takes a busy machine longer than the deadline.
        server.behave(latency_ms=500)
        list(pool.map(lambda _: ask(provider), range(40)))
        server.behave(mode="trickle")
        # Nor does it send all calls in time; what is asked here is when they end.
        either = (ProviderTimeout, NotSentInTime)
        waits: list[Any] = [pool.submit(seconds_until_failure, provider, *either) for _ in range(40)]
        assert max(wait.result() for wait in waits) < DEADLINE + wire.slack * TOLERANCE


def test_many_threads_share_one_client(wire: Wire, server: Server, provider: Provider) -> None:
    """All at once from the first call on, none waits for another's connection, and each gets its own answer."""
    server.behave(latency_ms=1200)
    before = server.connections
    together = threading.Barrier(wire.threads)

    def ask_as(number: int) -> ProviderAnswer:
        texts = TEXTS.model_copy(update={"user_prompt": f"id=thread-{number} {'x' * number * 40}"})
        call = a_call(provider.default_model, texts)
        together.wait()
        return ask(provider, 10.0, call)

    with ThreadPoolExecutor(wire.threads) as pool:
        answers = list(pool.map(ask_as, range(wire.threads)))
    assert server.peak > wire.threads / 2
    assert server.connections - before <= wire.threads
    assert server.by_id == {f"thread-{number}": 1 for number in range(wire.threads)}
    # A longer prompt has more tokens, so an answer that went to another thread would break the order.
    tokens = [answer.token_usage.prompt_tokens for answer in answers]
    assert tokens == sorted(tokens)
