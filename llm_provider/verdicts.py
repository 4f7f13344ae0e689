"""A model's answer, made into a Verdict or refused. One path for all vendors."""

import json
import re

from contracts.enums import EssayWinner
from llm_provider.errors import InvalidVerdict
from llm_provider.internal_models import JUSTIFICATION_MAX_CHARS, Verdict

# The strictest common subset of what vendors take: every field required, nothing additional, no minimum,
# maximum or length.
VERDICT_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "winner": {
            "type": "string",
            "enum": [winner.value for winner in EssayWinner],
            "description": "The better essay.",
        },
        "justification": {
            "type": "string",
            "description": f"The decisive reasons, in at most {JUSTIFICATION_MAX_CHARS} characters.",
        },
        "confidence": {
            "type": "integer",
            "enum": [1, 2, 3, 4, 5],
            "description": "From 1, a guess, to 5, certain.",
        },
    },
    "required": ["winner", "justification", "confidence"],
    "additionalProperties": False,
}

# A model that knows no schema puts its JSON into a block of code, as it would for a person.
_CODE_FENCE = re.compile(r"(?s)\s*```(?:json)?\s*(.*?)\s*```\s*")

# Some servers put it before everything they write.
_BYTE_ORDER_MARK = "\ufeff"

# As much as may be kept, up to where no word goes on.
_WHOLE_WORDS = re.compile(rf"(?s).{{1,{JUSTIFICATION_MAX_CHARS}}}(?!\S)")


def parse_verdict(answer: str) -> Verdict:
    """Read a model's answer; InvalidVerdict says what is wrong with it and never quotes it."""
    fields = _json_object(answer)
    return Verdict(
        winner=_winner(fields.get("winner")),
        justification=_justification(fields.get("justification")),
        confidence=_confidence(fields.get("confidence")),
    )


def _json_object(answer: str) -> dict[str, object]:
    text = answer.removeprefix(_BYTE_ORDER_MARK)
    fenced = _CODE_FENCE.fullmatch(text)
    try:
        parsed = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        parsed = None
    # Outside the handler, because a decoding error carries the whole answer with it.
    if not isinstance(parsed, dict):
        raise InvalidVerdict("The model's answer is not a JSON object.")
    return parsed


def _winner(value: object) -> EssayWinner:
    for winner in EssayWinner:
        if value == winner.value:
            return winner
    raise InvalidVerdict("The model's answer names no known winner.")


def _justification(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidVerdict("The model's answer gives no justification.")
    # JSON can spell half a character (a lone surrogate), which UTF-8 cannot write.
    return _cut(value.strip().encode(errors="replace").decode())


def _cut(text: str) -> str:
    """Keep whole words up to the limit; a single word longer than that is cut where it must be."""
    if len(text) <= JUSTIFICATION_MAX_CHARS:
        return text
    whole_words = _WHOLE_WORDS.match(text)
    return (whole_words[0] if whole_words else text[:JUSTIFICATION_MAX_CHARS]).rstrip()


def _confidence(value: object) -> float:
    """Put confidence on 0..1: [1, 5] is the scale we ask for, below it a fraction, above it a percentage."""
    # bool is an int to Python, but `true` is not a number; NaN and infinities fail every comparison below.
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 1 <= value <= 5:
            return (value - 1) / 4
        if 0 <= value < 1:
            return float(value)
        if 5 < value <= 100:
            return value / 100
    raise InvalidVerdict("The model's answer gives no confidence that can be read.")
