"""Every exception of the SDK and of its HTTP client has one meaning."""

import pickle
import traceback
from typing import Any, TypeVar, get_args

import anthropic
import httpx2
import pytest

from llm_provider.adapters.providers.anthropic_errors import MONEY_CODES, MONEY_MESSAGES, translate
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
from tests.unit.adapters.exceptions import exceptions_of, subclasses

E = TypeVar("E", bound=Exception)

SECRET = "zebra-secret-zebra"
KEY = "sk-ant-key-that-opens-nothing"
REQUEST = httpx2.Request(
    "POST", "http://vendor.test/v1/messages", json={"essay": SECRET}, headers={"authorization": KEY}
)

BY_STATUS: dict[int, type[ProviderError]] = {
    307: CallRefused,
    400: CallRefused,
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    404: CallRefused,
    408: ProviderBusy,
    409: ProviderBusy,
    412: CallRefused,
    413: CallRefused,
    418: CallRefused,
    422: CallRefused,
    429: RateLimited,
    431: CallRefused,
    499: CallRefused,
    500: ProviderServerError,
    501: ProviderServerError,
    502: ProviderServerError,
    503: ProviderOverloaded,
    504: ProviderTimeout,
    529: ProviderOverloaded,
}

# Codes that speak of money or quotas, and still are not about an account that is used up.
NOT_THE_ACCOUNT = {
    "spend_limits_admin_api_writes_not_enabled",  # Of the API for administrators.
    "storage_quota_exceeded",  # Of the API for files.
    "user_profile_billing_not_authorized",  # Of calls that name a customer's profile, as ours never do.
    "user_profile_not_billable",  # Likewise.
}

# What no call of ours can raise, because it belongs to other parts of the SDK; it still gets a meaning.
ELSEWHERE = {
    # Looking for credentials in files and the environment, which a given key prevents.
    *{"CredentialsError", "IdentityTokenFileError", "WorkloadIdentityError", "_NonObjectPayloadError"},
    # Vendors that host the same models.
    *{"MutuallyExclusiveAuthError", "MissingDependencyError"},
    # Webhooks, middleware and streams.
    *{"APIWebhookValidationError", "RetryableError", "StreamAlreadyConsumed", "MissingStreamClassError"},
    # Tools that run on the client's side.
    *{"AsyncOnSyncToolsetError", "BrowserStateError", "ConfirmDeclinedError", "ConfirmFailedError"},
    *{"DisabledMemberError", "FileStoreError", "InvalidMemberInputError", "NestedCallError", "SessionMemoryError"},
    *{"SyncOnAsyncToolsetError", "TabMissingError", "ToolError", "ToolsetClosedError", "ToolsetConfigError"},
    *{"ToolsetContractError", "ToolsetUsageError", "ToolsetsFixedError", "URLRefusedError", "UnavailableMemberError"},
    *{"UnknownMemberError", "UploadNoRootsError", "UploadOutsideRootsError", "UploadRefusedError"},
    "UnsupportedMCPValueError",
}


def status_error(
    status: int, code: str | None = None, body: Any = None, headers: dict[str, str] | None = None
) -> anthropic.APIStatusError:
    """The error that the SDK itself makes of a response."""
    error = {"type": "an_error", "message": SECRET, "details": {"error_code": code}}
    whole = {"type": "error", "error": error, "request_id": "req_1"} if body is None else body
    response = httpx2.Response(status, headers=headers, json=whole)
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: response))
    client = anthropic.Anthropic(api_key=KEY, base_url="http://vendor.test", max_retries=0, http_client=http)
    with client, pytest.raises(anthropic.APIStatusError) as raised:
        client.post("/v1/messages", cast_to=object, body={"essay": SECRET})
    return raised.value


def status_and_code(error: type[anthropic.APIStatusError]) -> tuple[int, str | None]:
    """What the SDK makes this class of, as the class itself says."""
    status = WITHOUT_A_STATUS.get(error) or int(getattr(error, "status_code", 500))
    codes = get_args(vars(error).get("__annotations__", {}).get("error_code"))
    return status, codes[0] if codes else None


WITHOUT_A_STATUS: dict[type[anthropic.APIStatusError], int] = {
    anthropic.APIStatusError: 418,
    anthropic.InternalServerError: 500,
}
STATUS_ERRORS: list[type[anthropic.APIStatusError]] = sorted(
    [anthropic.APIStatusError, *subclasses(anthropic.APIStatusError)], key=lambda error: error.__name__
)


def other_sdk_errors() -> list[tuple[Exception, type[ProviderError]]]:
    response = httpx2.Response(200, content=SECRET, request=REQUEST)
    return [
        (anthropic.AnthropicError(SECRET), ProviderError),
        (anthropic.APIError(SECRET, REQUEST, body=SECRET), ProviderError),
        (anthropic.APIConnectionError(message=SECRET, request=REQUEST), AnswerLost),
        (anthropic.APITimeoutError(REQUEST), ProviderTimeout),
        (anthropic.APIResponseValidationError(response, SECRET, message=SECRET), InvalidAnswer),
    ]


