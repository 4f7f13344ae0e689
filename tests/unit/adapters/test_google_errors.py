"""Every exception of the SDK and of its HTTP client has one meaning."""

import importlib
import json
import pickle
import pkgutil
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import _gaos, errors
from google.genai._api_client import EphemeralTokenAPIKeyError

from llm_provider.adapters.providers.google_errors import LONG_QUOTAS, translate
from llm_provider.errors import (
    AuthenticationFailed,
    CallRefused,
    CallUnsendable,
    InvalidAnswer,
    KeyUnusable,
    ProviderBusy,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    QuotaExceeded,
    RateLimited,
)
from tests.unit.adapters.exceptions import subclasses

SECRET = "zebra-secret-zebra"
REQUEST = httpx2.Request("POST", "http://vendor.test", json={"essay": SECRET}, headers={"x-goog-api-key": SECRET})
RPC = "type.googleapis.com/google.rpc"

BY_STATUS = {
    204: InvalidAnswer,
    307: CallRefused,
    400: CallRefused,
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    404: CallRefused,
    405: CallRefused,
    408: ProviderBusy,
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
    529: ProviderOverloaded,
    599: ProviderServerError,
}

# The SDK's exceptions without a status that a call of ours may raise.
OF_OUR_CALLS = {
    "EphemeralTokenAPIKeyError": KeyUnusable,
    "FunctionInvocationError": CallUnsendable,
    "UnknownApiResponseError": InvalidAnswer,
    "UnknownFunctionCallArgumentError": CallUnsendable,
    "UnsupportedFunctionError": CallUnsendable,
}

# Those that belong to parts of the SDK that we do not use, by the module that they are in, and why.
ELSEWHERE = {
    "google.genai._gaos": "The client of the Interactions API, generated apart, with its own exceptions.",
    "google.genai._interactions": "The Interactions API's public names for them.",
    "google.genai._common.ExperimentalWarning": "A warning about other parts of the API.",
    "google.genai.errors.ContinuationInterruptedError": "Of the Interactions API's continuation.",
}


def status_error(status: int, body: Any = None, headers: dict[str, str] | None = None) -> errors.APIError:
    """The error that the SDK itself makes of a response; its message quotes the prompt."""
    said = {"error": {"code": status, "message": f"Trouble with {SECRET}", "status": "X"}} if body is None else body
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    response = httpx2.Response(status, headers=headers, content=content, request=REQUEST)
    with pytest.raises(errors.APIError) as raised:
        errors.APIError.raise_for_response(response)
    return raised.value


def saying(*details: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"error": {"message": f"Trouble with {SECRET}", "details": list(details), **fields}}


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{RPC}.{kind}", **fields}


