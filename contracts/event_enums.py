"""The events of the platform and the Kafka topic that each one is published to by default."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ProcessingEvent(StrEnum):
    LLM_COMPARISON_RESULT = "llm_provider.comparison_result"
    LLM_REQUEST_STARTED = "llm_provider.request.started"
    LLM_REQUEST_COMPLETED = "llm_provider.request.completed"
    LLM_PROVIDER_FAILURE = "llm_provider.failure"


TOPICS: Final[Mapping[ProcessingEvent, str]] = MappingProxyType(
    {
        ProcessingEvent.LLM_COMPARISON_RESULT: "huleedu.llm_provider.comparison_result.v1",
        ProcessingEvent.LLM_REQUEST_STARTED: "huleedu.llm_provider.request_started.v1",
        ProcessingEvent.LLM_REQUEST_COMPLETED: "huleedu.llm_provider.request_completed.v1",
        ProcessingEvent.LLM_PROVIDER_FAILURE: "huleedu.llm_provider.failure.v1",
    }
)


def topic_name(event: ProcessingEvent, topics: Mapping[ProcessingEvent, str] = TOPICS) -> str:
    """The topic of an event. A ValueError names the events that have one when this one has none."""
    topic = topics.get(event)
    if topic is None:
        mapped = ", ".join(f"{each.name} ({each.value})" for each in topics)
        raise ValueError(f"The event {str(event)!r} has no topic; the mapped events are: {mapped}")
    return topic
