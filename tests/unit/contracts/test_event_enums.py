import pytest

from contracts.event_enums import TOPICS, ProcessingEvent, topic_name


@pytest.mark.parametrize(
    ("event", "topic"),
    [
        ("llm_provider.comparison_result", "huleedu.llm_provider.comparison_result.v1"),
        ("llm_provider.request.started", "huleedu.llm_provider.request_started.v1"),
        ("llm_provider.request.completed", "huleedu.llm_provider.request_completed.v1"),
        ("llm_provider.failure", "huleedu.llm_provider.failure.v1"),
    ],
)
def test_an_event_has_the_topic_that_the_platform_knows(event: str, topic: str) -> None:
    """The names are fixed: consumers subscribe to them."""
    assert topic_name(ProcessingEvent(event)) == topic


def test_there_are_no_further_events_and_no_further_topics() -> None:
    """The bootstrap creates what is mapped, and nothing else."""
    assert len(ProcessingEvent) == len(TOPICS) == 4
    assert ProcessingEvent.LLM_COMPARISON_RESULT.value == "llm_provider.comparison_result"


def test_an_unmapped_event_is_refused_with_the_names_of_the_mapped_ones() -> None:
    """Whoever adds an event and forgets its topic is told what to choose from."""
    mapped: dict[ProcessingEvent, str] = {
        event: topic for event, topic in TOPICS.items() if event != ProcessingEvent.LLM_PROVIDER_FAILURE
    }
    with pytest.raises(ValueError, match="has no topic") as caught:
        topic_name(ProcessingEvent.LLM_PROVIDER_FAILURE, mapped)
    message = str(caught.value)
    assert "'llm_provider.failure'" in message
    assert all(event.name in message and event.value in message for event in mapped)
    assert ProcessingEvent.LLM_PROVIDER_FAILURE.name not in message


def test_something_that_is_no_event_is_refused_as_well() -> None:
    """Consumers without a type checker pass anything."""
    with pytest.raises(ValueError, match=r"'no\.such\.event' has no topic.*LLM_COMPARISON_RESULT"):
        topic_name("no.such.event")  # type: ignore[arg-type]


def test_the_mapping_cannot_be_changed() -> None:
    """A topic that changes at run time would lose events."""
    with pytest.raises(TypeError):
        TOPICS[ProcessingEvent.LLM_PROVIDER_FAILURE] = "elsewhere"  # type: ignore[index]
