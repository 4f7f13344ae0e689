"""OpenAI, and every server that speaks its Chat Completions, through the official SDK."""

from openai import OpenAI
from openai.types.chat import ChatCompletion
from openai.types.shared_params import ResponseFormatJSONSchema

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.deadline_transport import deadline
from llm_provider.adapters.providers.openai_client import build_client
from llm_provider.adapters.providers.openai_completion import read_completion
from llm_provider.adapters.providers.openai_errors import translate
from llm_provider.adapters.providers.per_process import PerProcess
from llm_provider.config import Settings
from llm_provider.errors import AuthenticationFailed
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.prompts import Prompt, build_prompt
from llm_provider.verdicts import VERDICT_SCHEMA

_RESPONSE_FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
}


class OpenAIProvider:
    """LLMProviderProtocol over Chat Completions; nothing connects before the first call."""

    name = LLMProviderType.OPENAI

    def __init__(self, settings: Settings) -> None:
        key = settings.openai_api_key
        # A key read from a file often ends with a newline, which no header may hold.
        self._api_key = key.get_secret_value().strip() if key is not None else ""
        self._base_url = settings.openai_base_url
        self._client = PerProcess(self._build_client)
        self.default_model = settings.openai_default_model

    def is_configured(self) -> bool:
        return bool(self._api_key)

    def is_available(self) -> bool:
        return self.is_configured()

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        try:
            completion = self._create(call, timeout_seconds)
        except Exception as error:
            failure = translate(error)
        else:
            return read_completion(completion, model=call.model)
        # Outside the handler, so that no log of a chained traceback can show what the vendor wrote.
        raise failure

    def close(self) -> None:
        client = self._client.discard()
        if client is not None:
            client.close()

    def _create(self, call: ProviderCall, timeout_seconds: float) -> ChatCompletion:
        prompt = build_prompt(call.texts)
        with deadline(timeout_seconds):
            # The SDK's own way for a body that is ready: `completions.create` walks through it once more against its
            # types, at the price of a third of the call's CPU.
            return self._client.get().post(
                "/chat/completions",
                cast_to=ChatCompletion,
                body=_body(call, prompt),
                options={"timeout": timeout_seconds},
            )

    def _build_client(self) -> OpenAI:
        if not self.is_configured():
            raise AuthenticationFailed("openai has no key here.")
        return build_client(self._api_key, self._base_url)


def _body(call: ProviderCall, prompt: Prompt) -> dict[str, object]:
    # Some models refuse these two even at their default, so they are sent only when asked for.
    asked = {"temperature": call.temperature, "max_completion_tokens": call.max_tokens}
    return {
        "model": call.model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ],
        "response_format": _RESPONSE_FORMAT,
        **{name: value for name, value in asked.items() if value is not None},
    }
