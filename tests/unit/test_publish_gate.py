"""Which topics a handler may publish to, and when the sweeper may probe a closed one."""

import pytest

from llm_provider.errors import BrokerUnavailable, EventRefused, TopicUnavailable
from llm_provider.publish_gate import FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS, PublishGate
from tests.unit.builders import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> PublishGate:
    return PublishGate(clock)


def test_every_topic_is_open_at_first(gate: PublishGate) -> None:
    """A fresh process has seen no failure."""
    assert gate.is_open("a")
    assert gate.may_probe("a")


def test_a_topic_that_failed_is_closed_and_no_other(gate: PublishGate) -> None:
    """One dead topic holds nobody else back."""
    gate.failed("a", TopicUnavailable("No leader."))
    assert (gate.is_open("a"), gate.is_open("b")) == (False, True)
    assert (gate.may_probe("a"), gate.may_probe("b")) == (False, True)


def test_a_broker_that_is_away_closes_all(gate: PublishGate) -> None:
    """It cannot be expected to take any other event."""
    gate.failed("a", BrokerUnavailable("No acknowledgement."))
    assert (gate.is_open("a"), gate.is_open("b")) == (False, False)
    assert (gate.may_probe("a"), gate.may_probe("b")) == (False, False)


def test_a_refused_event_closes_nothing(gate: PublishGate) -> None:
    """It says nothing about the next one."""
    gate.failed("a", EventRefused("Too large."))
    assert gate.is_open("a")


def test_a_probe_is_taken_by_one(gate: PublishGate, clock: Clock) -> None:
    """Of all the rows that wait for a closed topic one tries it per back-off; the gate stays closed to handlers."""
    gate.failed("a", TopicUnavailable("No leader."))
    clock.advance(FIRST_PROBE_SECONDS)
    assert [gate.may_probe("a"), gate.may_probe("a")] == [True, False]
    assert not gate.is_open("a")


def test_a_probe_that_never_ends_does_not_close_the_topic_for_ever(gate: PublishGate, clock: Clock) -> None:
    """Whoever took it may have died of it."""
    gate.failed("a", TopicUnavailable("No leader."))
    clock.advance(FIRST_PROBE_SECONDS)
    assert gate.may_probe("a")
    clock.advance(LONGEST_PROBE_SECONDS)
    assert gate.may_probe("a")


def test_while_the_broker_is_away_all_topics_share_one_probe(gate: PublishGate, clock: Clock) -> None:
    """Each of them would wait for the same broker."""
    gate.failed("a", BrokerUnavailable("No acknowledgement."))
    clock.advance(FIRST_PROBE_SECONDS)
    assert [gate.may_probe("a"), gate.may_probe("b")] == [True, False]


def test_the_back_off_doubles_up_to_its_longest(gate: PublishGate, clock: Clock) -> None:
    """However long an outage lasts, its end is noticed within seconds."""
    waits = []
    for _ in range(20):
        gate.failed("a", TopicUnavailable("No leader."))
        closed_at = clock.now
        while not gate.may_probe("a"):
            clock.advance(0.125)
        waits.append(clock.now - closed_at)
    assert waits == [1.0, 2.0, 4.0] + [5.0] * 17


def test_success_opens_the_topic_and_shows_that_the_broker_is_there(gate: PublishGate) -> None:
    """Other topics keep what was found out about themselves."""
    gate.failed("a", TopicUnavailable("No leader."))
    gate.failed("b", TopicUnavailable("No leader."))
    gate.failed("a", BrokerUnavailable("No acknowledgement."))
    gate.succeeded("a")
    assert (gate.is_open("a"), gate.is_open("b"), gate.is_open("c")) == (True, False, True)


def test_a_topic_that_fails_again_after_success_starts_anew(gate: PublishGate, clock: Clock) -> None:
    """The back-off counts failures in a row."""
    for _ in range(5):
        gate.failed("a", TopicUnavailable("No leader."))
    gate.succeeded("a")
    gate.failed("a", TopicUnavailable("No leader."))
    clock.advance(FIRST_PROBE_SECONDS)
    assert gate.may_probe("a")
