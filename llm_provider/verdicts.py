"""A model's answer, made into a Verdict or refused. One path for all vendors."""

import json
import re
import unicodedata

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
_FENCE = "```"
# Servers that do not know a model's thoughts as such leave them before its answer.
_THOUGHTS_BEGIN = "<think>"
_THOUGHTS_END = re.compile("</think>", re.IGNORECASE)
# A verdict has some hundred characters; what is longer is not parsed, since a model may write what holds a parser up.
MAX_VERDICT_CHARS = 200_000

# Some servers put it before everything they write.
_BYTE_ORDER_MARK = "\ufeff"

# Not less is kept where words are to stay whole: some scripts have no spaces.
_LEAST_KEPT_CHARS = JUSTIFICATION_MAX_CHARS * 4 // 5
# What belongs to the character before it: accents, variants, skin tones, and the joints of composed emoji.
_BELONGS_TO_THE_LAST = frozenset({"Mn", "Mc", "Me", "Sk", "Cf"})
_JOINT = "\u200d"


def parse_verdict(answer: str) -> Verdict:
    """Read a model's answer; InvalidVerdict says what is wrong with it and never quotes it."""
    fields = _json_object(answer)
    return Verdict(
        winner=_winner(fields.get("winner")),
        justification=_justification(fields.get("justification")),
        confidence=_confidence(fields.get("confidence")),
    )


def _json_object(answer: str) -> dict[str, object]:
    text = _without_fence(_without_thoughts(answer.removeprefix(_BYTE_ORDER_MARK)))
    if len(text) > MAX_VERDICT_CHARS:
        raise InvalidVerdict("The model's answer is longer than any verdict.")
    try:
        parsed = json.loads(text, object_pairs_hook=_without_contradiction)
    except (ValueError, RecursionError):
        parsed = None
    # Outside the handler, because a decoding error carries the whole answer with it.
    if not isinstance(parsed, dict):
        raise InvalidVerdict("The model's answer is not a JSON object.")
    return parsed


def _without_thoughts(answer: str) -> str:
    text = answer.strip()
    if text[: len(_THOUGHTS_BEGIN)].lower() != _THOUGHTS_BEGIN:
        return text
    end = _THOUGHTS_END.search(text)
    return text[end.end() :].strip() if end else text


def _without_fence(text: str) -> str:
    if not (len(text) >= 2 * len(_FENCE) and text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    inner = text[len(_FENCE) : -len(_FENCE)]
    return (inner[4:] if inner[:4].lower() == "json" else inner).strip()


def _without_contradiction(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("two fields have the same name")
    return fields


def _winner(value: object) -> EssayWinner:
    for winner in EssayWinner:
        if value == winner.value:
            return winner
    raise InvalidVerdict("The model's answer names no known winner.")


def _justification(value: object) -> str:
    # JSON can spell half a character (a lone surrogate), which UTF-8 cannot write, and NUL, which many a store cannot.
    text = value.replace("\0", "").strip().encode(errors="replace").decode() if isinstance(value, str) else ""
    if not any(character.isprintable() for character in text):
        raise InvalidVerdict("The model's answer gives no justification.")
    return _cut(text)


def _cut(text: str) -> str:
    """Keep whole words up to the limit; what has no spaces there is cut between two characters."""
    if len(text) <= JUSTIFICATION_MAX_CHARS:
        return text
    ends = range(JUSTIFICATION_MAX_CHARS, _LEAST_KEPT_CHARS - 1, -1)
    end = next((end for end in ends if text[end].isspace()), None) or _end_of_a_character(text)
    return text[:end].rstrip()


def _end_of_a_character(text: str) -> int:
    """Where a reader sees one end, at the limit or a little before."""
    for end in range(JUSTIFICATION_MAX_CHARS, _LEAST_KEPT_CHARS, -1):
        if unicodedata.category(text[end]) not in _BELONGS_TO_THE_LAST and text[end - 1] != _JOINT:
            return end
    return JUSTIFICATION_MAX_CHARS


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