def sdk_errors() -> dict[str, type[BaseException]]:
    """All of the SDK's, once all its modules are imported that can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in sdk_modules():
            # Some want libraries that are not installed, so that their exceptions cannot come up.
            with suppress(ImportError):
                importlib.import_module(module)
    found = set(subclasses(BaseException))
    return {f"{c.__module__}.{c.__qualname__}": c for c in found if c.__module__.startswith("google.genai.")}


def sdk_modules() -> Iterator[str]:
    own = pkgutil.iter_modules(genai.__path__, "google.genai.")
    generated = pkgutil.walk_packages(_gaos.__path__, "google.genai._gaos.")
    return (module.name for module in (*own, *generated) if not module.name.endswith(".tests"))


@pytest.mark.parametrize(("status", "meaning"), BY_STATUS.items())
def test_every_status_has_one_meaning(status: int, meaning: type[ProviderError]) -> None:
    """The status decides, whichever class the SDK chose for it; it is told in the details."""
    failure = translate(status_error(status))
    assert type(failure) is meaning
    assert failure.details == {"http_status": status}


@pytest.mark.parametrize("period", LONG_QUOTAS)
def test_a_long_quota_that_is_used_up_is_no_matter_of_waiting(period: str) -> None:
    """Among the quotas of a minute, which are said to be exceeded along with it."""
    violations = [
        {"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests"},
        {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"},
        {"quotaId": f"GenerateRequests{period}ProjectPerModel-FreeTier", "quotaValue": "250"},
    ]
    details = [of("Help", links=[]), of("QuotaFailure", violations=violations), of("RetryInfo", retryDelay="34s")]
    failure = translate(status_error(429, saying(*details)))
    assert type(failure) is QuotaExceeded
    assert not failure.is_retryable
    assert failure.retry_after_seconds == 34


def test_the_quota_of_a_minute_is_a_matter_of_waiting() -> None:
    """As long as its RetryInfo says."""
    violations = [{"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"}]
    failure = translate(
        status_error(429, saying(of("QuotaFailure", violations=violations), of("RetryInfo", retryDelay="17s")))
    )
    assert type(failure) is RateLimited
    assert failure.is_retryable
    assert failure.retry_after_seconds == 17


@pytest.mark.parametrize(
    "message",
    [
        "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
        "Your project has exceeded its monthly spending cap. Please go to AI Studio to manage it.",
    ],
)
def test_what_is_about_money_is_no_matter_of_waiting(message: str) -> None:
    """It comes as a 429 without details, and only as one: another status may quote an essay about spending caps."""
    assert type(translate(status_error(429, saying(message=message)))) is QuotaExceeded
    assert type(translate(status_error(400, saying(message=message)))) is CallRefused


def test_an_account_without_billing_is_about_money() -> None:
    """Its status is that of a key without rights."""
    failure = translate(status_error(403, saying(of("ErrorInfo", reason="BILLING_DISABLED"))))
    assert type(failure) is QuotaExceeded


@pytest.mark.parametrize(
    "body",
    [
        saying(of("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")),
        saying(of("LocalizedMessage"), of("ErrorInfo", reason="API_KEY_SERVICE_BLOCKED")),
        saying(status="FAILED_PRECONDITION"),
        [saying(of("ErrorInfo", reason="API_KEY_INVALID"))],
    ],
)
def test_a_400_may_be_about_the_key_or_its_account(body: object) -> None:
    """A wrong key is one, and a country without a free tier."""
    assert type(translate(status_error(400, body))) is AuthenticationFailed


@pytest.mark.parametrize(
    "body",
    [
        [],
        7,
        "html",
        {},
        b"<html>",
        b"",
        {"error": None},
        {"error": "text"},
        {"error": {"details": "text", "message": None}},
        {"error": {"details": [None, 7, {"@type": 7}, {"@type": f"{RPC}.QuotaFailure", "violations": {}}]}},
        {"error": {"details": [{"@type": f"{RPC}.QuotaFailure", "violations": [None, {"quotaId": 7}]}]}},
        {"error": {"code": "x", "status": ["x"]}},
    ],
)
def test_an_error_of_an_unknown_shape_is_read_by_its_status(body: object) -> None:
    """A vendor's proxy does not speak the vendor's JSON."""
    assert type(translate(status_error(429, body))) is RateLimited


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("17s", 17.0),
        ("0s", 0.0),
        ("34.074824224s", 34.074824224),
        ("43200s", 43_200.0),
        ("-1s", None),
        ("1.5", None),
        ("soon", None),
        (17, None),
        (None, None),
        ("9" * 400 + "s", None),
    ],
)
def test_a_retry_delay_is_a_duration(delay: object, seconds: float | None) -> None:
    """Nothing is made of what is none."""
    error = status_error(503, saying(of("RetryInfo", retryDelay=delay)))
    assert translate(error).retry_after_seconds == seconds


def test_the_headers_say_how_long_to_wait_when_the_body_does_not() -> None:
    """Their names come in any case."""
    assert translate(status_error(429, headers={"Retry-After": "17"})).retry_after_seconds == 17
    failure = translate(status_error(429, saying(of("RetryInfo", retryDelay="x")), {"retry-after": "3"}))
    assert failure.retry_after_seconds == 3


def test_a_key_that_the_sdk_does_not_send_is_about_the_key() -> None:
    """Nothing went out, so the vendor's health is not concerned."""
    failure = translate(EphemeralTokenAPIKeyError(SECRET))
    assert type(failure) is KeyUnusable
    assert (failure.was_sent, failure.shows_life) == (False, False)


def test_no_exception_of_the_sdk_is_unmapped() -> None:
    """A new version that brings a new one fails here."""
    found = sdk_errors()
    assert len(found) >= 39
    for name, kind in found.items():
        instance: Any = kind.__new__(kind)
        if issubclass(kind, errors.APIError):
            for status, meaning in BY_STATUS.items():
                assert type(translate(kind(status, {"error": {}}))) is meaning
        elif not name.startswith(tuple(ELSEWHERE)):
            assert type(translate(instance)) is OF_OUR_CALLS[kind.__name__]
        else:
            assert isinstance(translate(instance), ProviderError)


def test_a_translated_error_holds_plain_values_only() -> None:
    """It survives a pickle, and neither it nor its chain tells what the vendor wrote."""
    violation = {"quotaId": f"PerDay-{SECRET}", "description": SECRET}
    details = of("QuotaFailure", violations=[violation]), of("ErrorInfo", reason=SECRET, metadata={"x": SECRET})
    raised: list[Exception] = [status_error(status, saying(*details)) for status in (307, 400, 403, 429, 500, 503)]
    raised += [httpx2.ReadTimeout(SECRET), ValueError(SECRET), KeyError(SECRET)]
    for error in raised:
        failure = translate(error)
        copy = pickle.loads(pickle.dumps(failure))  # noqa: S301 - Our own bytes.
        assert vars(copy) == vars(failure)
        assert failure.__cause__ is failure.__context__ is None
        assert SECRET not in "".join(traceback.format_exception(failure)) + repr(vars(failure)) + repr(failure)
