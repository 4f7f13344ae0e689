"""Every exception of the OpenAI SDK and of its HTTP client, as one class of our tree.

What is made here holds plain values only: the SDK's exceptions carry the request with the essays in it and
texts of the vendor that may quote them, and they cannot be unpickled.
"""

from datetime import UTC, datetime

import httpx2
import openai

from llm_provider.adapters.providers.retry_after import retry_after_seconds
from llm_provider.errors import (
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)

# https://platform.openai.com/docs/guides/error-codes: these come as 429 too, but waiting does not help.
MONEY_CODES = frozenset(
    {
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)

_BY_STATUS: dict[int, type[ProviderError]] = {
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    408: ProviderTimeout,
    409: ProviderOverloaded,  # Two calls met at a lock of the vendor's; the SDK's own retries wait here, too.
    429: RateLimited,
    503: ProviderOverloaded,
    529: ProviderOverloaded,
}

# The first that fits counts. A call that never connected cannot have been billed, so it is no ProviderTimeout.
_BY_CLASS: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (openai.APIResponseValidationError, InvalidAnswer),
    (openai.LengthFinishReasonError, InvalidAnswer),
    (openai.ContentFilterFinishReasonError, InvalidAnswer),
    (openai.APITimeoutError, ProviderTimeout),
    (openai.APIConnectionError, ProviderUnreachable),
    (httpx2.ConnectTimeout, ProviderUnreachable),
    (httpx2.TimeoutException, ProviderTimeout),
    (httpx2.LocalProtocolError, CallRefused),
    (httpx2.UnsupportedProtocol, CallRefused),
    (httpx2.InvalidURL, CallRefused),
    (httpx2.TooManyRedirects, CallRefused),
    (httpx2.DecodingError, InvalidAnswer),
    (httpx2.RequestError, ProviderUnreachable),
    (UnicodeEncodeError, CallRefused),
    (ValueError, InvalidAnswer),  # JSONDecodeError and UnicodeDecodeError: a 200 whose body is not JSON.
)

_MESSAGES: dict[type[ProviderError], str] = {
    AuthenticationFailed: "openai does not accept the configured key, or not for this model.",
    CallRefused: "openai refuses this call as it stands.",
    InvalidAnswer: "openai answered with something that cannot be read.",
    ProviderError: "The call to openai failed for an unknown reason.",
    ProviderOverloaded: "openai cannot serve the call now.",
    ProviderServerError: "openai failed to serve the call.",
    ProviderTimeout: "openai gave no complete answer in time.",
    ProviderUnreachable: "There was no connection to openai, or it broke before the answer was complete.",
    QuotaExceeded: "The quota or the credit of the openai account is used up.",
    RateLimited: "openai limits the rate of calls.",
}


def translate(error: Exception) -> ProviderError:
    """Say what an exception from a call means; it is never the new error's cause or context."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    failure = _class_of(_transport_error_behind(error))
    details: dict[str, str | int | float | bool] = {"exception": type(error).__name__}
    return failure(_MESSAGES[failure], details=details)


def _of_status(error: openai.APIStatusError) -> ProviderError:
    failure = QuotaExceeded if _is_about_money(error) else _class_of_status(error.status_code)
    return failure(
        _MESSAGES[failure],
        retry_after_seconds=retry_after_seconds(error.response.headers, now=datetime.now(UTC)),
        details={"http_status": error.status_code},
    )


def _is_about_money(error: openai.APIStatusError) -> bool:
    # As text, because the SDK does not check what a vendor put there.
    return str(error.code) in MONEY_CODES or str(error.type) in MONEY_CODES


def _class_of_status(status: int) -> type[ProviderError]:
    return _BY_STATUS.get(status) or (ProviderServerError if status >= 500 else CallRefused)


def _transport_error_behind(error: Exception) -> Exception:
    """The SDK calls every failure of the connection the same and keeps the precise one as its cause."""
    cause = error.__cause__
    if isinstance(error, openai.APIConnectionError) and isinstance(cause, httpx2.HTTPError):
        return cause
    return error


def _class_of(error: Exception) -> type[ProviderError]:
    return next((failure for known, failure in _BY_CLASS if isinstance(error, known)), ProviderError)
