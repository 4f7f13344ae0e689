"""The callback: what of an outcome reaches Kafka, when, and how often."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from contracts.enums import EssayWinner
from contracts.errors import ErrorCode
from contracts.event_enums import ProcessingEvent, topic_name
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.adapters.memory_bus import MemoryBus, PublishedRecord
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.callbacks import callback_event_id
from llm_provider.errors import (
    BrokerUnavailable,
    ComparisonError,
    EventRefused,
    LedgerUnavailable,
    PublishError,
    RateLimited,
    TopicUnavailable,
)
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import Decision
from llm_provider.publish_gate import FIRST_PROBE_SECONDS, SHORTEST_LOOK_SECONDS
from llm_provider.queue_models import Outcome, QueuedRequest
from tests.unit.builders import (
    SECRET,
    TOPIC,
    TRACE,
    Worker,
    a_request,
    a_timing,
    a_verdict_for,
    an_answer,
    an_error_for,
    read,
)

EVENT_TYPE = topic_name(ProcessingEvent.LLM_COMPARISON_RESULT)


@dataclass
class JournaledLedger(MemoryLedger):
    """A ledger that writes down its commits, and whose replies get lost or that does not answer, so many times."""

    journal: list[str] = field(default_factory=list)
    unanswered_commits: int = 0
    lost_replies: int = 0

    def commit(self, queue_id: str, outcome: Outcome, request: QueuedRequest | None = None) -> Decision | None:
        if self.unanswered_commits:
            self.unanswered_commits -= 1
            raise LedgerUnavailable("The ledger did not answer (away).")
        decision = super().commit(queue_id, outcome, request)
        self.journal.append("commit")
        if self.lost_replies:
            self.lost_replies -= 1
            raise LedgerUnavailable("The ledger did not answer (reply lost).")
        return decision

    def mark_delivered(self, decision: Decision) -> None:
        super().mark_delivered(decision)
        self.journal.append("delivered")


@dataclass
class JournaledBus(MemoryBus):
    """A bus that writes what it acknowledges, or is asked in vain, into a journal."""

    journal: list[str] = field(default_factory=list)

    def publish(self, topic: str, **record: Any) -> None:
        self.journal.append("publish")
        super().publish(topic, **record)


def journaled_worker(**ledger: Any) -> tuple[Worker, list[str]]:
    journal: list[str] = []
    bus = JournaledBus(journal=journal)
    worker = Worker(ledger=JournaledLedger(a_timing(), journal=journal, **ledger), bus=bus)
    worker.bus = bus
    return worker, journal


def only(records: list[PublishedRecord]) -> PublishedRecord:
    assert len(records) == 1
    return records[0]


def is_open(worker: Worker) -> bool:
    return worker.ledger.figures().open > 0


# --- the record


def test_each_event_goes_to_the_topic_its_own_request_named() -> None:
    """The topic is read from the stored request, never a constant."""
    worker = Worker()
    first, second = worker.accept(callback_topic="team-a.results"), worker.accept(callback_topic="team-b.results")
    for request in (first, second):
        worker.run(request)
    told = [(record.topic, read(record).data.request_id) for record in worker.records]
    assert told == [("team-a.results", first.queue_id), ("team-b.results", second.queue_id)]


@pytest.mark.parametrize("answer", [an_answer(), RateLimited("Too many calls.")], ids=["success", "failure"])
def test_the_key_is_the_callers_correlation_id(answer: Any) -> None:
    """As text, so that all events of one correlation arrive in order; it is neither the queue id nor the event id."""
    worker = Worker()
    worker.provider.answer = answer
    request = worker.accept()
    worker.run(request)
    assert only(worker.records).key == str(request.correlation_id).encode()


def test_a_verdict_arrives_as_the_clean_payload() -> None:
    """All that the contract names and nothing else, whatever the service keeps inside."""
    worker = Worker()
    request = worker.accept()
    worker.run(request)
    envelope = read(only(worker.records))
    data = envelope.data
    assert envelope.event_type == EVENT_TYPE
    assert (envelope.source_service, envelope.schema_version) == ("llm_provider_service", 1)
    assert (envelope.correlation_id, data.correlation_id) == (request.correlation_id, request.correlation_id)
    assert (data.winner, data.justification, data.confidence) == (EssayWinner.ESSAY_A, "Clearer structure.", 4.0)
    assert (data.error_detail, data.is_success) == (None, True)
    assert (data.provider, data.model) == (request.provider, request.model)
    assert (data.token_usage.total_tokens, data.cost_estimate) == (960, 0.0125)
    assert data.requested_at == request.queued_at
    assert data.request_metadata == request.metadata
    assert data.trace_id == TRACE.trace_id
    sent = json.loads(only(worker.records).value)
    assert set(sent) == set(EventEnvelope.model_fields)
    assert set(sent["data"]) == set(LLMComparisonResultV1.model_fields)


def test_a_failure_arrives_the_same_way_with_its_reason() -> None:
    """Provider and model are told on errors too; the tokens are zeros, the stack trace is null."""
    worker = Worker()
    worker.provider.answer = RateLimited("The provider limits the rate of calls.", details={"limit": 5})
    request = worker.accept()
    worker.run(request)
    data = read(only(worker.records)).data
    assert (data.winner, data.justification, data.confidence) == (None, None, None)
    assert data.error_detail is not None
    assert data.error_detail.error_code is ErrorCode.RATE_LIMIT
    assert data.error_detail.message == "The provider limits the rate of calls."
    assert data.error_detail.details == {"limit": 5}
    assert data.error_detail.correlation_id == request.correlation_id
    assert (data.error_detail.stack_trace, data.error_detail.timestamp) == (None, data.completed_at)
    assert (data.provider, data.model) == (request.provider, request.model)
    assert (data.token_usage.total_tokens, data.cost_estimate) == (0, 0.0)


@pytest.mark.parametrize(("answer", "ending"), [(an_answer(), "succeeded"), (RateLimited("Too many calls."), "failed")])
def test_the_headers_tell_what_the_event_is(answer: Any, ending: str) -> None:
    """CloudEvents in binary mode, trace context and our own: exactly those of contract.md 2.4."""
    worker = Worker()
    worker.provider.answer = answer
    request = worker.accept()
    worker.run(request)
    record = only(worker.records)
    envelope, sent = read(record), json.loads(record.value)
    assert sorted(record.headers) == sorted(
        {
            "content-type": b"application/json",
            "traceparent": TRACE.traceparent.encode(),
            "tracestate": b"vendor=opaque",
            "ce_specversion": b"1.0",
            "ce_id": str(envelope.event_id).encode(),
            "ce_source": b"llm_provider_service",
            "ce_type": f"{EVENT_TYPE}.{ending}".encode(),
            "ce_time": sent["event_timestamp"].encode(),
            "ce_subject": request.queue_id.encode(),
            "event_id": str(envelope.event_id).encode(),
            "event_type": EVENT_TYPE.encode(),
            "schema_version": b"1",
        }.items()
    )


def test_without_a_trace_there_are_no_trace_headers() -> None:
    """A header with nothing in it would be an invalid one."""
    worker = Worker()
    worker.run(worker.accept(trace_context=None))
    record = only(worker.records)
    assert {name for name, _ in record.headers}.isdisjoint({"traceparent", "tracestate"})
    assert read(record).metadata is None


def test_the_event_id_is_derived_from_the_queue_id() -> None:
    """Two requests of one correlation differ, two publications of one request do not."""
    worker = Worker()
    first = worker.accept()
    second = worker.accept(correlation_id=first.correlation_id)
    for request in (first, second):
        worker.run(request)
    ids = [read(record).event_id for record in worker.records]
    assert ids == [callback_event_id(first.queue_id), callback_event_id(second.queue_id)]
    assert ids[0] != ids[1]


# --- commit, then publish


def test_nothing_is_published_before_the_outcome_is_stored() -> None:
    """While the ledger is away the paid answer waits; then come the event and the note of its delivery."""
    worker, journal = journaled_worker(unanswered_commits=3)
    request = worker.accept()
    worker.run(request)
    assert journal == ["commit", "publish", "delivered"]
    assert len(worker.provider.calls) == 1
    assert not is_open(worker)


def test_an_outcome_that_cannot_be_stored_is_not_published() -> None:
    """The request is then as if it had never been called: the sweeper brings it back."""
    worker, journal = journaled_worker(unanswered_commits=10_000)
    request = worker.accept(deadline_seconds=0.05)
    with pytest.raises(LedgerUnavailable):
        worker.run(request)
    assert journal == []
    assert is_open(worker)


def test_a_commit_whose_reply_got_lost_is_still_published_once() -> None:
    """The repeated commit finds its own outcome, which nobody else will deliver for now."""
    worker, journal = journaled_worker(lost_replies=2)
    worker.run(worker.accept())
    assert journal == ["commit", "commit", "commit", "publish", "delivered"]


def test_the_process_returns_a_stored_and_undelivered_decision() -> None:
    """Delivery is the handlers' part: nothing is on the topic before they are called."""
    worker = Worker()
    request = worker.accept()
    decision = worker.processor.process(request.queue_id)
    assert decision == worker.ledger.decided(request.queue_id)
    assert worker.records == []


