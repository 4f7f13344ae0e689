"""Every exception of the SDK and of its HTTP client has one meaning."""

import json
import traceback
from typing import Any

import httpx2
import openai
import pytest

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_errors import MONEY_CODES, of_told_error, translate
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
    QuotaExceeded,
    RateLimited,
)
from tests.unit.adapters.exceptions import exceptions_of

SECRET = "zebra-secret-zebra"
REQUEST = httpx2.Request("POST", "http://vendor.test/v1", json={"essay": SECRET})
BODY = {"message": SECRET, "type": "an_error", "param": None, "code": None}

BY_STATUS = {
    307: CallRefused,
    400: CallRefused,
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    404: CallRefused,
    405: CallRefused,
    408: ProviderTimeout,
    409: ProviderBusy,
    413: CallRefused,
    422: CallRefused,
    429: RateLimited,
    451: CallRefused,
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
    599: ProviderServerError,
}

# What no call of ours can raise, because it belongs to other parts of the SDK; it still gets a meaning.
ELSEWHERE = {
    "APIRemovedInV1",
    "AgentFilePreparationError",
    "AgentFileStagingError",
    "AgentOutputParseError",
    "AgentTurnResultError",
    "BrowserCancelledError",
    "BrowserError",
    "ComputerUseError",
    "DecisionsToolRunnerCancelledError",
    "DecisionsToolRunnerError",
    "InvalidWebhookSignatureError",
    "MissingDependencyError",
    "MissingStreamClassError",
    "MutuallyExclusiveAuthError",
    "OAuthError",
    "ResponsesWebSocketBufferError",
    "ResponsesWebSocketError",
    "StreamAlreadyConsumed",
    "SubjectTokenProviderError",
    "ToolRunnerCancelledError",
    "ToolRunnerError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "_AmbiguousModuleClientUsageError",
    "_TransientTokenExchangeError",
}


def meaning_of(error: Exception) -> ProviderError:
    return translate(LLMProviderType.OPENROUTER, error)


