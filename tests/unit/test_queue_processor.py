"""How a worker brings one request to its outcome; what is then told: test_queue_processor_callback.py."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from contracts.enums import LLMProviderType, QueueStatus
from contracts.errors import ErrorCode
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.api_models import NOTES_KEY
from llm_provider.errors import LedgerUnavailable, ProviderOverloaded, RateLimited
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.ledger import Action, Claim, ClaimState
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import QueuedRequest, utc_now
from llm_provider.queue_processor import COMMIT_RETRY_SECONDS
from llm_provider.retries import RetrySchedule
from tests.unit.builders import (
    Bell,
    Worker,
    a_policy,
    a_request,
    a_timing,
    a_verdict_for,
    an_answer,
    read,
    some_texts,
)


def test_the_provider_gets_the_texts_and_what_the_caller_chose() -> None:
    """Model and overrides of the stored request, the texts from beside it."""
    worker = Worker()
    request = a_request(model="mock-large")
    chosen = request.overrides.model_copy(update={"temperature_override": 0.0, "max_tokens_override": 300})
    request = request.model_copy(update={"overrides": chosen})
    worker.ledger.accept(request, some_texts())
    worker.run(request)
    (call, _), *others = worker.provider.calls
    assert others == []
    assert call.texts == some_texts()
    assert (call.model, call.temperature, call.max_tokens) == ("mock-large", 0.0, 300)


@pytest.mark.parametrize(("deadline", "expected"), [(3600.0, 120.0), (100.0, 70.0)])
def test_a_call_ends_before_its_timeout_and_before_the_deadline(deadline: float, expected: float) -> None:
    """Whichever comes first bounds it: here 30 seconds have passed since the request was accepted."""
    worker = Worker(timeout_seconds=120.0)
    request = worker.accept(deadline_seconds=deadline)
    worker.clock.advance(30)
    worker.run(request)
    assert [timeout for _, timeout in worker.provider.calls] == [pytest.approx(expected, abs=0.5)]


def test_the_lease_is_renewed_for_as_long_as_the_call_lasts() -> None:
    """A call of many leases' length is not made twice."""
    worker, other = Worker(), None
    request = worker.accept()
    other = Worker(beside=worker)

    def wait_long() -> None:
        for _ in range(20):
            worker.clock.advance(20)
            worker.leases.renew()
            worker.ledger.sweep(queue_is_empty=False)
            other.run(request)

    worker.provider.on_call = wait_long
    worker.run(request)
    assert (len(worker.provider.calls), len(other.provider.calls)) == (1, 0)
    assert len(worker.records) == 1


def test_the_lease_is_kept_while_the_answer_to_its_claim_is_on_its_way() -> None:
    """A connection that falls silent must cost neither the lease nor a second call."""

    class LateLedger(MemoryLedger):
        def claim(self, queue_id: str, holder: str) -> Claim:
            claim = super().claim(queue_id, holder)
            for _ in range(4 if holder != "other" else 0):
                worker.clock.advance(20)
                worker.leases.renew()
            return claim

    worker = Worker(ledger=LateLedger(a_timing()))
    request, seen = worker.accept(), list[ClaimState]()
    worker.provider.on_call = lambda: seen.append(worker.ledger.claim(request.queue_id, "other").state)
    worker.run(request)
    assert seen == [ClaimState.LEFT]


def test_the_lease_is_held_until_the_outcome_is_stored() -> None:
    """While a paid answer waits for Redis, nobody else may start the same call."""
    held_while_waiting: list[ClaimState] = []

    def wait(seconds: float) -> None:
        worker.ledger.away = False
        worker.clock.advance(50)
        worker.leases.renew()
        worker.clock.advance(50)
        held_while_waiting.append(worker.ledger.claim(request.queue_id, "other").state)

    worker = Worker(sleep=wait)
    request = worker.accept()
    worker.provider.on_call = lambda: setattr(worker.ledger, "away", True)
    worker.run(request)
    assert held_while_waiting == [ClaimState.LEFT]
    assert len(worker.records) == 1


