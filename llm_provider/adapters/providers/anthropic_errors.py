"""Every exception of the Anthropic SDK and of its HTTP client, as one class of our tree."""

from collections.abc import Mapping
from typing import Any

import anthropic

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers import vendor_errors
from llm_provider.errors import AnswerLost, InvalidAnswer, ProviderError, ProviderTimeout

# https://platform.claude.com/docs/en/api/rate-limits: some of these come as a 429, but waiting does not help.
MONEY_CODES = frozenset(
    {
        "billing_error",
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
    }
)

# A limit that the customer has set, and an empty account, come as a 400 without a code: its words alone tell.
MONEY_MESSAGES = (
    "You have reached your specified API usage limits",
    "You have reached your specified workspace API usage limits",
    "Your credit balance is too low",
)

# A prompt that does not fit has no code either.
LENGTH_MESSAGES = ("prompt is too long", "input length and `max_tokens` exceed context limit")

# Nor has an answer that a filter kept back.
FILTER_MESSAGE = "Output blocked by content filtering policy"

# https://platform.claude.com/docs/en/api/errors: the statuses of errors that come with a 200 in place of a message.
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
UNKNOWN_STATUS = 500

_OF_THE_SDK: tuple[tuple[type[Exception], type[ProviderError]], ...] = (
    (anthropic.APIResponseValidationError, InvalidAnswer),
    (anthropic.APITimeoutError, ProviderTimeout),
    (anthropic.APIConnectionError, AnswerLost),
)


def translate(error: Exception) -> ProviderError:
    """Say what an exception from a call means; it is never the new error's cause or context."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, anthropic.APIStatusError):
        # As text, because the SDK does not check what a vendor put there.
        codes, words = {str(error.error_code), str(error.type)}, str(error.api_message)
        return _of_status(error.status_code, error.response.headers, codes, words)
    return vendor_errors.of_exception(LLMProviderType.ANTHROPIC, error, _OF_THE_SDK)


def of_told_error(told: Mapping[Any, Any]) -> ProviderError:
    """The error that came with a 200 in place of a message."""
    kind = str(told.get("type"))
    return vendor_errors.in_place_of_an_answer(
        _of_status(STATUSES.get(kind, UNKNOWN_STATUS), {}, {kind}, str(told.get("message")))
    )


def _of_status(status: int, headers: Mapping[str, str], codes: set[str], words: str) -> ProviderError:
    return vendor_errors.of_status(
        LLMProviderType.ANTHROPIC,
        status,
        headers,
        is_about_money=not codes.isdisjoint(MONEY_CODES) or words.startswith(MONEY_MESSAGES),
        refusal=_refusal(words),
    )


def _refusal(words: str) -> str | None:
    if words.startswith(LENGTH_MESSAGES):
        return vendor_errors.TOO_LONG
    return vendor_errors.ANSWER_BLOCKED if words.startswith(FILTER_MESSAGE) else None
