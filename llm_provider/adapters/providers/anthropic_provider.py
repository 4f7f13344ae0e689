"""Anthropic, and every server that speaks its Messages API, through the official SDK."""

from anthropic import Anthropic
from anthropic.types import Message

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.anthropic_client import build_client
from llm_provider.adapters.providers.anthropic_errors import translate
from llm_provider.adapters.providers.anthropic_message import TOOL_NAME, read_message
from llm_provider.adapters.providers.replies import Reply
from llm_provider.adapters.providers.sdk_provider import SDKProvider
from llm_provider.errors import ProviderError
from llm_provider.internal_models import ProviderCall
from llm_provider.model_manifest import FittedCall, ModelRow, StructuredOutput
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


class AnthropicProvider(SDKProvider[Anthropic]):
    """Over the Messages API."""

    name = LLMProviderType.ANTHROPIC
    default_base_url = "https://api.anthropic.com"
    default_model = "claude-haiku-4-5"

    def _connect(self, api_key: str, base_url: str) -> Anthropic:
        return build_client(api_key, base_url)

    def _fit(self, call: ProviderCall, row: ModelRow | None) -> FittedCall:
        """Leave out a temperature, too, that nobody knows the model to take: a new one answers 400 to any."""
        fitted = super()._fit(call, row)
        temperature = fitted.temperature
        if temperature is None or (row is not None and temperature <= MAX_TEMPERATURE):
            return fitted
        return fitted.model_copy(update={"temperature": None, "dropped": (*fitted.dropped, "temperature")})

    def _ask(self, client: Anthropic, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> Reply:
        # The SDK's own way for a body that is ready: `messages.create` takes no temperature, and warns of models that
        # will be gone one day.
        message = client.post(
            "/v1/messages",
            cast_to=Message,
            body=_body(call, fitted),
            options={"timeout": timeout_seconds, "headers": _headers(fitted)},
        )
        return read_message(message)

    def _translate(self, error: Exception) -> ProviderError:
        return translate(error)


def _body(call: ProviderCall, fitted: FittedCall) -> dict[str, object]:
    body: dict[str, object] = {
        "model": call.model,
        "max_tokens": _room(fitted),
        "messages": [{"role": "user", "content": call.prompt.user}],
        **_structure(fitted),
    }
    if call.prompt.system:
        body["system"] = call.prompt.system
    if fitted.temperature is not None:
        body["temperature"] = fitted.temperature
    return body


def _room(fitted: FittedCall) -> int:
    most = fitted.max_output_tokens or DEFAULT_MAX_TOKENS
    if "max_tokens" in fitted.dropped:
        # More than the model writes was asked for: it gets all that there is.
        return most
    return min(DEFAULT_MAX_TOKENS, most) if fitted.max_tokens is None else fitted.max_tokens


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