def test_a_commit_waits_between_its_attempts() -> None:
    """An outage does not become a busy loop."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        worker.ledger.away = len(waits) < 3

    worker = Worker(sleep=wait)
    worker.provider.on_call = lambda: setattr(worker.ledger, "away", True)
    worker.run(worker.accept())
    assert waits == [COMMIT_RETRY_SECONDS] * 3


def test_the_lease_is_let_go_with_the_outcome() -> None:
    """The keeper renews nothing for a request that is decided."""
    worker = Worker()
    request = worker.accept()
    assert worker.processor.process(request.queue_id) is not None
    worker.ledger.away = True
    # With nothing held there is nothing to ask the ledger.
    assert worker.leases.renew() is False


def test_a_request_that_somebody_else_runs_is_left() -> None:
    """No call, no outcome, no error."""
    worker = Worker()
    request = worker.accept()
    worker.ledger.claim(request.queue_id, "somebody else")
    assert worker.processor.process(request.queue_id) is None
    assert worker.provider.calls == []
    assert worker.ledger.pending(request.queue_id) is not None


def test_an_unknown_request_is_left() -> None:
    """Its record has expired; the message is old."""
    worker = Worker()
    assert worker.processor.process(a_request().queue_id) is None


def test_a_decided_request_is_handed_to_the_handlers_without_a_call() -> None:
    """Its worker died before the delivery; a redelivered message finds it once the delivery window is over."""
    worker = Worker()
    request = worker.accept()
    worker.ledger.claim(request.queue_id, "dead")
    stored = worker.ledger.commit(request.queue_id, a_verdict_for(request))
    assert worker.processor.process(request.queue_id) is None
    worker.clock.advance(61)
    assert worker.processor.process(request.queue_id) == stored
    assert worker.provider.calls == []


def test_a_claim_that_redis_does_not_answer_is_an_error_of_the_task() -> None:
    """The request stays as it was; the sweeper brings it back."""
    worker = Worker()
    request = worker.accept()
    worker.ledger.away = True
    with pytest.raises(LedgerUnavailable):
        worker.processor.process(request.queue_id)
    worker.ledger.away = False
    assert worker.ledger.figures().waiting == 1
    assert worker.provider.calls == []


def test_a_claim_whose_answer_got_lost_is_made_again_by_the_same_holder() -> None:
    """Redis failed over in between: a lease that nobody works under would count as the death of this worker."""

    class LosesAnswers(MemoryLedger):
        lost = 3

        def claim(self, queue_id: str, holder: str) -> Claim:
            claim = super().claim(queue_id, holder)
            if self.lost:
                self.lost -= 1
                raise LedgerUnavailable("The ledger did not answer.")
            return claim

    worker = Worker(ledger=LosesAnswers(a_timing()))
    request = worker.accept()
    assert worker.processor.process(request.queue_id) is not None
    assert len(worker.provider.calls) == 1


def test_the_time_of_the_call_alone_is_the_response_time() -> None:
    """Neither the wait in the queue nor the claim counts, and a failed call has its time, too."""
    for answer in (Worker().provider.answer, RuntimeError("broken")):
        worker = Worker(ledger=MemoryLedger(a_timing()))
        worker.provider.answer = answer
        request = worker.accept()
        worker.clock.advance(600)
        worker.run(request)
        view = worker.ledger.view(request.queue_id)
        assert view is not None
        assert view.outcome is not None
        assert view.outcome.response_time_ms < 500
        assert view.status in {QueueStatus.COMPLETED, QueueStatus.FAILED}


def a_worker_on_a_vendor(**options: Any) -> Worker:
    """Whose calls cost something, so that they are limited and made again, even when they are billed."""
    worker = Worker(**options)
    worker.provider.name = LLMProviderType.OPENAI
    worker.caller = ProviderCaller(
        {LLMProviderType.OPENAI: worker.provider},
        Gatekeeper(worker.admission, Bell(), lease_seconds=60),
        a_policy(retries=RetrySchedule(waits=(1.0, 5.0, 30.0), resend_unanswered_calls=True)),
    )
    worker.processor._caller = worker.caller  # noqa: SLF001 A worker of these tests has one caller.
    return worker


def test_a_stored_prompt_bomb_ends_as_an_error() -> None:
    """An older version accepted what would be 256 million characters; no such text is made, and nobody is asked."""
    worker = Worker()
    request, texts = a_request(), some_texts()
    bomb = texts.model_copy(update={"user_prompt": "{essay_a}" * 8_000, "essay_a": "x" * 32_000})
    worker.ledger.accept(request, bomb)
    worker.run(request)
    told = read(worker.records[0]).data
    assert told.error_detail is not None
    assert told.error_detail.error_code is ErrorCode.INVALID_REQUEST
    assert worker.provider.calls == []


@pytest.mark.parametrize("ending", ["verdict", "error", "expiry"])
def test_no_event_tells_a_caller_s_key_as_a_note_of_ours(ending: str) -> None:
    """However the request ends."""
    worker = Worker()
    request = worker.accept(metadata={"cost_note": "forged"})
    if ending == "error":
        worker.provider.answer = RateLimited("no").noted({"cost_note": "ours"})
    if ending == "expiry":
        worker.processor.expire(request.queue_id)
    else:
        worker.run(request)
    told = read(worker.records[0]).data.request_metadata
    assert told == {"cost_note": "forged", NOTES_KEY: {"cost_note": "ours"} if ending == "error" else {}}


def test_a_request_that_has_to_wait_is_suspended_and_comes_back() -> None:
    """No handler runs meanwhile; its next claim goes on with the schedule where this one stopped."""
    worker = a_worker_on_a_vendor()
    worker.provider.answer = RateLimited("no", retry_after_seconds=30)
    request = worker.accept(provider="openai", model="gpt")
    worker.run(request)
    assert worker.records == []
    assert worker.ledger.view(request.queue_id).status is QueueStatus.PROCESSING  # type: ignore[union-attr]
    worker.run(request)
    assert len(worker.provider.calls) == 1

    worker.clock.advance(40)
    assert [due.action for due in worker.ledger.sweep(queue_is_empty=False)] == [Action.DISPATCH]
    worker.provider.answer = an_answer()
    worker.run(request)
    assert read(worker.records[0]).data.is_success


def test_the_schedule_ends_over_several_claims() -> None:
    """Failures before a wait count after it, and the last error is the outcome."""
    worker = a_worker_on_a_vendor()
    worker.provider.answer = ProviderOverloaded("no", retry_after_seconds=30)
    request = worker.accept(provider="openai", model="gpt")
    for _ in range(4):
        worker.run(request)
        worker.clock.advance(40)
    assert len(worker.provider.calls) == 4
    error = read(worker.records[0]).data.error_detail
    assert error is not None
    assert (error.error_code, error.details) == (ErrorCode.SERVICE_UNAVAILABLE, {"retry_after_seconds": 30})


@pytest.mark.parametrize("decider", ["task", "sweeper"])
def test_what_went_wrong_before_a_wait_is_told_when_the_deadline_ends_it(decider: str) -> None:
    """It says more than that time is over, and it may have cost something; the request is expired all the same."""
    worker = a_worker_on_a_vendor()
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    overloaded = ProviderOverloaded("openai is overloaded.", retry_after_seconds=30, details={"http_status": 503})
    worker.provider.answer = overloaded.billed(usage, 0.25)
    worker.provider.on_call = lambda: time.sleep(0.01)
    request = worker.accept(provider="openai", model="gpt", deadline_seconds=60.0)
    worker.run(request)
    worker.clock.advance(61)
    worker.run(request) if decider == "task" else worker.processor.expire(request.queue_id)
    data = read(worker.records[0]).data
    error, view = data.error_detail, worker.ledger.view(request.queue_id)
    assert error is not None
    assert (error.error_code, error.message) == (ErrorCode.SERVICE_UNAVAILABLE, "openai is overloaded.")
    assert error.details == {"http_status": 503, "retry_after_seconds": 30}
    assert data.request_metadata.keys() >= {"prompt_sha256"}
    assert (data.token_usage, data.cost_estimate) == (usage, 0.25)
    # No call was made when it was decided.
    assert (data.response_time_ms, view and view.status) == (0, QueueStatus.EXPIRED)


@pytest.mark.parametrize("end", ["poisoned", "revoked"])
def test_who_is_given_up_after_a_wait_hears_what_its_calls_have_cost(end: str) -> None:
    """And why it was given up, which says more than what its last call ended with."""
    worker = a_worker_on_a_vendor(ledger=MemoryLedger(a_timing(poisoned_after=1, delivery_retry=(1.0,))))
    worker.provider.answer = ProviderOverloaded("no", retry_after_seconds=30).billed(TokenUsage(), 0.25)
    request = worker.accept(provider="openai", model="gpt")
    worker.run(request)
    worker.clock.advance(40)
    if end == "poisoned":
        worker.ledger.claim(request.queue_id, "dead")
        worker.clock.advance(61)
        worker.run(request)
    else:
        worker.processor.revoke(request.queue_id)
        worker.clock.advance(2)
        worker.sweep()
    data = read(worker.records[0]).data
    assert data.error_detail is not None
    assert (data.error_detail.error_code, data.cost_estimate) == (ErrorCode.PROCESSING_ERROR, 0.25)


def give_up_poisoned(worker: Worker, request: QueuedRequest) -> None:
    worker.ledger.claim(request.queue_id, "dead")
    worker.clock.advance(61)
    worker.run(request)


def run_late(worker: Worker, request: QueuedRequest) -> None:
    worker.clock.advance(request.deadline_seconds)
    worker.run(request)


def answer_with(answer: Exception) -> Callable[[Worker, QueuedRequest], None]:
    def run(worker: Worker, request: QueuedRequest) -> None:
        worker.provider.answer = answer
        worker.run(request)

    return run


@pytest.mark.parametrize(
    "end",
    [
        Worker.run,
        answer_with(RateLimited("no")),
        answer_with(ValueError("A defect.")),
        run_late,
        give_up_poisoned,
        lambda worker, request: worker.processor.expire(request.queue_id),
        lambda worker, request: worker.processor.revoke(request.queue_id),
    ],
    ids=["completed", "failed", "defect", "expired at its claim", "poisoned", "expired by a sweeper", "revoked"],
)
def test_nothing_ends_before_it_was_asked_for(end: Callable[[Worker, QueuedRequest], None]) -> None:
    """The clock of the web's host may be ahead of the worker's; a consumer that subtracts gets no negative time."""
    worker = Worker(ledger=MemoryLedger(a_timing(poisoned_after=1)))
    request = worker.accept(queued_at=utc_now() + timedelta(hours=1))
    end(worker, request)
    view = worker.ledger.view(request.queue_id)
    assert view is not None
    assert view.outcome is not None
    assert view.outcome.completed_at == request.queued_at


@pytest.mark.parametrize(
    "error",
    [
        ProviderOverloaded("A lone surrogate: \ud800.", retry_after_seconds=30),
        ProviderOverloaded("Not a number.", retry_after_seconds=30, details={"ratio": float("nan")}),
    ],
)
def test_an_error_that_could_not_be_read_again_ends_its_request_now(error: ProviderOverloaded) -> None:
    """Stored beside a request that waits, it would break every claim after that."""
    worker = a_worker_on_a_vendor()
    worker.provider.answer = error
    worker.run(worker.accept(provider="openai", model="gpt"))
    told = read(worker.records[0]).data.error_detail
    assert told is not None
    assert told.error_code is ErrorCode.UNKNOWN_ERROR


def test_a_suspension_waits_for_redis_too() -> None:
    """A lease that merely lapsed would count as a worker's death."""
    slept: list[float] = []
    worker = a_worker_on_a_vendor(sleep=slept.append)
    worker.provider.answer = RateLimited("no", retry_after_seconds=30)
    request = worker.accept(provider="openai", model="gpt")

    def lose_redis() -> None:
        worker.ledger.away = True

    def find_redis(seconds: float) -> None:
        slept.append(seconds)
        worker.ledger.away = False

    worker.provider.on_call = lose_redis
    worker.processor._sleep = find_redis  # noqa: SLF001 Redis comes back while it sleeps.
    worker.run(request)
    assert slept == [COMMIT_RETRY_SECONDS]
    worker.clock.advance(40)
    assert [due.action for due in worker.ledger.sweep(queue_is_empty=False)] == [Action.DISPATCH]


def test_a_request_that_redis_has_forgotten_is_not_lost_by_its_wait() -> None:
    """Its texts are at hand: it is accepted once more, with what its call has cost, and comes to a worker again."""
    worker = a_worker_on_a_vendor()
    worker.provider.answer = RateLimited("no", retry_after_seconds=30)
    request = worker.accept(provider="openai", model="gpt", queued_at=utc_now())
    worker.provider.on_call = worker.ledger._records.clear  # noqa: SLF001 What a flush does.
    worker.run(request)
    view = worker.ledger.view(request.queue_id)
    assert view is not None
    assert view.status is QueueStatus.QUEUED
    worker.provider.on_call = lambda: None
    worker.provider.answer = an_answer()
    worker.run(request)
    assert read(worker.records[0]).data.is_success
