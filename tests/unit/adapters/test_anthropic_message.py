"""A message is read without trust."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import Message, TextBlock

from llm_provider.adapters.providers.anthropic_message import read_message
from llm_provider.internal_models import TokenCounts

VERDICT = {"winner": "Essay A", "justification": "It is clearer.", "confidence": 2}
WHOLE = json.dumps(VERDICT)
USAGE = {"input_tokens": 1000, "output_tokens": 50}


def block(kind: str, **fields: Any) -> object:
    return SimpleNamespace(type=kind, **fields)


def text(content: object) -> object:
    return block("text", text=content)


def tool(arguments: object, name: str = "verdict") -> object:
    return block("tool_use", id="toolu_1", name=name, input=arguments)


def message(*content: object, stop_reason: object = "end_turn", usage: object = None) -> object:
    """An object like the SDK's, which takes every shape that the vendor's JSON has."""
    counted = SimpleNamespace(**USAGE) if usage is None else usage
    return SimpleNamespace(content=list(content), stop_reason=stop_reason, usage=counted)


def test_a_good_message_is_text_and_counts() -> None:
    """Without a problem, and at the list's prices."""
    reply = read_message(message(text(WHOLE)))
    assert (reply.text, reply.problem) == (WHOLE, None)
    assert reply.counts == TokenCounts(prompt=1000, completion=50)
    assert reply.price_context == {}
    assert reply.charged_usd is None


def test_all_text_is_one_answer() -> None:
    """Whatever stands between, in the order it came."""
    thought = block("thinking", thinking="Hm.", text="Hm.")
    reply = read_message(message(thought, text(WHOLE[:9]), block("redacted_thinking", data="x"), text(WHOLE[9:])))
    assert reply.text == WHOLE


def test_a_block_is_what_its_type_says() -> None:
    """The SDK makes an object of its first class for text of a type that it does not know."""
    content = [TextBlock.construct(type="of_next_year", text="Hello"), TextBlock.construct(type="text", text=WHOLE)]
    built = Message.construct(content=content)
    assert read_message(built).text == WHOLE


def test_a_tool_s_arguments_are_the_answer() -> None:
    """Not what is said around it."""
    reply = read_message(message(text("I shall use the tool."), tool(VERDICT), text("Done."), stop_reason="tool_use"))
    assert (json.loads(reply.text), reply.problem) == (VERDICT, None)


def test_another_tool_is_none_of_ours() -> None:
    """Nobody offered it."""
    assert read_message(message(tool(VERDICT, name="search"))).problem is not None
    assert read_message(message(tool({}, name="search"), text(WHOLE))).text == WHOLE


PROBLEMS = ["refusal", "max_tokens", "model_context_window_exceeded", "pause_turn"]


@pytest.mark.parametrize("stop_reason", PROBLEMS)
def test_why_there_is_no_answer_is_seen_before_its_json(stop_reason: str) -> None:
    """Even when what is there happens to be a whole verdict; the tokens were counted all the same."""
    for content in ([text(WHOLE)], [tool(VERDICT)], []):
        reply = read_message(message(*content, stop_reason=stop_reason))
        assert reply.problem is not None
        assert reply.counts.prompt == 1000


def test_each_problem_has_words_of_its_own() -> None:
    """So do an answer without text, and something that is no message."""
    problems = [read_message(message(text(WHOLE), stop_reason=reason)).problem for reason in PROBLEMS]
    problems += [read_message(message()).problem, read_message(None).problem]
    assert None not in problems
    assert len(set(problems)) == len(PROBLEMS) + 2


@pytest.mark.parametrize("stop_reason", ["end_turn", "stop_sequence", "tool_use", "of_next_year", None, 7, [], {}])
def test_a_whole_answer_counts_whatever_its_end_is_called(stop_reason: object) -> None:
    """Gateways invent names, or give none."""
    assert read_message(message(text(WHOLE), stop_reason=stop_reason)).problem is None


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "<html>",
        "",
        [],
        [1],
        {},
        0,
        SimpleNamespace(),
        SimpleNamespace(content=None),
        SimpleNamespace(content=WHOLE),
        SimpleNamespace(content={"type": "text", "text": WHOLE}),
        SimpleNamespace(content=[None, 7, "text", [], {"type": "text", "text": WHOLE}]),
        message(text(None), text(7), text([WHOLE])),
        message(block("text")),
        message(SimpleNamespace(text=WHOLE)),
    ],
)
def test_a_200_of_any_other_shape_is_a_problem(odd: object) -> None:
    """The SDK hands on a str, None, a list or an empty object without a word."""
    reply = read_message(odd)
    assert reply.problem is not None
    assert reply.text == ""


def test_cached_tokens_belong_to_the_prompt() -> None:
    """This vendor counts them beside the others."""
    usage = SimpleNamespace(**USAGE, cache_read_input_tokens=300, cache_creation_input_tokens=20)
    counts = read_message(message(text(WHOLE), usage=usage)).counts
    assert counts == TokenCounts(prompt=1320, completion=50, cache_read=300, cache_written=20)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        "many",
        7,
        SimpleNamespace(),
        SimpleNamespace(input_tokens=None, output_tokens="7", cache_read_input_tokens=-3),
        SimpleNamespace(input_tokens=10**400, output_tokens=True, cache_creation_input_tokens=1.5),
    ],
)
def test_counts_that_make_no_sense_are_zero(usage: object) -> None:
    """A verdict is not lost because its tokens were not counted."""
    reply = read_message(message(text(WHOLE), usage=usage))
    assert (reply.counts, reply.problem) == (TokenCounts(), None)


@pytest.mark.parametrize(("speed", "context"), [("fast", {"speed": "fast"}), (None, {}), (7, {}), ([], {})])
def test_the_speed_is_told_to_the_price_list(speed: object, context: dict[str, str]) -> None:
    """It changes what a token costs."""
    usage = SimpleNamespace(**USAGE, speed=speed)
    assert read_message(message(text(WHOLE), usage=usage)).price_context == context


def test_the_text_is_not_shown() -> None:
    """It may quote an essay."""
    assert "clearer" not in repr(read_message(message(text(WHOLE))))
