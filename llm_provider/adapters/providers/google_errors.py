"""Every exception of Google's SDK and of its HTTP client, as one class of our tree."""

import math
import re
from collections.abc import Iterator, Mapping

from google.genai import errors

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers import vendor_errors
from llm_provider.errors import AuthenticationFailed, CallUnsendable, InvalidAnswer, KeyUnusable, ProviderError

# A day's quota is refilled at midnight, Pacific time, while the RetryInfo that comes with it is often a minute or
# less: who waits for that is turned away again and again. Google's own gemini-cli gives up on these words, too.
LONG_QUOTAS = ("PerDay", "Daily", "PerMonth")

# An empty account and a project's own limit come as a 429 without details: their words alone tell.
MONEY_MESSAGES = ("prepayment credits", "spending cap")

# https://docs.cloud.google.com/apis/docs/reference/rpc/google.api#errorreason. A wrong key is a 400 here.
MONEY_REASONS = frozenset({"BILLING_DISABLED"})
KEY_REASON_PREFIX = "API_KEY_"

# A prompt that does not fit, https://ai.google.dev/gemini-api/docs/tokens
LENGTH_MESSAGE = "exceeds the maximum number of tokens"

UNKNOWN_STATUS = 500

# The account lacks something, such as billing in a country without a free tier; no other call would fare better.
ACCOUNT_STATUS = "FAILED_PRECONDITION"

# What the SDK says of a key that it does not send. The class is in a private module, which any release may move, and a
# process must not fail to start for it.
UNSENT_KEY = "EphemeralTokenAPIKeyError"

_OF_THE_SDK: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (errors.UnknownApiResponseError, InvalidAnswer),
    # The SDK does not like the call, and has sent nothing.
    (errors.UnsupportedFunctionError, CallUnsendable),
    (errors.UnknownFunctionCallArgumentError, CallUnsendable),
    (errors.FunctionInvocationError, CallUnsendable),
)

# A protobuf Duration in JSON.
_DURATION = re.compile(r"(\d++(?:\.\d++)?)s")


def translate(error: Exception) -> ProviderError:
    """Say what an exception from a call means; it is never the new error's cause or context."""
    if isinstance(error, ProviderError):
        return error
    status = getattr(error, "code", None)
    if isinstance(error, errors.APIError) and isinstance(status, int):
        return _of_status(status, error)
    also = ((type(error), KeyUnusable),) if type(error).__name__ == UNSENT_KEY else _OF_THE_SDK
    return vendor_errors.of_exception(LLMProviderType.GOOGLE, error, also)


def _of_status(status: int, error: errors.APIError) -> ProviderError:
    if 200 <= status < 300:
        return _failure(InvalidAnswer, status)
    return _of_told(status, _object(_object(error.details).get("error")), _headers(error))


def of_told_error(told: Mapping[str, object]) -> ProviderError:
    """The error that came with a 200 in place of an answer; its code is the status it would have had."""
    code = told.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else UNKNOWN_STATUS
    return vendor_errors.in_place_of_an_answer(_of_told(status, told, {}))


def _of_told(status: int, said: Mapping[str, object], headers: Mapping[str, str]) -> ProviderError:
    if status == 400 and _is_about_the_account(said):
        return _failure(AuthenticationFailed, status)
    return vendor_errors.of_status(
        LLMProviderType.GOOGLE,
        status,
        headers,
        is_about_money=_is_about_money(status, said),
        refusal=vendor_errors.TOO_LONG if LENGTH_MESSAGE in str(said.get("message")) else None,
        retry_after=_retry_delay(said),
    )


def _failure(meaning: type[ProviderError], status: int) -> ProviderError:
    message = vendor_errors.message(LLMProviderType.GOOGLE, meaning)
    return meaning(message, details={"http_status": status})


def _headers(error: errors.APIError) -> Mapping[str, str]:
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    return headers


def _is_about_the_account(said: Mapping[str, object]) -> bool:
    return said.get("status") == ACCOUNT_STATUS or any(
        reason.startswith(KEY_REASON_PREFIX) for reason in _reasons(said)
    )


def _is_about_money(status: int, said: Mapping[str, object]) -> bool:
    if MONEY_REASONS.intersection(_reasons(said)):
        return True
    words = str(said.get("message"))
    return status == 429 and (
        any(quota in quota_id for quota in LONG_QUOTAS for quota_id in _quota_ids(said))
        or any(phrase in words for phrase in MONEY_MESSAGES)
    )


def _reasons(said: Mapping[str, object]) -> list[str]:
    """Of google.rpc.ErrorInfo."""
    return [str(detail.get("reason")) for detail in _details(said, "ErrorInfo")]


def _quota_ids(said: Mapping[str, object]) -> list[str]:
    """Of google.rpc.QuotaFailure, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier."""
    return [
        str(violation.get("quotaId"))
        for detail in _details(said, "QuotaFailure")
        for violation in _objects(detail.get("violations"))
    ]


def _retry_delay(said: Mapping[str, object]) -> float | None:
    """Seconds, of google.rpc.RetryInfo."""
    for detail in _details(said, "RetryInfo"):
        found = _DURATION.fullmatch(str(detail.get("retryDelay")))
        if found and math.isfinite(float(found[1])):
            return float(found[1])
    return None


def _details(said: Mapping[str, object], kind: str) -> Iterator[Mapping[str, object]]:
    """https://google.aip.dev/193: an error's details are messages of several types, in any order."""
    for detail in _objects(said.get("details")):
        if str(detail.get("@type")).endswith(f"google.rpc.{kind}"):
            yield detail


def _objects(value: object) -> list[Mapping[str, object]]:
    return [_object(item) for item in value] if isinstance(value, list) else []


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