def status_error(status: int, body: Any = BODY, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """The error that the SDK itself makes of a response."""
    response = httpx2.Response(status, headers=headers, json={"error": body})
    with httpx2.Client(transport=httpx2.MockTransport(lambda _: response)) as transport:
        client = openai.OpenAI(api_key="key", base_url=str(REQUEST.url), max_retries=0, http_client=transport)
        with pytest.raises(openai.APIStatusError) as raised:
            client.post("/chat/completions", cast_to=object, body={"essay": SECRET})
    return raised.value


def other_sdk_errors() -> list[tuple[Exception, type[ProviderError]]]:
    response = httpx2.Response(200, content=SECRET, request=REQUEST)
    completion: Any = type("Completion", (), {"usage": SECRET})()
    return [
        (openai.OpenAIError(SECRET), ProviderError),
        (openai.APIError(SECRET, REQUEST, body=BODY), ProviderError),
        (openai.APIConnectionError(message=SECRET, request=REQUEST), AnswerLost),
        (openai.APITimeoutError(REQUEST), ProviderTimeout),
        (openai.APIResponseValidationError(response, BODY, message=SECRET), InvalidAnswer),
        (openai.LengthFinishReasonError(completion=completion), InvalidAnswer),
        (openai.ContentFilterFinishReasonError(completion=completion), InvalidAnswer),
    ]


@pytest.mark.parametrize(("status", "meaning"), BY_STATUS.items())
def test_every_status_has_one_meaning(status: int, meaning: type[ProviderError]) -> None:
    """The status decides, whichever class the SDK chose for it; it is told in the details."""
    failure = meaning_of(status_error(status))
    assert type(failure) is meaning
    assert failure.details == {"http_status": status}


@pytest.mark.parametrize(
    ("status", "told", "says"),
    [
        (400, {"code": "context_length_exceeded"}, "longer than the model"),
        (400, {"code": "string_above_max_length"}, "longer than the model"),
        (413, {}, "longer than the model"),
        (400, {"code": "content_filter"}, "blocked this prompt"),
        (400, {"code": "invalid_prompt"}, "blocked this prompt"),
        (403, {"metadata": {"flagged_input": SECRET}}, "blocked this prompt"),
        (404, {"code": "model_not_found"}, "no such model"),
        (400, {"code": "of_next_year"}, "refuses this call"),
        (401, {"code": "content_filter"}, "configured key"),
        (500, {"code": "context_length_exceeded"}, "failed to serve"),
    ],
)
def test_a_refusal_says_what_can_be_done_about_it(status: int, told: dict[str, Any], says: str) -> None:
    """In our words, as far as the vendor tells them apart."""
    failure = meaning_of(status_error(status, {"message": SECRET, **told}))
    assert says in failure.message
    assert SECRET not in failure.message


@pytest.mark.parametrize("code", sorted(MONEY_CODES))
@pytest.mark.parametrize("place", ["code", "type"])
@pytest.mark.parametrize("status", [400, 403, 429])
def test_what_is_about_money_is_no_matter_of_waiting(status: int, place: str, code: str) -> None:
    """A 429 for an empty account is not retried."""
    failure = meaning_of(status_error(status, {**BODY, place: code}))
    assert type(failure) is QuotaExceeded
    assert not failure.is_retryable


@pytest.mark.parametrize("body", [None, [], "html", 7, {}, {"code": ["x"], "type": {"y": 1}}, {"code": 429}])
def test_an_error_of_an_unknown_shape_is_read_by_its_status(body: object) -> None:
    """A vendor's proxy does not speak the vendor's JSON."""
    assert type(meaning_of(status_error(429, body))) is RateLimited


def test_what_the_vendor_says_about_waiting_is_kept() -> None:
    """Header names come in any case."""
    failure = meaning_of(status_error(429, headers={"Retry-After": "17"}))
    assert failure.retry_after_seconds == 17.0
    assert meaning_of(status_error(503, headers={"Retry-After": "-17"})).retry_after_seconds is None


@pytest.mark.parametrize(("error", "meaning"), other_sdk_errors(), ids=lambda value: type(value).__name__)
def test_the_sdk_s_other_errors_have_one_meaning(error: Exception, meaning: type[ProviderError]) -> None:
    """Those without a status."""
    failure = meaning_of(error)
    assert type(failure) is meaning
    assert failure.details == {"exception": type(error).__name__}


def test_an_answer_that_is_nested_too_deep_is_a_provider_error() -> None:
    """The port promises that nothing else is raised."""
    assert type(meaning_of(RecursionError(SECRET))) is InvalidAnswer


def test_no_exception_of_the_sdk_is_unknown_here() -> None:
    """A new version of the SDK that adds one, or drops one, makes this fail."""
    tried = {type(status_error(status)).__name__ for status in BY_STATUS}
    tried |= {type(error).__name__ for error, _ in other_sdk_errors()}
    assert {found.__name__ for found in exceptions_of(openai)} == tried | ELSEWHERE


def test_what_no_call_raises_is_a_provider_error_all_the_same() -> None:
    """Should one come, however little there is in it."""
    elsewhere = [found for found in exceptions_of(openai) if found.__name__ in ELSEWHERE]
    for foreign in elsewhere:
        # Some are for asyncio, which cancels with what is no Exception; a status is read above.
        if issubclass(foreign, Exception) and not issubclass(foreign, openai.APIStatusError):
            assert isinstance(meaning_of(foreign.__new__(foreign)), ProviderError)


def test_whoever_failed_is_named() -> None:
    """The same SDK speaks for two vendors."""
    for error in (status_error(500), json.JSONDecodeError("no", "", 0), openai.APITimeoutError(REQUEST)):
        for provider in (LLMProviderType.OPENAI, LLMProviderType.OPENROUTER):
            named = {name for name in LLMProviderType if name in translate(provider, error).message}
            assert named == {provider}


@pytest.mark.parametrize(
    "told", [None, SECRET, [SECRET], 7, {}, {"code": {}}, {"metadata": [SECRET], "code": "9" * 5000}]
)
def test_an_error_told_in_an_unknown_shape_is_the_vendor_s(told: object) -> None:
    """It came in place of an answer, so something failed, and nothing of it is shown."""
    failure = of_told_error(LLMProviderType.OPENROUTER, told)
    assert type(failure) is ProviderServerError
    assert SECRET not in repr(failure) + repr(vars(failure))


@pytest.mark.parametrize("wait", ["17", True, -1, 10**400, float("nan"), None, [1]])
def test_a_wait_told_in_an_unknown_shape_is_none(wait: object) -> None:
    """Only a number of seconds is one."""
    failure = of_told_error(LLMProviderType.OPENROUTER, {"code": 429, "availability": {"retry_after": wait}})
    assert (type(failure), failure.retry_after_seconds) == (RateLimited, None)


def test_nothing_of_the_vendor_or_the_essays_passes() -> None:
    """Neither the message, nor the details, nor a chained exception, nor an attribute holds a foreign text."""
    errors = [status_error(status) for status in BY_STATUS] + [error for error, _ in other_sdk_errors()]
    for error in errors:
        failure = meaning_of(error)
        assert SECRET not in "".join(traceback.format_exception(failure)) + repr(vars(failure))
        assert failure.__cause__ is None
        assert failure.__context__ is None
