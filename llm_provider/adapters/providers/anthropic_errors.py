"""Every exception of the Anthropic SDK and of its HTTP client, as one class of our tree."""

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
        return vendor_errors.of_status(
            LLMProviderType.ANTHROPIC, error.status_code, error.response.headers, is_about_money=_is_about_money(error)
        )
    return vendor_errors.of_exception(LLMProviderType.ANTHROPIC, error, _OF_THE_SDK)


def _is_about_money(error: anthropic.APIStatusError) -> bool:
    # As text, because the SDK does not check what a vendor put there.
    codes = {str(error.error_code), str(error.type)}
    return not codes.isdisjoint(MONEY_CODES) or str(error.api_message).startswith(MONEY_MESSAGES)
