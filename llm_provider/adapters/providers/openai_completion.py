"""A chat completion, read without trust: the SDK builds its objects from whatever came with a 200."""

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_errors import of_told_error
from llm_provider.adapters.providers.replies import Reply, count
from llm_provider.errors import ProviderError
from llm_provider.internal_models import TokenCounts


def read_completion(provider: LLMProviderType, completion: object) -> Reply:
    """Tell apart what it is; it may be a str, a list or None, and any of its parts may be missing."""
    choice = _first_choice(completion)
    texts = _texts(choice)
    return Reply(
        texts=texts,
        problem=_problem(provider, choice, any(texts)),
        counts=_counts(getattr(completion, "usage", None)),
        price_context=_price_context(completion),
        failure=_failure(provider, completion, choice),
    )


def _first_choice(completion: object) -> object:
    choices = getattr(completion, "choices", None)
    first: object = choices[0] if isinstance(choices, list) and choices else None
    return first


def _texts(choice: object) -> tuple[str, ...]:
    """The model's text, which some servers send in parts, those of its reasoning among them."""
    content = getattr(getattr(choice, "message", None), "content", None)
    if isinstance(content, str):
        return (content,)
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return tuple(text for text in texts if isinstance(text, str))


def _problem(provider: LLMProviderType, choice: object, has_text: bool) -> str | None:
    """Why there is no text to parse. Whether it is whole is asked first: half a JSON object is text, too."""
    finish_reason = getattr(choice, "finish_reason", None)
    if getattr(getattr(choice, "message", None), "refusal", None):
        return "The model refused to judge these essays."
    if finish_reason == "content_filter":
        return f"A content filter of {provider} blocked these essays or the model's answer."
    if finish_reason == "length":
        return "The model's answer was cut off at the limit of tokens."
    if choice is None:
        return f"{provider}'s answer holds no choice."
    return None if has_text else f"{provider}'s answer holds no text."


def _failure(provider: LLMProviderType, completion: object, choice: object) -> ProviderError | None:
    """An error in place of an answer, told at the top or, when the model had begun, in the choice."""
    for holder in (completion, choice):
        told = getattr(holder, "error", None)
        if told:
            return of_told_error(provider, told)
    return of_told_error(provider, None) if getattr(choice, "finish_reason", None) == "error" else None


def _counts(usage: object) -> TokenCounts:
    details = getattr(usage, "prompt_tokens_details", None)
    prompt, written = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    thought = count(getattr(usage, "completion_tokens_details", None), "reasoning_tokens")
    # Some servers count a model's thoughts beside what it wrote, and not as a part of it, as their total shows.
    is_beside = count(usage, "total_tokens") == prompt + written + thought
    return TokenCounts(
        prompt=prompt,
        completion=written + thought if is_beside else written,
        cache_read=count(details, "cached_tokens"),
        cache_written=count(details, "cache_write_tokens"),
    )


def _price_context(completion: object) -> dict[str, str]:
    tier = getattr(completion, "service_tier", None)
    return {"service_tier": tier} if isinstance(tier, str) else {}