def test_a_second_outcome_neither_overwrites_the_first_nor_is_published() -> None:
    """A worker that was taken for dead finishes late: its answer goes nowhere."""
    slow = Worker()
    request = slow.accept()
    swift = Worker(beside=slow)
    swift.provider.answer = an_answer(winner=EssayWinner.ESSAY_B, justification="The first to finish.")

    def overtake() -> None:
        swift.sweep()
        for _ in range(4):
            swift.clock.advance(20)
            swift.sweep()
        swift.run(request)

    slow.provider.on_call = overtake
    slow.run(request)
    assert (len(slow.provider.calls), len(swift.provider.calls)) == (1, 1)
    assert read(only(slow.records)).data.justification == "The first to finish."


def test_a_second_message_of_a_delivered_request_does_nothing() -> None:
    """Redelivery is normal: no second call, no second event."""
    worker = Worker()
    request = worker.accept()
    worker.run(request)
    worker.run(request)
    assert (len(worker.provider.calls), len(worker.records)) == (1, 1)


def test_an_event_published_again_by_another_process_has_the_same_bytes() -> None:
    """The first worker died between publish and note of delivery; hours later another one delivers what is stored."""
    dying = Worker()
    request = dying.accept()
    decision = dying.processor.process(request.queue_id)
    assert decision is not None
    dying.ledger.mark_delivered = lambda decision: None  # type: ignore[method-assign] # It dies before this step.
    dying.processor._handle_request_success(decision)  # noqa: SLF001 The contract names it so.
    del dying.ledger.mark_delivered
    other = Worker(beside=dying)
    other.clock.advance(7200)
    assert other.sweep() == [request.queue_id]
    first, again = other.records
    assert first == again
    assert not is_open(other)


