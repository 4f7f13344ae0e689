"""OpenAI, and every server that speaks its Chat Completions, through the official SDK."""

from collections.abc import Mapping

from openai import OpenAI
from openai.types.chat import ChatCompletion
from openai.types.shared_params import ResponseFormatJSONSchema

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.deadline_transport import deadline
from llm_provider.adapters.providers.openai_client import build_client
from llm_provider.adapters.providers.openai_completion import read_completion
from llm_provider.adapters.providers.openai_errors import translate
from llm_provider.adapters.providers.per_process import PerProcess
from llm_provider.adapters.providers.replies import Reply, to_answer
from llm_provider.config import Settings
from llm_provider.errors import AuthenticationFailed
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.model_manifest import FittedCall, ModelManifest, StructuredOutput, fit, load_manifest
from llm_provider.verdicts import VERDICT_SCHEMA

_RESPONSE_FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
}


class OpenAIProvider:
    """LLMProviderProtocol over Chat Completions; nothing connects before the first call."""

    name = LLMProviderType.OPENAI
    default_base_url = "https://api.openai.com/v1"
    default_model = "gpt-5.4-mini"

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
            reply = self._read(self._create(call, fitted, timeout_seconds))
        except Exception as error:
            failure = translate(self.name, error)
        else:
            return to_answer(reply, provider=self.name, model=call.model, dropped_parameters=fitted.dropped)
        # Outside the handler, so that no log of a chained traceback can show what the vendor wrote.
        raise failure

    def close(self) -> None:
        client = self._client.discard()
        if client is not None:
            client.close()

    def _create(self, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> object:
        with deadline(timeout_seconds):
            # The SDK's own way for a body that is ready: `completions.create` walks through it once more against its
            # types, at the price of a third of the call's CPU.
            return self._client.get().post(
                "/chat/completions",
                cast_to=ChatCompletion,
                body=_body(call, fitted) | self._options(fitted),
                options={"timeout": timeout_seconds},
            )

    def _options(self, fitted: FittedCall) -> dict[str, object]:
        """Fields whose names are the vendor's own; what is None is left out, since some models refuse a default."""
        return _given({"max_completion_tokens": fitted.max_tokens, "reasoning_effort": fitted.reasoning_effort})

    def _read(self, completion: object) -> Reply:
        return read_completion(self.name, completion)

    def _build_client(self) -> OpenAI:
        if not self.is_configured():
            raise AuthenticationFailed(f"{self.name} has no key here.")
        base_url = self._settings.base_url
        return build_client(self._settings.key, self.default_base_url if base_url is None else base_url)


def _body(call: ProviderCall, fitted: FittedCall) -> dict[str, object]:
    prompt_alone = fitted.structured_output is StructuredOutput.PROMPT
    return {
        "model": call.model,
        "messages": [
            {"role": "system", "content": call.prompt.system},
            {"role": "user", "content": call.prompt.user},
        ],
        **_given({"response_format": None if prompt_alone else _RESPONSE_FORMAT, "temperature": fitted.temperature}),
    }


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
