"""From a model's answer to a Verdict."""

import json
import math
import time
from typing import Any

import pytest

from contracts.enums import EssayWinner
from llm_provider.errors import InvalidVerdict
from llm_provider.verdicts import VERDICT_SCHEMA, parse_verdict

SECRET = "zebra-secret-zebra"


def answer(**changes: Any) -> str:
    """A good answer as JSON, with some fields changed; `...` leaves a field out."""
    fields = {"winner": "Essay B", "justification": "It argues better.", "confidence": 4, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


def test_a_good_answer_becomes_a_verdict() -> None:
    """Winner and justification stand; 4 of 1..5 is three quarters of the way."""
    verdict = parse_verdict(answer())
    assert verdict.winner is EssayWinner.ESSAY_B
    assert verdict.justification == "It argues better."
    assert verdict.confidence == 0.75


@pytest.mark.parametrize("fenced", ["```json\n{}\n```", "```JSON\n{}\n```", "```\n{}\n```\n", " ```json {}```"])
def test_an_answer_in_a_block_of_code_is_read(fenced: str) -> None:
    """Models that know no schema write it so; anything else around the JSON is no answer."""
    assert parse_verdict(fenced.format(answer())).winner is EssayWinner.ESSAY_B
    with pytest.raises(InvalidVerdict):
        parse_verdict("Sure: " + fenced.format(answer()))


@pytest.mark.parametrize("before", ["\ufeff", "\ufeff\n", "\ufeff```json\n"])
def test_a_byte_order_mark_costs_no_answer(before: str) -> None:
    """Some servers put it before everything they write."""
    assert parse_verdict(f"{before}{answer()}{'```' if '`' in before else ''}").winner is EssayWinner.ESSAY_B


@pytest.mark.parametrize(
    ("given", "inside", "on_the_wire"),
    [
        (1, 0.0, 1.0),
        (1.0, 0.0, 1.0),
        (3, 0.5, 3.0),
        (4.6, 0.9, 4.6),
        (5, 1.0, 5.0),
        (0, 0.0, 1.0),
        (-0.0, 0.0, 1.0),
        (0.25, 0.25, 2.0),
        (0.999, 0.999, 4.996),
        (5.01, 0.0501, 1.2004),
        (6, 0.06, 1.24),
        (85, 0.85, 4.4),
        (100, 1.0, 5.0),
    ],
)
def test_confidence_is_converted_from_the_scale_it_is_on(given: float, inside: float, on_the_wire: float) -> None:
    """[1, 5] is the scale we ask for, less is a fraction, more a percentage."""
    verdict = parse_verdict(answer(confidence=given))
    assert math.isclose(verdict.confidence, inside, abs_tol=1e-12)
    assert math.isclose(verdict.confidence_on_the_wire, on_the_wire)


@pytest.mark.parametrize(
    "given",
    [-1, -0.001, 100.001, 101, 10**400, math.nan, math.inf, -math.inf, True, False, "4", "high", None, [4], {}, ...],
)
def test_any_other_confidence_is_refused_and_not_clamped(given: object) -> None:
    """Nobody knows what it means, so nothing is made of it."""
    with pytest.raises(InvalidVerdict):
        parse_verdict(answer(confidence=given))


@pytest.mark.parametrize(
    "given", ["Essay C", "essay a", "A", "", " Essay A", "Essay A or Essay B", None, 0, True, ["Essay A"], {}, ...]
)
def test_an_unknown_winner_is_refused(given: object) -> None:
    """It is never taken for Essay A."""
    with pytest.raises(InvalidVerdict):
        parse_verdict(answer(winner=given))


@pytest.mark.parametrize("given", ["", "  \n\t", "\u200b", "\0", None, 5, ["It argues better."], ...])
def test_a_missing_or_blank_justification_is_refused(given: object) -> None:
    """A winner without a reason is no verdict."""
    with pytest.raises(InvalidVerdict):
        parse_verdict(answer(justification=given))


def test_a_long_justification_is_cut_after_a_whole_word() -> None:
    """At most 500 characters, and no half word at the end."""
    words = "".join(f"word{number} " for number in range(200))
    kept = parse_verdict(answer(justification=words)).justification
    assert 480 < len(kept) <= 500
    assert words.startswith(f"{kept} ")


def test_500_characters_are_kept_as_they_are_even_before_a_space() -> None:
    """The limit itself is allowed."""
    exact = "ab " * 166 + "ab"
    assert len(exact) == 500
    assert parse_verdict(answer(justification=exact)).justification == exact
    assert parse_verdict(answer(justification=f"{exact} and more")).justification == exact
    assert parse_verdict(answer(justification=f"{exact}cd")).justification == exact.removesuffix(" ab")


def test_one_endless_word_is_cut_where_it_must_be() -> None:
    """Writing without spaces is no reason to lose a verdict, nor to keep only what stands before the last space."""
    assert parse_verdict(answer(justification="é" * 501)).justification == "é" * 500
    assert parse_verdict(answer(justification="Essay A " + "好" * 600)).justification == "Essay A " + "好" * 492


@pytest.mark.parametrize(
    "character", ["e\u0301", "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f"]
)
def test_no_character_is_cut_in_two(character: str) -> None:
    """As a reader sees it: accents, skin tones and families stay whole."""
    for before in range(490, 500):
        kept = parse_verdict(answer(justification="x" * before + character * 20)).justification
        rest = kept.removeprefix("x" * before)
        assert len(kept) <= 500
        assert rest == character * rest.count(character)


def test_a_nul_does_not_reach_the_verdict() -> None:
    """Many a store of a consumer's takes none."""
    assert parse_verdict(answer(justification="Good\0 point")).justification == "Good point"


@pytest.mark.parametrize("thoughts", ["<think>{}</think>", "\n<think>\nHm. {}\n</think>\n", "<THINK></THINK>"])
def test_thoughts_before_an_answer_are_none_of_it(thoughts: str) -> None:
    """Some servers leave them there; a verdict inside them does not count."""
    other = answer(winner="Essay A")
    assert parse_verdict(thoughts.replace("{}", other) + answer()).winner is EssayWinner.ESSAY_B
    with pytest.raises(InvalidVerdict):
        parse_verdict(thoughts.replace("{}", other))


SPACES = " " * 100_000
FENCES = "`" * 100_000
THOUGHTS = "<think>" * 20_000
BROKEN_ENDS = "</think" * 20_000
HOSTILE = {
    "a fence and spaces": f"```{SPACES}",
    "spaces and fences": f"{SPACES}```{SPACES}json{SPACES}```{SPACES}x",
    "many fences": FENCES,
    "a fence without end": f"```json{SPACES}{{",
    "a thought without end": f"<think>{SPACES}",
    "many thoughts": THOUGHTS,
    "many ends of thoughts": f"<think>{BROKEN_ENDS}</think{SPACES}",
    "deep objects": '{"a":' * 40_000,
    "many keys": "{" + ",".join(f'"{number}":1' for number in range(400_000)) + "}",
    "as many keys as are read": "{" + ",".join(f'"{number}":1' for number in range(19_000)) + "}",
    "many digits": f'{{"winner": "Essay A", "justification": "x", "confidence": {"1" * 150_000}}}',
    "many decimals": f'{{"winner": "Essay A", "justification": "x", "confidence": 7{"0" * 150_000}.5e-2}}',
    "a great exponent": '{"winner": "Essay A", "justification": "x", "confidence": 1e9999999}',
    "many signs that are none": '{"winner": "Essay A", "justification": "' + "\\u0301" * 30_000,
    "four megabytes": "x" * 4_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_answer_holds_the_interpreter(text: str) -> None:
    """A millisecond or so each; while a pattern goes back and back, no lease of the process is renewed."""
    begin = time.thread_time()
    with pytest.raises(InvalidVerdict):
        parse_verdict(text)
    assert time.thread_time() - begin < 0.5


@pytest.mark.parametrize(
    "surrounded",
    ["{}" + SPACES, SPACES + "{}", f"```{SPACES}{{}}{SPACES}```", f"<think>{SPACES}{THOUGHTS}</think>{SPACES}{{}}"],
)
def test_a_verdict_is_found_however_much_stands_around_it(surrounded: str) -> None:
    """Some models end with spaces until they are stopped."""
    begin = time.thread_time()
    assert parse_verdict(surrounded.replace("{}", answer())).winner is EssayWinner.ESSAY_B
    assert time.thread_time() - begin < 0.5


def test_an_answer_that_contradicts_itself_is_refused() -> None:
    """The last of two winners is not silently the one."""
    with pytest.raises(InvalidVerdict):
        parse_verdict('{"winner": "Essay A", "justification": "Good.", "confidence": 4, "winner": "Essay B"}')


def test_half_a_character_does_not_reach_the_verdict() -> None:
    """JSON can spell a lone surrogate, which UTF-8 cannot write."""
    verdict = parse_verdict('{"winner": "Essay A", "confidence": 2, "justification": "Good \\ud83d point"}')
    assert verdict.justification.encode().decode() == "Good ? point"


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"Essay A"', "Essay A", '{"winner": "Essay A"', "[" * 100_000, "{}", "[{}]", "\ud800"],
)
def test_what_is_no_json_object_of_ours_is_refused(text: str) -> None:
    """Neither prose nor half an object nor a nest of brackets passes or breaks anything."""
    with pytest.raises(InvalidVerdict):
        parse_verdict(text)


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f'{{"winner": "{SECRET}"',
        answer(winner=SECRET),
        answer(confidence=SECRET),
        answer(justification=[SECRET]),
    ],
)
def test_a_refusal_never_quotes_the_answer(text: str) -> None:
    """Neither its message nor its details nor an exception behind it holds what the model wrote."""
    with pytest.raises(InvalidVerdict) as raised:
        parse_verdict(text)
    assert SECRET not in repr(raised.value) + str(raised.value.details)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_fields_that_we_did_not_ask_for_are_ignored() -> None:
    """A server that does not know our schema may add some."""
    assert parse_verdict(answer(reasoning="...")).winner is EssayWinner.ESSAY_B


def test_the_schema_stays_within_what_every_vendor_takes() -> None:
    """Every field required, nothing additional, and none of the keywords that some vendors refuse."""
    properties = VERDICT_SCHEMA["properties"]
    assert isinstance(properties, dict)
    assert VERDICT_SCHEMA["required"] == list(properties)
    assert VERDICT_SCHEMA["additionalProperties"] is False
    assert properties["winner"]["enum"] == ["Essay A", "Essay B"]
    assert properties["confidence"]["enum"] == [1, 2, 3, 4, 5]
    written = json.dumps(VERDICT_SCHEMA)
    for refused in ("minimum", "maximum", "minLength", "maxLength", "pattern", "$ref"):
        assert f'"{refused}"' not in written