# --- without a callback topic


def test_without_a_topic_the_result_is_stored_for_polling() -> None:
    """Nothing is published; what is stored is the body of the 200."""
    worker = Worker()
    request = worker.accept(callback_topic=None)
    worker.run(request)
    result = worker.results.load_result(request.queue_id)
    assert result is not None
    assert (result["winner"], result["confidence"]) == ("Essay A", 4.0)
    assert result["correlation_id"] == str(request.correlation_id)
    assert worker.records == []
    assert not is_open(worker)


def test_without_a_topic_an_error_is_stored_for_polling() -> None:
    """The caller who polls learns why there is no result."""
    worker = Worker()
    worker.provider.answer = RateLimited("Too many calls.")
    request = worker.accept(callback_topic=None)
    worker.run(request)
    assert worker.results.errors[request.queue_id].error_code is ErrorCode.RATE_LIMIT
    assert worker.results.load_result(request.queue_id) is None
    assert not is_open(worker)


# --- a topic that cannot be published to


def failing(topic: str, error: PublishError, **timing: Any) -> Worker:
    worker = Worker(ledger=MemoryLedger(a_timing(delivery_retry=(1.0, 2.0), **timing)))
    worker.bus.failures[topic] = error
    return worker


def test_a_failed_publish_is_left_to_the_sweeper() -> None:
    """The handler raises nothing, the request stays open, and no second call is made for it."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    request = worker.accept()
    worker.run(request)
    assert is_open(worker)
    worker.bus.failures.clear()
    worker.clock.advance(1.1)
    assert worker.sweep() == [request.queue_id]
    assert read(only(worker.records)).data.request_id == request.queue_id
    assert len(worker.provider.calls) == 1
    assert not is_open(worker)


def test_the_sweeper_waits_longer_after_each_real_attempt() -> None:
    """The schedule is 1 s, then 2 s."""
    worker = failing(TOPIC, EventRefused("Too large."))
    worker.run(worker.accept())
    due_after = []
    for _ in range(3):
        waited = 0.0
        while not worker.sweep():
            worker.clock.advance(0.5)
            waited += 0.5
        due_after.append(waited)
    assert due_after == [1.0, 2.0, 2.0]


def test_handlers_do_not_try_a_closed_topic() -> None:
    """After one failed publish no worker thread waits for that topic again, also when it works by now."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    worker.run(worker.accept())
    worker.bus.failures.clear()
    worker.run(worker.accept())
    assert worker.records == []
    assert worker.ledger.figures().open == 2


