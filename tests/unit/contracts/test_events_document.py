"""docs/events.md is what consumers in other languages work from, so it is checked like code."""

import re
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import openai
import pytest

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode, ErrorDetail
from contracts.event_enums import TOPICS
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from contracts.wire import MAX_NESTING
from llm_provider.adapters.pricing import NOTHING_COUNTED
from llm_provider.adapters.providers.openai_errors import translate
from llm_provider.adapters.providers.vendor_errors import of_exception, of_status
from llm_provider.outcomes import failed

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


def test_the_failure_is_one_that_happens() -> None:
    """With its message, its details and its notes as the service makes them of a vendor that does not answer."""
    told = EventEnvelope[LLMComparisonResultV1].model_validate_json(EXAMPLES[1]).data
    silence = openai.APITimeoutError(httpx2.Request("POST", "http://vendor.test"))
    silence.__cause__ = httpx2.ReadTimeout("")
    failure = translate(LLMProviderType.OPENAI, silence)
    assert told.error_detail is not None
    assert (told.error_detail.message, told.error_detail.details) == (failure.message, failure.details)
    assert told.request_metadata.keys() >= {"prompt_sha256", "cost_note"}
    assert told.request_metadata["cost_note"] == NOTHING_COUNTED


def test_every_detail_of_an_error_is_explained() -> None:
    """Of a status, of an exception, and of a wait."""
    refused = of_status(LLMProviderType.OPENAI, 429, {"retry-after": "17"})
    stored = [
        failed("id", error, response_time_ms=0, at=datetime.now(UTC)).error
        for error in (refused, of_exception(LLMProviderType.OPENAI, httpx2.ReadTimeout("")))
    ]
    listed = re.findall(r"^\* `(\w+)`:", section("What the fields mean"), re.MULTILINE)
    assert listed == ["http_status", "exception", "retry_after_seconds"]
    assert {name for error in stored if error is not None for name in error.details} == set(listed)


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
