"""Every exception of the OpenAI SDK, and every error that a server of Chat Completions tells, as one of our tree."""

from collections.abc import Mapping
from typing import Any

import openai

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers import vendor_errors
from llm_provider.adapters.providers.retry_after import LONGEST_SECONDS
from llm_provider.errors import (
    AnswerLost,
    CallRefused,
    InvalidAnswer,
    ProviderError,
    ProviderTimeout,
    QuotaExceeded,
    RateLimited,
)

# Codes, types and sources of a limit for which waiting does not help, though some of them come as 429 or 403.
MONEY_CODES = frozenset(
    {
        # https://platform.openai.com/docs/guides/error-codes
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
        # https://openrouter.ai/docs/api_reference/limits
        "openrouter_credits",
        "openrouter_guardrail_budget",
        "openrouter_key_limit",
        "openrouter_workspace_budget",
    }
)

# A 402 for which waiting does help: other calls of the account have not been settled yet.
UNSETTLED_CALLS = "openrouter_in_flight_budget"

# A 403 or 400 with one of these is about the texts, and no fault of the key's:
# https://openrouter.ai/docs/api_reference/errors-and-debugging
OBJECTIONS = frozenset({"flagged_input", "patterns", "reasons"})
OBJECTING_TYPES = frozenset({"content_policy_violation", "refusal"})
OBJECTING_CODES = frozenset({"content_filter", "content_policy_violation", "invalid_prompt"})

LENGTH_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})

UNKNOWN_STATUS = 502

# A broken connection without a known cause may have carried the whole call.
_SDK_ERRORS: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (openai.APIResponseValidationError, InvalidAnswer),
    (openai.LengthFinishReasonError, InvalidAnswer),
    (openai.ContentFilterFinishReasonError, InvalidAnswer),
    (openai.APITimeoutError, ProviderTimeout),
    (openai.APIConnectionError, AnswerLost),
)


def translate(provider: LLMProviderType, error: Exception) -> ProviderError:
    """Say what an exception from a call means; it is never the new error's cause or context."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, openai.APIStatusError):
        return _of_told(provider, error.status_code, _fields(error.body), error.response.headers)
    return vendor_errors.of_exception(provider, error, _SDK_ERRORS)


def of_told_error(provider: LLMProviderType, told: object) -> ProviderError:
    """The error that came with a 200 in place of an answer; its code is the status it would have had."""
    fields = _fields(told)
    return vendor_errors.in_place_of_an_answer(_of_told(provider, _status(fields.get("code")), fields, {}))


def _of_told(
    provider: LLMProviderType, status: int, told: Mapping[Any, Any], headers: Mapping[str, str]
) -> ProviderError:
    return vendor_errors.of_status(
        provider,
        status,
        headers,
        meaning=_meaning(provider, status, told),
        refusal=_refusal(told),
        retry_after=_wait(told),
    )


def _meaning(provider: LLMProviderType, status: int, told: Mapping[Any, Any]) -> type[ProviderError] | None:
    """What the vendor says beyond the status; None: no more than that."""
    metadata = _fields(told.get("metadata"))
    # As texts, because nobody checked what the vendor put there.
    source = str(metadata.get("limit_source"))
    if source == UNSETTLED_CALLS:
        return RateLimited
    if MONEY_CODES & {source, str(told.get("code")), str(told.get("type"))}:
        return QuotaExceeded
    if _is_objection(metadata):
        return CallRefused
    if provider is LLMProviderType.OPENROUTER and status == 408:
        # Here it is the host that was waited for, not the call: errors-and-debugging, as above.
        return ProviderTimeout
    return None


def _is_objection(metadata: Mapping[Any, Any]) -> bool:
    return bool(OBJECTIONS & metadata.keys()) or str(metadata.get("error_type")) in OBJECTING_TYPES


def _refusal(told: Mapping[Any, Any]) -> str | None:
    if str(told.get("code")) in LENGTH_CODES:
        return vendor_errors.TOO_LONG
    if str(told.get("code")) in OBJECTING_CODES or _is_objection(_fields(told.get("metadata"))):
        return vendor_errors.BLOCKED
    return None


def _wait(told: Mapping[Any, Any]) -> float | None:
    wait = _fields(told.get("availability")).get("retry_after")
    if not isinstance(wait, int | float) or isinstance(wait, bool):
        return None
    return float(wait) if 0 <= wait <= LONGEST_SECONDS else None


def _status(code: object) -> int:
    status = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
    return status if isinstance(status, int) and 400 <= status <= 599 else UNKNOWN_STATUS


def _fields(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