@pytest.mark.parametrize("answer", [an_answer(), RateLimited("Too many calls.")], ids=["success", "failure"])
def test_handlers_leave_the_probe_to_the_sweeper(answer: Any) -> None:
    """Also when its time has come: a probe may hold its thread for seconds."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    worker.run(worker.accept())
    worker.bus.failures.clear()
    worker.clock.advance(3600)
    worker.provider.answer = answer
    worker.run(worker.accept(deadline_seconds=7200.0))
    assert worker.records == []


def test_being_passed_over_does_not_count_as_an_attempt() -> None:
    """What waits behind a dead topic is due again after the first wait, however often it was passed over."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    worker.gate.failed(TOPIC, TopicUnavailable("No leader."))
    request = worker.accept()
    worker.run(request)
    for _ in range(5):
        worker.gate.failed(TOPIC, TopicUnavailable("No leader."))
        worker.clock.advance(1.01)
        assert worker.sweep() == [request.queue_id]
    worker.clock.advance(5)
    # The first real attempt fails, and so takes the first wait, too.
    assert [worker.sweep(), worker.sweep()] == [[request.queue_id], []]
    worker.clock.advance(1.01)
    assert worker.sweep() == [request.queue_id]


def test_one_dead_topic_holds_no_other_back() -> None:
    """The gate is per topic."""
    worker = failing("dead", TopicUnavailable("No leader."))
    worker.run(worker.accept(callback_topic="dead"))
    other = worker.accept(callback_topic="alive")
    worker.run(other)
    assert read(only(worker.records)).data.request_id == other.queue_id


def test_a_broker_that_is_away_closes_every_topic() -> None:
    """Its timeouts say nothing about one topic."""
    worker = failing("first", BrokerUnavailable("No acknowledgement."))
    worker.run(worker.accept(callback_topic="first"))
    worker.run(worker.accept(callback_topic="second"))
    assert worker.records == []


def test_a_refused_event_leaves_its_topic_open() -> None:
    """One event that is too large says nothing about the next."""
    worker = failing(TOPIC, EventRefused("Too large."))
    worker.run(worker.accept())
    worker.bus.failures.clear()
    worker.run(worker.accept())
    assert len(worker.records) == 1


