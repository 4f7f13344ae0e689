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
_CODE_FENCE = re.compile(r"(?is)\s*```(?:json)?\s*(.*?)\s*```\s*")
# Servers that do not know a model's thoughts as such leave them before its answer.
_THOUGHTS = re.compile(r"(?is)\A\s*<think>.*?</think>")

# Some servers put it before everything they write.
_BYTE_ORDER_MARK = "\ufeff"

# As much as may be kept, up to where no word goes on; not too little, since some scripts have no spaces.
_WHOLE_WORDS = re.compile(rf"(?s).{{{JUSTIFICATION_MAX_CHARS * 4 // 5},{JUSTIFICATION_MAX_CHARS}}}(?!\S)")
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
    text = _THOUGHTS.sub("", answer.removeprefix(_BYTE_ORDER_MARK))
    fenced = _CODE_FENCE.fullmatch(text)
    try:
        parsed = json.loads(fenced[1] if fenced else text, object_pairs_hook=_without_contradiction)
    except (ValueError, RecursionError):
        parsed = None
    # Outside the handler, because a decoding error carries the whole answer with it.
    if not isinstance(parsed, dict):
        raise InvalidVerdict("The model's answer is not a JSON object.")
    return parsed


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
    whole_words = _WHOLE_WORDS.match(text)
    return (whole_words[0] if whole_words else text[: _end_of_a_character(text)]).rstrip()


def _end_of_a_character(text: str) -> int:
    """Where a reader sees one end, at the limit or a little before."""
    for end in range(JUSTIFICATION_MAX_CHARS, JUSTIFICATION_MAX_CHARS * 4 // 5, -1):
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
