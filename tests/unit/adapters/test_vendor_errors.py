"""What is below every SDK has one meaning, whoever raises it: httpx2's exceptions, and Python's own."""

import ast
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from contracts.enums import LLMProviderType
from llm_provider.adapters import providers
from llm_provider.adapters.providers import anthropic_errors, google_errors, openai_errors
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    CallUnsendable,
    InvalidAnswer,
    ProviderError,
    ProviderTimeout,
    ProviderUnreachable,
)
from tests.unit.adapters.exceptions import exceptions_of

SECRET = "zebra-secret-zebra"
REQUEST = httpx2.Request("POST", "http://vendor.test/v1", json={"essay": SECRET})

Translate = Callable[[Exception], ProviderError]

TRANSLATORS: dict[str, Translate] = {
    "anthropic": anthropic_errors.translate,
    "google": google_errors.translate,
    "openai": partial(openai_errors.translate, LLMProviderType.OPENAI),
    "openrouter": partial(openai_errors.translate, LLMProviderType.OPENROUTER),
}

# What an SDK makes of httpx2's exceptions; Google's lets them through as they are.
WRAPPERS: list[tuple[str, Callable[..., Exception] | None]] = [
    *((name, None) for name in TRANSLATORS),
    ("anthropic", anthropic.APIConnectionError),
    ("anthropic", anthropic.APITimeoutError),
    ("openai", openai.APIConnectionError),
    ("openai", openai.APITimeoutError),
]

# The client library's exceptions about its own use, of which the SDK makes a correct one.
MISUSE = {
    "CookieConflict",
    "HTTPError",
    "HTTPStatusError",
    "HTTPXDeprecationWarning",
    "QueueShutDown",
    "RequestNotRead",
    "ResponseNotRead",
    "StreamClosed",
    "StreamConsumed",
    "StreamError",
}

TRANSPORT = {
    "CloseError": AnswerLost,
    "ConnectError": ProviderUnreachable,
    "ConnectTimeout": ProviderUnreachable,
    "DecodingError": InvalidAnswer,
    "InvalidURL": CallUnsendable,
    "LocalProtocolError": CallUnsendable,
    "NetworkError": AnswerLost,
    "PoolTimeout": ProviderUnreachable,
    "ProtocolError": AnswerLost,
    "ProxyError": ProviderUnreachable,
    "ReadError": AnswerLost,
    "ReadTimeout": ProviderTimeout,
    "RemoteProtocolError": AnswerLost,
    "RequestError": AnswerLost,
    "SSEError": AnswerLost,
    "TimeoutException": ProviderTimeout,
    "TooManyRedirects": CallRefused,
    "TransportError": AnswerLost,
    "UnsupportedProtocol": CallUnsendable,
    "WriteError": AnswerLost,
    "WriteTimeout": ProviderUnreachable,
}


HTTPX2 = {found.__name__: found for found in exceptions_of(httpx2)}


@pytest.fixture(params=TRANSLATORS)
def translate(request: pytest.FixtureRequest) -> Translate:
    return TRANSLATORS[request.param]


@pytest.mark.parametrize(("name", "meaning"), TRANSPORT.items())
@pytest.mark.parametrize(("vendor", "wrapper"), WRAPPERS)
def test_a_failure_of_the_connection_means_the_same_bare_or_wrapped(
    vendor: str, wrapper: Callable[..., Exception] | None, name: str, meaning: type[ProviderError]
) -> None:
    """Some SDKs wrap most of them and say less than the cause does."""
    error: Exception = getattr(httpx2, name)(SECRET)
    if wrapper is not None and isinstance(error, httpx2.HTTPError):
        error, cause = wrapper(request=REQUEST), error
        error.__cause__ = cause
    assert type(TRANSLATORS[vendor](error)) is meaning


def test_half_a_call_says_that_it_was_not_sent(translate: Translate) -> None:
    """There was a connection, so its message speaks of none that was missing."""
    message = translate(httpx2.WriteTimeout(SECRET)).message
    assert "completely in time" in message
    assert "no connection" not in message


def test_a_redirect_is_the_base_urls_fault(translate: Translate) -> None:
    """Should a client follow one, and then another."""
    assert "base URL" in translate(httpx2.TooManyRedirects(SECRET)).message


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (json.JSONDecodeError(SECRET, SECRET, 0), InvalidAnswer),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, SECRET), InvalidAnswer),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, SECRET), CallUnsendable),
        (RecursionError(SECRET), InvalidAnswer),
        (TypeError(SECRET), ProviderError),
    ],
)
def test_anything_else_is_a_provider_error_too(
    translate: Translate, error: Exception, meaning: type[ProviderError]
) -> None:
    """The port promises that nothing else is raised."""
    assert type(translate(error)) is meaning


def test_an_error_of_ours_stays_as_it_is(translate: Translate) -> None:
    """What is already translated is not translated again."""
    ours = AuthenticationFailed("No key.")
    assert translate(ours) is ours


def test_no_exception_of_the_http_client_is_unknown_here() -> None:
    """A new version of httpx2 that adds one, or drops one, makes this fail."""
    assert set(HTTPX2) == set(TRANSPORT) | MISUSE


@pytest.mark.parametrize("path", sorted(Path(providers.__file__ or "").parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_private_part_of_an_sdk_is_imported(path: Path) -> None:
    """Any release may move one, and then no process would start."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names]
    foreign = [name for name in (*whole, *parts) if not name.startswith("llm_provider.")]

    assert not [name for name in foreign if any(part.startswith("_") for part in name.split("."))]


@pytest.mark.parametrize("name", sorted(MISUSE))
def test_what_no_call_raises_is_a_provider_error_all_the_same(translate: Translate, name: str) -> None:
    """Should one come, however little there is in it."""
    foreign = HTTPX2[name]
    # Some are for asyncio, which cancels with what is no Exception.
    if issubclass(foreign, Exception):
        assert isinstance(translate(foreign.__new__(foreign)), ProviderError)
