"""What the README shows as the answer to its curl is what the service makes of that very request."""

import json
import re
from pathlib import Path

import pytest

from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.adapters.providers.mock import MockProvider
from llm_provider.api_models import LLMComparisonRequest
from llm_provider.callbacks import EVENT_TYPE, callback_event_id
from llm_provider.config import Settings
from llm_provider.internal_models import ComparisonTexts, ProviderAnswer, ProviderCall
from tests.unit.builders import a_prompt

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def shown(pattern: str) -> str:
    """The one place of the README that the pattern's group matches."""
    (text,) = re.findall(pattern, README, re.DOTALL)
    return str(text)


@pytest.fixture
def request_body() -> LLMComparisonRequest:
    return LLMComparisonRequest.model_validate_json(shown(r"```\ncurl [^\n]* -d '(.*?)'\n```"))


@pytest.fixture
def event() -> EventEnvelope[LLMComparisonResultV1]:
    return EventEnvelope[LLMComparisonResultV1].model_validate_json(shown(r"```json\n(.*?)```"))


def mocks_answer(body: LLMComparisonRequest) -> ProviderAnswer:
    mock = MockProvider(Settings(mock_latency_ms=0))
    texts = ComparisonTexts(user_prompt=body.user_prompt, essay_a=body.essay_a, essay_b=body.essay_b)
    call = ProviderCall(texts=texts, prompt=a_prompt(texts), model=mock.default_model)
    return mock.compare(call, timeout_seconds=5)


def test_the_event_is_what_the_mock_makes_of_the_request(
    request_body: LLMComparisonRequest, event: EventEnvelope[LLMComparisonResultV1]
) -> None:
    """Whoever runs the curl must see these values, and not merely some like them."""
    answer, told = mocks_answer(request_body), event.data

    assert (told.winner, told.justification) == (answer.verdict.winner, answer.verdict.justification)
    assert told.confidence == answer.verdict.confidence_on_the_wire
    assert (told.token_usage, told.cost_estimate) == (answer.token_usage, answer.cost_usd)
    assert (told.provider, told.model) == (MockProvider.name, MockProvider.default_model)
    assert told.request_metadata == request_body.metadata


def test_the_event_belongs_to_the_answer_above_it(
    request_body: LLMComparisonRequest, event: EventEnvelope[LLMComparisonResultV1]
) -> None:
    """The ids are samples, and still belong together as they do in a real run."""
    queue_id = shown(r"\nLocation: /api/v1/status/(\S+)\n")

    assert event.data.request_id == queue_id == shown(r'\{"queue_id":"([^"]+)"')
    assert event.event_id == callback_event_id(queue_id)
    assert str(event.correlation_id) == str(event.data.correlation_id) == shown(r"with the key `([^`]+)`")
    assert request_body.callback_topic == event.event_type == EVENT_TYPE


def test_the_event_shows_every_field(event: EventEnvelope[LLMComparisonResultV1]) -> None:
    """In the order and with the values that stand on the wire."""
    assert json.loads(shown(r"```json\n(.*?)```")) == json.loads(event.model_dump_json())
