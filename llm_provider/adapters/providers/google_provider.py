"""Google's Gemini API, and every server that speaks its generateContent, through the official SDK."""

import math
import re

from google.genai import types

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.deadline_transport import deadline
from llm_provider.adapters.providers.google_client import GoogleClient
from llm_provider.adapters.providers.google_errors import translate
from llm_provider.adapters.providers.google_response import read_response
from llm_provider.adapters.providers.per_process import PerProcess
from llm_provider.adapters.providers.replies import to_answer
from llm_provider.config import Settings
from llm_provider.errors import AuthenticationFailed, CallRefused
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.model_manifest import FittedCall, ModelManifest, StructuredOutput, fit, load_manifest
from llm_provider.verdicts import VERDICT_SCHEMA

# It becomes a part of the URL's path, which it must not leave.
_MODEL_NAME = re.compile(r"(?!.*\.\.)[\w.:@-]+(/[\w.:@-]+)*", re.ASCII)


class GoogleProvider:
    """LLMProviderProtocol over generateContent; nothing connects before the first call."""

    name = LLMProviderType.GOOGLE
    default_base_url = "https://generativelanguage.googleapis.com"
    default_model = "gemini-3.8-flash"

    def __init__(self, settings: Settings, manifest: ModelManifest | None = None) -> None:
        self._settings = settings.vendor(self.name)
        self._manifest = load_manifest() if manifest is None else manifest
        self._client = PerProcess(self._build_client)
        if self._settings.default_model is not None:
            self.default_model = self._settings.default_model

    def is_configured(self) -> bool:
        return bool(self._settings.key)

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        row = self._manifest.find(self.name, call.model)
        fitted = fit(call, row, reasoning_effort=self._settings.reasoning_effort)
        try:
            reply = read_response(self._generate(call, fitted, timeout_seconds))
        except Exception as error:
            failure = translate(error)
        else:
            return to_answer(reply, provider=self.name, model=call.model, dropped_parameters=fitted.dropped)
        # Outside the handler, so that no log of a chained traceback can show what the vendor wrote.
        raise failure

    def close(self) -> None:
        client = self._client.discard()
        if client is not None:
            client.close()

    def _generate(self, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> object:
        if not _MODEL_NAME.fullmatch(call.model):
            raise CallRefused("google has no model of such a name.")
        with deadline(timeout_seconds):
            return self._client.get().generate(call.model, call.prompt, _config(call, fitted, timeout_seconds))

    def _build_client(self) -> GoogleClient:
        if not self.is_configured():
            raise AuthenticationFailed("google has no key here.")
        base_url = self._settings.base_url
        return GoogleClient(self._settings.key, self.default_base_url if base_url is None else base_url)


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
