from enum import Enum

import pytest

from contracts.enums import CallbackStatus, EssayWinner, LLMProviderType, QueueStatus


@pytest.mark.parametrize(
    ("vocabulary", "values"),
    [
        (LLMProviderType, "anthropic openai google openrouter mock"),
        (QueueStatus, "queued processing completed failed expired"),
        (CallbackStatus, "none pending published dead"),
    ],
)
def test_a_vocabulary_has_exactly_the_words_of_the_contract(vocabulary: type[Enum], values: str) -> None:
    """A further word would make existing consumers drop what carries it."""
    assert [word.value for word in vocabulary] == values.split()


def test_the_winner_is_named_as_the_essays_are_named_in_a_prompt() -> None:
    """The two values contain a space, and are plain text."""
    assert [winner.value for winner in EssayWinner] == ["Essay A", "Essay B"]
    assert f"{EssayWinner.ESSAY_A} wins" == "Essay A wins"
