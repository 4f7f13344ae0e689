"""The models of the HTTP interface, where a rule is theirs alone; tests/unit/api puts them behind HTTP."""

import pytest
from pydantic import BaseModel, ValidationError

from llm_provider.api_models import (
    METADATA_MAX_BYTES,
    LLMComparisonRequest,
    LLMComparisonResponse,
    LLMConfigOverrides,
    LLMQueuedResponse,
    LLMQueueStatusResponse,
    legal_topic,
)

TEXTS = {"user_prompt": "prompt-4711", "essay_a": "essay-4712", "essay_b": "essay-4713"}


def test_a_request_shows_none_of_its_texts() -> None:
    """A repr ends up in logs and tracebacks."""
    request = LLMComparisonRequest.model_validate(
        TEXTS | {"llm_config_overrides": LLMConfigOverrides(system_prompt_override="system-4714")}
    )

    assert "471" not in repr(request)


def test_a_request_cannot_be_changed() -> None:
    """What was validated is what is stored."""
    request = LLMComparisonRequest.model_validate(TEXTS)
    with pytest.raises(ValidationError):
        request.callback_topic = "elsewhere"  # type: ignore[misc] # That is the point.


def test_metadata_counts_its_bytes_and_not_its_characters() -> None:
    """64 kB as JSON in UTF-8: a third of as many characters of three bytes each."""
    frame = len('{"a":""}')
    fits = {"a": "\N{EURO SIGN}" * ((METADATA_MAX_BYTES - frame) // 3)}
    LLMComparisonRequest.model_validate(TEXTS | {"metadata": fits})
    with pytest.raises(ValidationError, match="at most 65536 bytes"):
        LLMComparisonRequest.model_validate(TEXTS | {"metadata": {"a": fits["a"] + "\N{EURO SIGN}"}})


def test_a_topic_is_legal_as_kafka_counts() -> None:
    """249 characters are allowed and 250 are not."""
    assert legal_topic("x" * 249) == "x" * 249
    with pytest.raises(ValueError, match="1 to 249"):
        legal_topic("x" * 250)


@pytest.mark.parametrize("model", [LLMComparisonResponse, LLMQueuedResponse, LLMQueueStatusResponse])
def test_an_answer_never_leaves_a_field_out(model: type[BaseModel]) -> None:
    """Every field is required or fixed, so that a client can rely on its being there."""
    optional = {name for name, field in model.model_fields.items() if not field.is_required()}

    assert optional <= {"status"}