def test_the_sweeper_probes_a_closed_topic_and_opens_it() -> None:
    """One event that goes through brings the rest, and the handlers publish again."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    first, second = worker.accept(), worker.accept()
    worker.run(first)
    worker.run(second)
    worker.bus.failures.clear()
    worker.clock.advance(1.1)
    assert sorted(worker.sweep()) == sorted([first.queue_id, second.queue_id])
    worker.run(worker.accept())
    assert len(worker.records) == 3
    assert not is_open(worker)


def test_the_sweeper_does_not_try_every_event_of_a_dead_topic() -> None:
    """One probe per back-off; the others are put off without counting as attempts."""
    journal: list[str] = []
    bus = JournaledBus(journal=journal, failures={TOPIC: TopicUnavailable("No leader.")})
    worker = Worker(ledger=MemoryLedger(a_timing(delivery_retry=(0.5,))), bus=bus)
    for _ in range(20):
        worker.run(worker.accept())
    assert len(journal) == 1
    for _ in range(10):
        worker.clock.advance(1.0)
        worker.sweep()
    # Probes are due after 1, 2, 4 and from then on every 5 seconds.
    assert 3 <= len(journal) - 1 <= 4
    assert worker.ledger.figures().open == 20


def test_while_the_broker_is_away_deliveries_are_left_alone_between_two_probes() -> None:
    """The sweeper asks for it, so that a long outage is no busy loop."""
    worker = failing(TOPIC, BrokerUnavailable("No acknowledgement."))
    assert worker.processor.seconds_to_leave_deliveries() is None
    worker.run(worker.accept())
    assert worker.processor.seconds_to_leave_deliveries() == SHORTEST_LOOK_SECONDS
    worker.clock.advance(FIRST_PROBE_SECONDS)
    assert worker.processor.seconds_to_leave_deliveries() is None


def test_a_dead_topic_lets_nobody_leave_other_deliveries_alone() -> None:
    """The broker is there; only what is meant for that topic waits."""
    worker = failing(TOPIC, TopicUnavailable("No leader."))
    worker.run(worker.accept())
    assert worker.processor.seconds_to_leave_deliveries() is None


@pytest.mark.parametrize(
    ("error", "dead"),
    [(TopicUnavailable("Not allowed."), 2), (EventRefused("Too large."), 2), (BrokerUnavailable("No answer."), 0)],
    ids=["topic", "event", "broker away"],
)
def test_only_what_kafka_refuses_for_long_becomes_a_dead_letter(error: PublishError, dead: int) -> None:
    """With Kafka's reason; also what was passed over while its topic was closed. An outage gives nothing up."""
    worker = failing(TOPIC, error, dead_letter_after=20.0)
    for _ in range(2):
        worker.run(worker.accept())
    for _ in range(40):
        worker.clock.advance(1.0)
        worker.sweep()
    letters = worker.ledger.dead_letters(10)
    assert [letter.reason for letter in letters] == [error.message] * dead
    assert worker.ledger.figures().open == 2 - dead


# --- the ledger goes away during the delivery


def test_a_delivery_that_cannot_be_noted_is_repeated_later() -> None:
    """The handler swallows the outage, the row stays open, the same bytes go out once more."""
    worker = Worker(ledger=MemoryLedger(a_timing()))
    request = worker.accept()
    decision = worker.processor.process(request.queue_id)
    assert decision is not None
    worker.ledger.away = True
    worker.processor._handle_request_success(decision)  # noqa: SLF001 The contract names it so.
    worker.ledger.away = False
    assert is_open(worker)
    worker.clock.advance(61)
    assert worker.sweep() == [request.queue_id]
    assert len(set(worker.records)) == 1
    assert not is_open(worker)


def test_a_result_that_cannot_be_stored_is_stored_later() -> None:
    """The result backend is away when the handler runs; until it is back the ledger serves the result."""
    worker = Worker()
    request = worker.accept(callback_topic=None)
    store = worker.results.store_result

    def away(queue_id: str, result: Any) -> None:
        raise LedgerUnavailable("The result backend did not answer.")

    worker.results.store_result = away  # type: ignore[method-assign]
    worker.run(request)
    assert is_open(worker)
    worker.results.store_result = store  # type: ignore[method-assign]
    worker.clock.advance(61)
    assert worker.sweep() == [request.queue_id]
    assert worker.results.load_result(request.queue_id) is not None


# --- what goes wrong inside


class Leaky(Exception):
    """A foreign exception that quotes what it choked on."""


def test_an_unexpected_exception_is_told_without_its_text() -> None:
    """The caller gets UNKNOWN_ERROR and a sentence of ours; neither the event nor a log line quotes the exception."""
    worker = Worker()
    worker.provider.answer = Leaky(f"cannot parse {SECRET}")
    with capture_logs() as logs:
        worker.run(worker.accept())
    record = only(worker.records)
    error = read(record).data.error_detail
    assert error is not None
    assert (error.error_code, error.stack_trace) == (ErrorCode.UNKNOWN_ERROR, None)
    assert SECRET.encode() not in record.value
    assert SECRET not in repr(logs)
    broke = [line for line in logs if line["event"] == "unexpected_error"]
    assert [line["error"] for line in broke] == ["Leaky"]


