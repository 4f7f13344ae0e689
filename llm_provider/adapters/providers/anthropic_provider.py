"""Anthropic, and every server that speaks its Messages API, through the official SDK."""

from anthropic import Anthropic
from anthropic.types import Message

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.anthropic_client import build_client
from llm_provider.adapters.providers.anthropic_errors import translate
from llm_provider.adapters.providers.anthropic_message import TOOL_NAME, read_message
from llm_provider.adapters.providers.deadline_transport import deadline
from llm_provider.adapters.providers.per_process import PerProcess
from llm_provider.adapters.providers.replies import to_answer
from llm_provider.config import Settings
from llm_provider.errors import AuthenticationFailed
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.model_manifest import FittedCall, ModelManifest, ModelRow, StructuredOutput, fit, load_manifest
from llm_provider.verdicts import VERDICT_SCHEMA

# The vendor wants a limit. A verdict takes some 200 tokens, but what a model thinks before it counts, too, and an
# answer that is cut off costs as much as a whole one. Only what is written is billed.
DEFAULT_MAX_TOKENS = 16_000

# The vendor's scale ends here; the contract's goes on to 2.
MAX_TEMPERATURE = 1.0

# The last version of the API that takes a temperature; the SDK's own answers 400 to one, whatever the model.
SAMPLING_VERSION = "2023-06-01"

_TOOL = {
    "name": TOOL_NAME,
    "description": "Give the verdict on the two essays.",
    "input_schema": VERDICT_SCHEMA,
    "strict": True,
}


class AnthropicProvider:
    """LLMProviderProtocol over the Messages API; nothing connects before the first call."""

    name = LLMProviderType.ANTHROPIC
    default_base_url = "https://api.anthropic.com"
    default_model = "claude-haiku-4-5"

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
        fitted = _fit(call, row, self._settings.reasoning_effort)
        try:
            message = self._create(_body(call, fitted, row), _headers(fitted), timeout_seconds)
            reply = read_message(message)
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

    def _create(self, body: dict[str, object], headers: dict[str, str], timeout_seconds: float) -> object:
        """The SDK's Message, or whatever else its 200 came with."""
        with deadline(timeout_seconds):
            # The SDK's own way for a body that is ready: `messages.create` takes no temperature, and warns of models
            # that will be gone one day.
            return self._client.get().post(
                "/v1/messages", cast_to=Message, body=body, options={"timeout": timeout_seconds, "headers": headers}
            )

    def _build_client(self) -> Anthropic:
        if not self.is_configured():
            raise AuthenticationFailed("anthropic has no key here.")
        base_url = self._settings.base_url
        return build_client(self._settings.key, self.default_base_url if base_url is None else base_url)


def _fit(call: ProviderCall, row: ModelRow | None, reasoning_effort: str | None) -> FittedCall:
    """Leave out a temperature, too, that nobody knows the model to take: a new one answers 400 to any."""
    fitted = fit(call, row, reasoning_effort=reasoning_effort)
    temperature = fitted.temperature
    if temperature is None or (row is not None and temperature <= MAX_TEMPERATURE):
        return fitted
    return fitted.model_copy(update={"temperature": None, "dropped": (*fitted.dropped, "temperature")})


def _body(call: ProviderCall, fitted: FittedCall, row: ModelRow | None) -> dict[str, object]:
    room = DEFAULT_MAX_TOKENS if row is None else min(DEFAULT_MAX_TOKENS, row.max_output_tokens)
    body: dict[str, object] = {
        "model": call.model,
        "max_tokens": room if fitted.max_tokens is None else fitted.max_tokens,
        "messages": [{"role": "user", "content": call.prompt.user}],
        **_structure(fitted),
    }
    if call.prompt.system:
        body["system"] = call.prompt.system
    if fitted.temperature is not None:
        body["temperature"] = fitted.temperature
    return body


def _structure(fitted: FittedCall) -> dict[str, object]:
    """How the model is made to answer in our schema; an unknown one is taken for one of today's."""
    config: dict[str, object] = {}
    if fitted.structured_output in (StructuredOutput.JSON_SCHEMA, None):
        config["format"] = {"type": "json_schema", "schema": VERDICT_SCHEMA}
    if fitted.reasoning_effort is not None:
        config["effort"] = fitted.reasoning_effort
    structure: dict[str, object] = {"output_config": config} if config else {}
    if fitted.structured_output is StructuredOutput.FORCED_TOOL:
        structure["tools"] = [_TOOL]
        structure["tool_choice"] = {"type": "tool", "name": TOOL_NAME, "disable_parallel_tool_use": True}
    return structure


def _headers(fitted: FittedCall) -> dict[str, str]:
    return {} if fitted.temperature is None else {"anthropic-version": SAMPLING_VERSION}
