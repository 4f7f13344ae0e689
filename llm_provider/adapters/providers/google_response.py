"""The body of a generateContent response, read without trust: it is whatever came with a 200."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

from llm_provider.adapters.providers.google_errors import of_told_error
from llm_provider.adapters.providers.replies import Reply, count
from llm_provider.internal_models import TokenCounts

# https://ai.google.dev/api/generate-content#FinishReason. What was written before is no verdict of the model's.
_REFUSALS = frozenset(
    {
        "BLOCKLIST",
        "ESCALATION",
        "IMAGE_OTHER",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_SAFETY",
        "LANGUAGE",
        "MODEL_ARMOR",
        "PROHIBITED_CONTENT",
        "PUP_LIMITED_DISABLED",
        "RECITATION",
        "SAFETY",
        "SPII",
    }
)
_FAILURES = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
        "OTHER",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)
# https://ai.google.dev/api/generate-content#BlockReason
_BLOCKS = frozenset({"BLOCKLIST", "IMAGE_SAFETY", "JAILBREAK", "MODEL_ARMOR", "OTHER", "PROHIBITED_CONTENT", "SAFETY"})


def read_response(body: object) -> Reply:
    """Tell apart what it is; any of its parts may be missing or of another type."""
    try:
        text = str(body or "").removeprefix("\ufeff")
        response = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
        told = json.loads(text)["error"] if hasattr(response, "error") else None
    except (ValueError, RecursionError):
        return Reply(texts=(), problem="google answered with something that is not JSON.", counts=TokenCounts())
    candidate = _first(getattr(response, "candidates", None))
    texts = tuple(_texts(candidate))
    # Whether it is whole is asked first: half a JSON object is text, too.
    problem = _problem_of_prompt(response) if candidate is None else _problem_of_answer(candidate, any(texts))
    return Reply(
        texts=texts,
        problem=problem,
        counts=_counts(getattr(response, "usageMetadata", None)),
        failure=of_told_error(told) if isinstance(told, dict) else None,
    )


def _texts(candidate: object) -> Iterator[str]:
    """One answer may be spread over several parts; what a model thinks, and what it calls, stand between them."""
    parts = getattr(getattr(candidate, "content", None), "parts", None)
    for part in parts if isinstance(parts, list) else []:
        text = getattr(part, "text", None)
        if isinstance(text, str) and not getattr(part, "thought", False):
            yield text


def _problem_of_prompt(response: object) -> str:
    feedback = getattr(response, "promptFeedback", None)
    if feedback is None:
        return "google's answer holds no candidate."
    return f"google blocked the prompt before the model saw it ({_known(feedback, 'blockReason', _BLOCKS)})."


def _problem_of_answer(candidate: object, has_text: bool) -> str | None:
    reason = _word(candidate, "finishReason")
    if reason == "MAX_TOKENS":
        where = "The model's answer was cut off at" if has_text else "All of the answer was spent on thinking before"
        return f"{where} the limit of tokens."
    if reason == "CONTINUATION":
        return "google broke the model's answer off, to be asked to go on."
    if reason in _REFUSALS:
        return f"The model refused to judge these essays ({reason})."
    if reason in _FAILURES:
        return f"The model ended without a whole answer ({reason})."
    # Gateways leave the reason out, and there will be others: whether the text is a whole answer, its JSON tells.
    return None if has_text else "google's answer holds no text."


def _known(holder: object, name: str, known: frozenset[str]) -> str:
    """A reason by its name only if it is one of the vendor's: another could be any text."""
    word = _word(holder, name)
    return word if word in known else "for an unknown reason"


def _word(holder: object, name: str) -> str | None:
    value = getattr(holder, name, None)
    return None if value is None else str(value).upper()


def _first(candidates: object) -> object:
    return candidates[0] if isinstance(candidates, list) and candidates else None


def _counts(usage: object) -> TokenCounts:
    # Cached tokens are inside already; those of a tool's results are not.
    prompt = count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount")
    written = count(usage, "candidatesTokenCount") + count(usage, "thoughtsTokenCount")
    return TokenCounts(
        prompt=prompt,
        # Some gateways tell the total alone.
        completion=written or max(0, count(usage, "totalTokenCount") - prompt),
        cache_read=count(usage, "cachedContentTokenCount"),
    )