def test_no_log_line_of_a_request_quotes_its_texts() -> None:
    """Ids only, on the good way and on the bad one."""
    worker = failing("dead", TopicUnavailable("No leader."))
    with capture_logs() as logs:
        worker.run(worker.accept())
        worker.provider.answer = RateLimited("Too many calls.")
        worker.run(worker.accept(callback_topic="dead"))
        worker.run(worker.accept(callback_topic=None))
    assert len(logs) > 4
    assert SECRET not in repr(logs)
    assert "Clearer structure" not in repr(logs)


@pytest.mark.parametrize(
    "answer",
    [
        an_answer().model_copy(update={"verdict": an_answer().verdict.model_copy(update={"justification": "x" * 501})}),
        RateLimited("A lone surrogate: \ud800."),
        RateLimited("Not a number.", details={"ratio": float("nan")}),
    ],
    ids=["too long", "not UTF-8", "not JSON"],
)
@pytest.mark.parametrize("topic", [TOPIC, None])
def test_an_outcome_that_no_event_can_tell_becomes_an_unknown_error(answer: Any, topic: str | None) -> None:
    """It is found out before the outcome is stored for good, so that the caller is told at all."""
    worker = Worker()
    worker.provider.answer = answer
    request = worker.accept(callback_topic=topic)
    worker.run(request)
    view = worker.ledger.view(request.queue_id)
    assert view is not None
    assert view.outcome is not None
    assert view.outcome.error is not None
    assert view.outcome.error.error_code is ErrorCode.UNKNOWN_ERROR
    assert not is_open(worker)
    assert len(worker.records) == (topic is not None)


def test_a_worker_without_the_provider_says_so() -> None:
    """Web and worker are configured differently: the caller is told, and no call is made."""
    worker = Worker()
    request = worker.accept()
    worker.provider.configured = False
    worker.run(request)
    error = read(only(worker.records)).data.error_detail
    assert error is not None
    assert error.error_code is ErrorCode.CONFIGURATION_ERROR
    assert worker.provider.calls == []


@pytest.mark.parametrize("decider", ["task", "sweeper"])
def test_an_expired_request_is_told_as_a_timeout(decider: str) -> None:
    """No call was made, so no time was spent; completed_at is when that was decided."""
    worker = Worker()
    request = worker.accept(deadline_seconds=10.0)
    worker.clock.advance(11)
    worker.run(request) if decider == "task" else worker.processor.expire(request.queue_id)
    data = read(only(worker.records)).data
    assert data.error_detail is not None
    assert (data.error_detail.error_code, data.response_time_ms) == (ErrorCode.TIMEOUT, 0)
    assert data.requested_at == request.queued_at < data.completed_at
    assert worker.provider.calls == []
    assert not is_open(worker)


def test_an_expiry_that_comes_too_late_changes_nothing() -> None:
    """Something else was decided, or the record is gone."""
    worker = Worker()
    request = worker.accept()
    worker.run(request)
    worker.processor.expire(request.queue_id)
    worker.processor.expire(a_request().queue_id)
    assert read(only(worker.records)).data.is_success


@dataclass
class OvertakenLedger(MemoryLedger):
    """A ledger in which somebody else commits between two steps of ours."""

    meanwhile: Outcome | None = None

    def pending(self, queue_id: str) -> CallProgress | None:
        progress = super().pending(queue_id)
        if progress is not None and self.meanwhile is not None:
            self.commit(queue_id, self.meanwhile)
        return progress


@pytest.mark.parametrize("step", ["expire", "revoke"])
def test_an_expiry_or_revocation_that_is_overtaken_leaves_the_delivery_to_the_winner(step: str) -> None:
    """Between the look and the commit a worker stored its answer, which it delivers itself."""
    ledger = OvertakenLedger(a_timing(delivery_retry=(1.0,)))
    worker = Worker(ledger=ledger)
    request = worker.accept()
    ledger.meanwhile = a_verdict_for(request)
    getattr(worker.processor, step)(request.queue_id)
    assert worker.records == []
    worker.clock.advance(30)
    assert worker.sweep() == []
    assert worker.ledger.decided(request.queue_id) == Decision(request, ledger.meanwhile)