@pytest.mark.parametrize(("status", "meaning"), BY_STATUS.items())
def test_every_status_has_one_meaning(status: int, meaning: type[ProviderError]) -> None:
    """The status decides, whichever class the SDK chose for it; it is told in the details."""
    failure = translate(status_error(status))
    assert type(failure) is meaning
    assert failure.details == {"http_status": status}


@pytest.mark.parametrize("error", STATUS_ERRORS, ids=lambda error: error.__name__)
def test_every_class_with_a_status_has_one_meaning(error: type[anthropic.APIStatusError]) -> None:
    """There is one for nearly every code: what is about money is final, and the status decides on the others."""
    status, code = status_and_code(error)
    raised = status_error(status, code)
    assert type(raised) is error
    assert type(translate(raised)) is (QuotaExceeded if code in MONEY_CODES else BY_STATUS[status])


def test_every_code_that_speaks_of_money_has_been_looked_at() -> None:
    """A new version of the SDK that knows another one makes this fail."""
    codes = {code for _, code in map(status_and_code, STATUS_ERRORS) if code is not None}
    of_money = {code for code in codes if any(word in code for word in ("spend", "bill", "credit", "quota", "pay"))}
    assert of_money - MONEY_CODES == NOT_THE_ACCOUNT
    assert MONEY_CODES - codes == {"billing_error"}  # That one is a type.


@pytest.mark.parametrize("code", sorted(MONEY_CODES))
@pytest.mark.parametrize("status", [400, 402, 403, 429])
def test_what_is_about_money_is_no_matter_of_waiting(status: int, code: str) -> None:
    """A 429 for an account that is used up is not retried, whether its code or its type says so."""
    for error in ({"type": code}, {"type": "an_error", "details": {"error_code": code}}):
        failure = translate(status_error(status, body={"type": "error", "error": error}))
        assert type(failure) is QuotaExceeded
        assert not failure.is_retryable


@pytest.mark.parametrize("words", MONEY_MESSAGES)
def test_a_limit_that_has_no_code_is_known_by_its_first_words(words: str) -> None:
    """Where they stand later, they may be a quotation."""
    for says, meaning in ((f"{words}. And more.", QuotaExceeded), (f"messages: {words}", CallRefused)):
        body = {"type": "error", "error": {"type": "invalid_request_error", "message": says}}
        assert type(translate(status_error(400, body=body))) is meaning


@pytest.mark.parametrize(
    "body",
    [
        [],
        "html",
        7,
        {},
        {"error": None},
        {"error": []},
        {"error": {"type": ["x"], "message": {"y": 1}, "details": "z"}},
        {"error": {"type": {}, "message": None, "details": {"error_code": [1]}}},
        {"error": {"type": 429, "details": [SECRET]}},
    ],
)
def test_an_error_of_an_unknown_shape_is_read_by_its_status(body: object) -> None:
    """A vendor's proxy does not speak the vendor's JSON."""
    failure = translate(status_error(429, body=body))
    assert type(failure) is RateLimited
    assert SECRET not in repr(vars(failure))


def test_what_the_vendor_says_about_waiting_is_kept() -> None:
    """Header names come in any case."""
    assert translate(status_error(429, headers={"Retry-After": "17"})).retry_after_seconds == 17.0
    assert translate(status_error(529, headers={"Retry-After-Ms": "250"})).retry_after_seconds == 0.25
    assert translate(status_error(503, headers={"Retry-After": "-17"})).retry_after_seconds is None


@pytest.mark.parametrize(("error", "meaning"), other_sdk_errors(), ids=lambda value: type(value).__name__)
def test_the_sdk_s_other_errors_have_one_meaning(error: Exception, meaning: type[ProviderError]) -> None:
    """Those without a status."""
    failure = translate(error)
    assert type(failure) is meaning
    assert failure.details == {"exception": type(error).__name__}


def test_an_answer_that_is_nested_too_deep_is_invalid() -> None:
    """No verdict is."""
    assert type(translate(RecursionError(SECRET))) is InvalidAnswer


def test_no_exception_of_the_sdk_is_unknown_here() -> None:
    """A new version of the SDK that adds one makes this fail, unless it is one with a status, which are all tried."""
    tried = {*STATUS_ERRORS, *(type(error) for error, _ in other_sdk_errors())}
    found = {error for error in exceptions_of(anthropic) if issubclass(error, Exception)}
    assert tried <= found
    assert {error.__name__ for error in found - tried} <= ELSEWHERE


def test_nothing_of_the_vendor_or_the_essays_passes() -> None:
    """Neither the message, nor the details, nor a chained exception, nor an attribute, nor a pickled copy holds it."""
    errors = [status_error(status) for status in BY_STATUS] + [error for error, _ in other_sdk_errors()]
    for error in errors:
        failure = translate(error)
        copy = pickle.loads(pickle.dumps(failure))  # noqa: S301 - It was pickled here.
        assert (type(copy), vars(copy)) == (type(failure), vars(failure))
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure)) + str(pickle.dumps(failure))
        assert SECRET not in shown
        assert KEY not in shown
        assert failure.__cause__ is None
        assert failure.__context__ is None
