"""Google's Gemini API, and every server that speaks its generateContent, through the official SDK."""

import math
import re

from google.genai import types

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.google_client import GoogleClient
from llm_provider.adapters.providers.google_errors import translate
from llm_provider.adapters.providers.google_response import read_response
from llm_provider.adapters.providers.replies import Reply
from llm_provider.adapters.providers.sdk_provider import SDKProvider
from llm_provider.errors import CallUnsendable, ProviderError
from llm_provider.internal_models import ProviderCall
from llm_provider.model_manifest import FittedCall, StructuredOutput
from llm_provider.verdicts import VERDICT_SCHEMA

# It becomes a part of the URL's path, which it must not leave.
_MODEL_NAME = re.compile(r"[\w.:@-]++(/[\w.:@-]++)*+", re.ASCII)


class GoogleProvider(SDKProvider[GoogleClient]):
    """Over generateContent."""

    name = LLMProviderType.GOOGLE
    default_base_url = "https://generativelanguage.googleapis.com"
    default_model = "gemini-3.8-flash"

    def _connect(self, api_key: str, base_url: str) -> GoogleClient:
        return GoogleClient(api_key, base_url)

    def _ask(self, client: GoogleClient, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> Reply:
        if ".." in call.model or not _MODEL_NAME.fullmatch(call.model):
            raise CallUnsendable("google has no model of such a name.")
        return read_response(client.generate(call.model, call.prompt, _config(call, fitted, timeout_seconds)))

    def _translate(self, error: Exception) -> ProviderError:
        return translate(error)


def _config(call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> types.GenerateContentConfig:
    config = types.GenerateContentConfig(
        system_instruction=call.prompt.system or None,
        # Gemini 3 judges worse at another temperature than its own, so one is sent only when asked for.
        temperature=fitted.temperature,
        max_output_tokens=fitted.max_tokens,
        # By itself the SDK asks again, and is billed again, for as long as the vendor says CONTINUATION.
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        # The body as it came: one field that does not fit the SDK's own objects would cost us the whole answer.
        should_return_http_response=True,
        http_options=types.HttpOptions(timeout=_milliseconds(timeout_seconds), extra_body=_extra_body(fitted)),
    )
    if fitted.structured_output is not StructuredOutput.PROMPT:
        config.response_mime_type = "application/json"
        config.response_json_schema = VERDICT_SCHEMA
    return config


def _extra_body(fitted: FittedCall) -> dict[str, object]:
    """The SDK writes this one as `thinking_level`, unlike the reference, and warns of levels that it does not know."""
    if fitted.reasoning_effort is None:
        return {}
    return {"generationConfig": {"thinkingConfig": {"thinkingLevel": fitted.reasoning_effort.upper()}}}


def _milliseconds(seconds: float) -> int:
    # To the SDK, 0 means that there is no limit.
    return max(1, math.ceil(seconds * 1000))
