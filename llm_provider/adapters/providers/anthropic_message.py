"""A message, read without trust: the SDK builds its objects from whatever came with a 200."""

import json
from collections.abc import Iterator

from llm_provider.adapters.providers.anthropic_errors import of_told_error
from llm_provider.adapters.providers.replies import Reply, count
from llm_provider.internal_models import TokenCounts

TOOL_NAME = "verdict"

# What tokens cost more when a workspace has them computed in the United States alone, whatever the model:
# https://platform.claude.com/docs/en/build-with-claude/data-residency. The price list does not know of it.
US_FACTOR = 1.1

# https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons. With any other reason, or one that
# is not known yet, the answer is whole.
_PROBLEMS = {
    "refusal": "The model refused to judge these essays.",
    "max_tokens": "The model's answer was cut off at the limit of tokens.",
    "model_context_window_exceeded": "The essays and the answer do not fit into the model's context window.",
    "pause_turn": "The model paused before its answer was complete.",
}


def read_message(message: object) -> Reply:
    """Tell apart what it is; it may be a str, a list or None, and any of its parts may be missing."""
    content = getattr(message, "content", None)
    blocks = content if isinstance(content, list) else None
    texts = _answer(blocks or [])
    usage, told = getattr(message, "usage", None), getattr(message, "error", None)
    return Reply(
        texts=texts,
        problem=_problem(blocks, texts, str(getattr(message, "stop_reason", None))),
        counts=_counts(usage),
        price_context=_price_context(usage),
        price_factor=US_FACTOR if getattr(usage, "inference_geo", None) == "us" else 1.0,
        failure=of_told_error(told) if isinstance(told, dict) else None,
    )


def _problem(blocks: list[object] | None, texts: tuple[str, ...], stop_reason: str) -> str | None:
    # Whether it is whole is asked first: half a JSON object is text, too.
    if stop_reason in _PROBLEMS:
        return _PROBLEMS[stop_reason]
    if blocks is None:
        return "anthropic answered with something that is not a message."
    return None if any(texts) else "anthropic's answer holds no text."


def _answer(blocks: list[object]) -> tuple[str, ...]:
    tool_input = _tool_input(blocks)
    return tuple(_texts(blocks)) if tool_input is None else (tool_input,)


def _tool_input(blocks: list[object]) -> str | None:
    """The arguments of the tool that stands for the answer, as the JSON they came as; text around it is chat."""
    for block in blocks:
        if _type_of(block) == "tool_use" and getattr(block, "name", None) == TOOL_NAME:
            return json.dumps(getattr(block, "input", None))
    return None


def _texts(blocks: list[object]) -> Iterator[str]:
    """One answer may be spread over several blocks; what a model thinks, and types to come, stand between them."""
    for block in blocks:
        text = getattr(block, "text", None)
        if _type_of(block) == "text" and isinstance(text, str):
            yield text


def _type_of(block: object) -> object:
    # The class says nothing: the SDK makes a TextBlock of a type that it does not know.
    return getattr(block, "type", None)


def _counts(usage: object) -> TokenCounts:
    read, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
    return TokenCounts(
        # This vendor's input_tokens are those that were neither read from the cache nor written to it.
        prompt=count(usage, "input_tokens") + read + written,
        completion=count(usage, "output_tokens"),
        cache_read=read,
        cache_written=written,
        cache_written_1h=count(getattr(usage, "cache_creation", None), "ephemeral_1h_input_tokens"),
    )


def _price_context(usage: object) -> dict[str, str]:
    """Fast answers cost more; the other tiers that a message may name have no price of their own."""
    speed = getattr(usage, "speed", None)
    return {"speed": speed} if isinstance(speed, str) else {}
