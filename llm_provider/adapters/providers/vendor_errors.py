"""What is the same in every vendor's failures: HTTP statuses, and the exceptions of httpx2 below all their SDKs.

What is made here holds plain values only: an SDK's exceptions carry the request with the essays in it and texts of
the vendor that may quote them, and some cannot be unpickled.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from ssl import SSLCertVerificationError

import httpx2

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.retry_after import retry_after_seconds
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    CallUnsendable,
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

BY_STATUS: dict[int, type[ProviderError]] = {
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: AuthenticationFailed,
    408: ProviderBusy,  # The vendor did not get the whole call in time, so it cannot have worked on it.
    409: ProviderBusy,  # Two calls met at a lock of the vendor's.
    429: RateLimited,
    503: ProviderOverloaded,
    # A gateway waited in vain, or lost the connection; what is behind it may have done the work.
    504: ProviderTimeout,
    520: AnswerLost,
    524: ProviderTimeout,
    529: ProviderOverloaded,
    598: ProviderTimeout,
}

# The first that fits counts. A call that never connected cannot have been billed, so it is no ProviderTimeout.
BY_EXCEPTION: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (httpx2.ConnectTimeout, ProviderUnreachable),
    (httpx2.PoolTimeout, ProviderUnreachable),
    (httpx2.ConnectError, ProviderUnreachable),
    (httpx2.WriteTimeout, ProviderUnreachable),  # Of half a call no answer can be made.
    (httpx2.TimeoutException, ProviderTimeout),
    (httpx2.LocalProtocolError, CallUnsendable),
    (httpx2.UnsupportedProtocol, CallUnsendable),
    (httpx2.InvalidURL, CallUnsendable),
    (httpx2.TooManyRedirects, CallRefused),
    (httpx2.DecodingError, InvalidAnswer),
    (httpx2.ProxyError, ProviderUnreachable),
    (httpx2.RequestError, AnswerLost),
    (UnicodeEncodeError, CallUnsendable),
    (ValueError, InvalidAnswer),  # JSONDecodeError and UnicodeDecodeError: a 200 whose body is not JSON.
    (RecursionError, InvalidAnswer),  # JSON that is nested deeper than any verdict.
)

_MESSAGES: dict[type[ProviderError], str] = {
    AnswerLost: "The connection to {} broke before the answer was complete.",
    AuthenticationFailed: "{} does not accept the configured key, or not for this model.",
    CallRefused: "{} refuses this call as it stands.",
    CallUnsendable: "This call cannot be put into what {} is asked with.",
    InvalidAnswer: "{} answered with something that cannot be read.",
    KeyUnusable: "The configured key is none that {} can be asked with.",
    NotSentInTime: "The time for this call to {} was over before it was sent.",
    ProviderBusy: "{} asks for this call once more.",
    ProviderError: "The call to {} failed for an unknown reason.",
    ProviderOverloaded: "{} cannot serve the call now.",
    ProviderServerError: "{} failed to serve the call.",
    ProviderTimeout: "{} gave no complete answer in time.",
    ProviderUnreachable: "There was no connection to {}.",
    QuotaExceeded: "The quota or the credit of the {} account is used up.",
    RateLimited: "{} limits the rate of calls.",
}

# More than its class says of a refusal.
BLOCKED = "{} blocked this prompt before the model saw it."
ANSWER_BLOCKED = "{} blocked the answer that the model wrote."
TOO_LONG = "The prompt with both essays is longer than the model of {} takes."
NO_SUCH_MODEL = "{} has no such model, or not for this key; or its base URL is wrong."
REDIRECTED = "{} redirects this call, which is not followed: an operator has to look at the base URL."
_OF_REFUSED_STATUS = {
    **dict.fromkeys((301, 302, 303, 307, 308), REDIRECTED),
    404: NO_SUCH_MODEL,
    413: TOO_LONG,
}

# And of an exception.
_OF_EXCEPTION: dict[type[BaseException], str] = {
    httpx2.TooManyRedirects: REDIRECTED,
    httpx2.WriteTimeout: "This call could not be sent to {} completely in time.",
}
NOT_TRUSTED = "The certificate of {} is not trusted here: an operator has to look at base URL and ca-certificates."


def of_status(
    provider: LLMProviderType,
    status: int,
    headers: Mapping[str, str],
    *,
    is_about_money: bool = False,
    meaning: type[ProviderError] | None = None,
    refusal: str | None = None,
    retry_after: float | None = None,
) -> ProviderError:
    """The error an HTTP status means, unless its body gave it a `meaning` of its own or said that it is about money.

    `refusal` is our sentence for what its body says of a call that is refused; `retry_after` seconds, where a body says
    it, win over the headers.
    """
    failure = QuotaExceeded if is_about_money else meaning or _class_of_status(status)
    words = (refusal or _OF_REFUSED_STATUS.get(status)) if failure is CallRefused else None
    wait = retry_after if retry_after is not None else retry_after_seconds(headers, now=datetime.now(UTC))
    told = words.format(provider) if words else message(provider, failure)
    return failure(told, retry_after_seconds=wait, details={"http_status": status})


def in_place_of_an_answer(failure: ProviderError) -> ProviderError:
    """The same error, told with the status of a success."""
    return type(failure)(
        f"Instead of an answer came an error: {failure.message}",
        retry_after_seconds=failure.retry_after_seconds,
        details=failure.details,
    )


def of_exception(
    provider: LLMProviderType,
    error: Exception,
    also: tuple[tuple[type[Exception], type[ProviderError]], ...] = (),
) -> ProviderError:
    """The error an exception below the SDK means; `also` are classes of the SDK itself, asked first.

    Some SDKs call every failure of the connection the same, and keep the precise one as its cause: that is told.
    """
    told = error.__cause__ if isinstance(error.__cause__, httpx2.HTTPError) else error
    known = (failure for cause, failure in (*also, *BY_EXCEPTION) if isinstance(told, cause))
    failure = next(known, ProviderError)
    words = NOT_TRUSTED if _is_about_trust(told) else _OF_EXCEPTION.get(type(told), _MESSAGES[failure])
    return failure(words.format(provider), details={"exception": type(told).__name__})


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def message(provider: LLMProviderType, failure: type[ProviderError]) -> str:
    """Our own words for it: a vendor's could quote the prompt."""
    return _MESSAGES[failure].format(provider)


def _class_of_status(status: int) -> type[ProviderError]:
    return BY_STATUS.get(status) or (ProviderServerError if status >= 500 else CallRefused)
