"""A chat completion, read without trust: the SDK builds its objects from whatever came with a 200."""

from contracts.enums import LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.pricing import cost_usd
from llm_provider.errors import InvalidAnswer
from llm_provider.internal_models import ProviderAnswer
from llm_provider.verdicts import parse_verdict

MAX_TOKENS = 1_000_000_000  # More than any model reads; a greater count is a defect of the vendor's.


def read_completion(completion: object, *, model: str) -> ProviderAnswer:
    """Make an answer of it; it may be a str, a list or None, and any of its parts may be missing."""
    tokens = _token_usage(getattr(completion, "usage", None))
    cost = _cost(completion, model, tokens)
    try:
        verdict = parse_verdict(_text(completion))
    except InvalidAnswer as error:
        # The vendor counted it, and bills it, all the same.
        raise error.billed(tokens, cost) from None
    return ProviderAnswer(verdict=verdict, token_usage=tokens, cost_usd=cost)


def _cost(completion: object, model: str, tokens: TokenUsage) -> float:
    details = getattr(getattr(completion, "usage", None), "prompt_tokens_details", None)
    cached, tier = _count(details, "cached_tokens"), _service_tier(completion)
    return cost_usd(LLMProviderType.OPENAI, model, tokens, cached_tokens=cached, service_tier=tier)


def _text(completion: object) -> str:
    """The model's text. Whether it is whole is asked first: half a JSON object is text, too."""
    choice = _first_choice(completion)
    message = getattr(choice, "message", None)
    finish_reason = getattr(choice, "finish_reason", None)
    if getattr(message, "refusal", None) or finish_reason == "content_filter":
        raise InvalidAnswer("The model refused to judge these essays.")
    if finish_reason == "length":
        raise InvalidAnswer("The model's answer was cut off at the limit of tokens.")
    content = getattr(message, "content", None)
    if not isinstance(content, str):
        raise InvalidAnswer("openai's answer holds no text.")
    return content


def _first_choice(completion: object) -> object:
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise InvalidAnswer("openai's answer holds no choice.")
    first: object = choices[0]
    return first


def _token_usage(usage: object) -> TokenUsage:
    """The vendor's counts; the total is theirs added up, so that the three never disagree."""
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _count(holder: object, name: str) -> int:
    value = getattr(holder, name, None)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 <= value <= MAX_TOKENS else 0


def _service_tier(completion: object) -> str | None:
    tier = getattr(completion, "service_tier", None)
    return tier if isinstance(tier, str) else None