def test_a_revoked_request_is_told_by_the_sweeper() -> None:
    """Whoever hears of the revocation must not open Kafka; the first due time is all it waits for."""
    worker = Worker(ledger=MemoryLedger(a_timing(delivery_retry=(1.0, 2.0))))
    request = worker.accept()
    worker.processor.revoke(request.queue_id)
    assert worker.records == []
    worker.clock.advance(1.1)
    assert worker.sweep() == [request.queue_id]
    error = read(only(worker.records)).data.error_detail
    assert error is not None
    assert error.error_code is ErrorCode.PROCESSING_ERROR
    assert "revoked" in error.message


def test_who_is_over_while_it_waits_keeps_nobody_waiting() -> None:
    """It leaves the line of its provider; the mock has none."""
    worker = Worker()
    revoked, expired = worker.accept(provider="openai"), worker.accept(provider="openai")
    worker.processor.revoke(revoked.queue_id)
    worker.processor.expire(expired.queue_id)
    worker.processor.expire(expired.queue_id)
    worker.processor.revoke(worker.accept(provider="mock").queue_id)
    assert worker.admission.left == [revoked.queue_id, expired.queue_id]


def test_a_revocation_does_not_undo_an_outcome() -> None:
    """Workers discard late copies of a message by revocation, too."""
    worker = Worker()
    request = worker.accept()
    worker.run(request)
    worker.processor.revoke(request.queue_id)
    assert read(only(worker.records)).data.is_success


def test_what_is_not_due_for_delivery_is_not_delivered() -> None:
    """A sweeper's late or mistaken call finds nothing."""
    worker = Worker()
    waiting, delivered = worker.accept(), worker.accept()
    worker.run(delivered)
    worker.records.clear()
    for request in (waiting, delivered, a_request()):
        worker.processor.deliver_due(request.queue_id)
    assert worker.records == []


def test_what_breaks_during_a_delivery_is_left_to_the_sweeper() -> None:
    """An exception that nobody foresaw: the handler raises nothing, and no log line quotes the exception."""
    worker = Worker(ledger=MemoryLedger(a_timing(delivery_retry=(1.0,))))
    request = worker.accept()
    worker.bus.failures[TOPIC] = Leaky(SECRET)  # type: ignore[assignment]
    with capture_logs() as logs:
        worker.run(request)
    assert SECRET not in repr(logs)
    worker.bus.failures.clear()
    worker.clock.advance(61)
    assert worker.sweep() == [request.queue_id]
    assert len(worker.records) == 1


@pytest.mark.parametrize("make", [a_verdict_for, an_error_for], ids=["success", "failure"])
def test_both_handlers_deliver_what_is_stored(make: Any) -> None:
    """They decide nothing: the outcome they are handed is the one that is told."""
    worker = Worker()
    request: QueuedRequest = worker.accept()
    decision = worker.ledger.commit(request.queue_id, make(request))
    assert decision is not None
    if decision.outcome.error is None:
        worker.processor._handle_request_success(decision)  # noqa: SLF001 The contract names it so.
    else:
        worker.processor._handle_request_failure(decision)  # noqa: SLF001 The contract names it so.
    envelope = read(only(worker.records))
    assert (envelope.event_id, envelope.event_timestamp) == (decision.outcome.event_id, decision.outcome.completed_at)


def test_every_comparison_error_is_told_under_its_own_code() -> None:
    """Whatever leaf of the error tree ends a comparison, its caller gets one event with that leaf's code."""
    for kind in all_kinds(ComparisonError):
        worker = Worker()
        worker.provider.answer = kind("A sentence of ours.")
        worker.run(worker.accept())
        error = read(only(worker.records)).data.error_detail
        assert error is not None
        assert (error.error_code, error.message) == (kind.error_code, "A sentence of ours.")


def all_kinds(root: type[ComparisonError]) -> list[type[ComparisonError]]:
    """Every leaf that is raised with a message alone."""
    children = [kind for kind in root.__subclasses__() if kind.__module__ == "llm_provider.errors"]
    return [leaf for child in children for leaf in all_kinds(child)] or [root]
