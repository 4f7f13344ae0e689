"""OpenAI, and every server that speaks its Chat Completions, through the official SDK."""

from collections.abc import Mapping

from openai import OpenAI
from openai.types.chat import ChatCompletion
from openai.types.shared_params import ResponseFormatJSONSchema

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_client import build_client
from llm_provider.adapters.providers.openai_completion import read_completion
from llm_provider.adapters.providers.openai_errors import translate
from llm_provider.adapters.providers.replies import Reply
from llm_provider.adapters.providers.sdk_provider import SDKProvider
from llm_provider.errors import ProviderError
from llm_provider.internal_models import Prompt, ProviderCall
from llm_provider.model_manifest import FittedCall, StructuredOutput
from llm_provider.verdicts import VERDICT_SCHEMA

_RESPONSE_FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
}


class OpenAIProvider(SDKProvider[OpenAI]):
    """Over Chat Completions."""

    name = LLMProviderType.OPENAI
    default_base_url = "https://api.openai.com/v1"
    default_model = "gpt-5.4-mini"

    def _connect(self, api_key: str, base_url: str) -> OpenAI:
        return build_client(api_key, base_url)

    def _ask(self, client: OpenAI, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> Reply:
        # The SDK's own way for a body that is ready: `completions.create` walks through it once more against its
        # types, at the price of a third of the call's CPU.
        completion = client.post(
            "/chat/completions",
            cast_to=ChatCompletion,
            body=_body(call, fitted) | self._options(fitted),
            options={"timeout": timeout_seconds},
        )
        return self._read(completion)

    def _translate(self, error: Exception) -> ProviderError:
        return translate(self.name, error)

    def _options(self, fitted: FittedCall) -> dict[str, object]:
        """Fields whose names are the vendor's own; what is None is left out, since some models refuse a default."""
        return _given({"max_completion_tokens": fitted.max_tokens, "reasoning_effort": fitted.reasoning_effort})

    def _read(self, completion: object) -> Reply:
        return read_completion(self.name, completion)


def _body(call: ProviderCall, fitted: FittedCall) -> dict[str, object]:
    prompt_alone = fitted.structured_output is StructuredOutput.PROMPT
    return {
        "model": call.model,
        "messages": [*_system(call.prompt), {"role": "user", "content": call.prompt.user}],
        **_given({"response_format": None if prompt_alone else _RESPONSE_FORMAT, "temperature": fitted.temperature}),
    }


def _system(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "system", "content": prompt.system}] if prompt.system else []


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
