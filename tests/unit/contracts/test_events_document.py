"""docs/events.md is what consumers in other languages work from, so it is checked like code."""

import re
from pathlib import Path

import pytest

from contracts.errors import ErrorCode, ErrorDetail
from contracts.event_enums import TOPICS
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from contracts.wire import MAX_NESTING

REPOSITORY = Path(__file__).resolve().parents[3]
DOCUMENT = (REPOSITORY / "docs" / "events.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)\n```", DOCUMENT, re.DOTALL)


def section(title: str) -> str:
    _, _, rest = DOCUMENT.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """All names in backticks in the first column of the tables."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_what_the_models_write(example: str) -> None:
    """Not a field, a default or a format may differ."""
    event = EventEnvelope[LLMComparisonResultV1].model_validate_json(example)
    assert event.model_dump_json(indent=2) == example


def test_there_is_an_example_of_a_success_and_one_of_a_failure() -> None:
    """In this order, each keeping to the promises of the text around it."""
    events = [EventEnvelope[LLMComparisonResultV1].model_validate_json(each) for each in EXAMPLES]
    assert [event.data.is_success for event in events] == [True, False]
    assert all(event.correlation_id == event.data.correlation_id for event in events)
    assert all(event.event_timestamp == event.data.completed_at for event in events)
    assert f"key `{events[0].correlation_id}`, `event_id: {events[0].event_id}`" in DOCUMENT


def test_every_error_code_has_its_sentence() -> None:
    """One row each, in the order of the contract, and none that does not exist."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section("Error codes"), re.MULTILINE)
    assert [code for code, _ in rows] == [code.value for code in ErrorCode]
    assert all(sentence.endswith(".") for _, sentence in rows)


def test_every_topic_is_listed() -> None:
    """With the event that it carries."""
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", section("Topics"), re.MULTILINE)
    assert rows == [(event.value, topic) for event, topic in TOPICS.items()]


def test_every_field_is_explained() -> None:
    """The envelope's first, then the payload's, as they come on the wire."""
    fields = [*EventEnvelope.model_fields, *LLMComparisonResultV1.model_fields]
    assert first_cells(section("What the fields mean")) == fields
    assert set(ErrorDetail.model_fields) <= set(re.findall(r'"(\w+)":', EXAMPLES[1]))


def test_every_link_leads_somewhere() -> None:
    """The schemas and the example consumer are found from the document."""
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", DOCUMENT):
        assert (REPOSITORY / "docs" / link).exists(), link


def test_the_limit_of_nesting_is_the_one_that_is_checked() -> None:
    """It is the only number that the text repeats from the code."""
    assert f"at most {MAX_NESTING} levels deep" in DOCUMENT
