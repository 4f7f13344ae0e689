"""What a worker does with one accepted request: ask how far it had come, call, commit, deliver."""

import time
from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import structlog

from llm_provider import outcomes
from llm_provider.call_attempts import CallLater, milliseconds_since
from llm_provider.callbacks import build_callback, build_response
from llm_provider.errors import (
    ComparisonError,
    LedgerUnavailable,
    PublishError,
    RequestDamaged,
    RequestExpired,
    RequestPoisoned,
    RequestRevoked,
    UnexpectedError,
)
from llm_provider.internal_models import ComparisonTexts
from llm_provider.ledger import Claim, ClaimState, Decision, LedgerProtocol
from llm_provider.logs import log_defect
from llm_provider.protocols import (
    LeaseKeeperProtocol,
    LLMEventPublisherProtocol,
    ResultStoreProtocol,
)
from llm_provider.provider_caller import ProviderCaller
from llm_provider.publish_gate import PublishGate
from llm_provider.queue_models import Outcome, QueuedRequest

log = structlog.get_logger(__name__)

T = TypeVar("T")

COMMIT_RETRY_SECONDS = 0.5
# As long as a failover takes.
CLAIM_TRIES = 20
DAMAGED_MESSAGE = "The request was given up: its record is damaged."
POISONED_MESSAGE = "The request was given up: every worker that took it died."


class QueueProcessorImpl:
    """Shared by all threads of a worker process; every step may be interrupted and repeated."""

    def __init__(
        self,
        ledger: LedgerProtocol,
        caller: ProviderCaller,
        publisher: LLMEventPublisherProtocol,
        results: ResultStoreProtocol,
        leases: LeaseKeeperProtocol,
        gate: PublishGate,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._caller = caller
        self._publisher = publisher
        self._results = results
        self._leases = leases
        self._gate = gate
        self._sleep = sleep

    def process(self, queue_id: str) -> Decision | None:
        """Bring a request to its outcome; None when somebody else does, or nothing is left to do.

        The outcome is stored when this returns, and not yet delivered: that is the handlers' part. Raises
        LedgerUnavailable when the request could not be claimed; the sweeper brings it back.
        """
        holder = uuid4().hex
        # Held before it is claimed, since the answer may come late; and until the outcome is stored, however long Redis
        # is away in between.
        with self._leases.hold(queue_id, holder):
            return self._process(queue_id, holder)

    def _process(self, queue_id: str, holder: str) -> Decision | None:
        claim = self._claim(queue_id, holder)
        if claim.request is None:
            return None
        # Until the task ends; the worker clears it then.
        structlog.contextvars.bind_contextvars(correlation_id=str(claim.request.correlation_id))
        log.info("request_claimed", queue_id=queue_id, state=str(claim.state))
        if claim.texts is not None:
            return self._run(claim, claim.request, claim.texts, holder)
        if claim.state is ClaimState.EXPIRED:
            return self._abandon(claim.request, RequestExpired(outcomes.EXPIRED_MESSAGE), claim)
        if claim.state is ClaimState.POISONED:
            # Noted first: a crash in between leaves a dead letter too many, never one too few.
            self._ledger.note_poisoned(queue_id, POISONED_MESSAGE)
            return self._abandon(claim.request, RequestPoisoned(POISONED_MESSAGE), claim)
        if claim.state is ClaimState.DAMAGED:
            return self._abandon(claim.request, RequestDamaged(DAMAGED_MESSAGE), claim)
        return Decision(claim.request, claim.outcome) if claim.outcome else None

    def _claim(self, queue_id: str, holder: str) -> Claim:
        """It may have been taken though its answer was lost; left to lapse it would count as a death of this worker."""
        for _ in range(CLAIM_TRIES):
            try:
                return self._ledger.claim(queue_id, holder)
            except LedgerUnavailable:
                self._sleep(COMMIT_RETRY_SECONDS)
        return self._ledger.claim(queue_id, holder)

    def _abandon(self, request: QueuedRequest, error: ComparisonError, claim: Claim) -> Decision | None:
        ended = request.ended_now()
        return self._commit(request, outcomes.abandoned(request.queue_id, error, claim.progress, at=ended))

    def _run(self, claim: Claim, request: QueuedRequest, texts: ComparisonTexts, holder: str) -> Decision | None:
        try:
            outcome = self._ask(request, texts, claim)
        except CallLater as later:
            self._suspend(request, texts, holder, later)
            return None
        return self._commit(request, _checked(request, outcome))

    def _ask(self, request: QueuedRequest, texts: ComparisonTexts, claim: Claim) -> Outcome:
        started = time.monotonic()
        try:
            return self._caller.compare(request, texts, claim.seconds_left, progress=claim.progress)
        except CallLater:
            raise
        except ComparisonError as error:
            log.warning("provider_failed", error_code=str(error.error_code), provider=str(request.provider))
            return _given_up(request, error)
        except Exception as error:
            return _defect(request, error, response_time_ms=milliseconds_since(started))

    def _suspend(self, request: QueuedRequest, texts: ComparisonTexts, holder: str, later: CallLater) -> None:
        """Until its next call is due the request needs no thread; a sweeper brings it back."""
        queue_id, wait, progress = request.queue_id, later.wait_seconds, later.progress
        due = time.monotonic() + wait

        def suspend() -> bool:
            left = max(0.0, due - time.monotonic())
            return self._ledger.suspend(queue_id, holder, wait_seconds=left, progress=progress, sleeps=later.sleeps)

        if self._when_ledger_answers(request, suspend):
            log.info("request_suspended", wait_seconds=round(wait, 1), failures=progress.failures)
        elif request.seconds_left > 0:
            # Another worker has it; or Redis has forgotten it, and learns of it again. A record that is there, or was
            # delivered, stays as it is.
            self._ledger.accept(request, texts, progress=progress, seconds_left=request.seconds_left)

    def _commit(self, request: QueuedRequest, outcome: Outcome) -> Decision | None:
        """Store the outcome; nothing is delivered before. While Redis is away a paid answer waits here for it."""
        stored = outcomes.with_notes_apart(outcome, request)
        decision = self._when_ledger_answers(request, lambda: self._ledger.commit(request.queue_id, stored, request))
        log.info("request_decided", queue_id=request.queue_id, kind=str(outcome.kind), stored=bool(decision))
        # Whoever stored the first outcome delivers it; a second one leaves quietly.
        return decision if decision and decision.mine else None

    def _when_ledger_answers(self, request: QueuedRequest, step: Callable[[], T]) -> T:
        """Take a step that must not be left out, however long Redis is away, within the request's deadline."""
        give_up = time.monotonic() + request.deadline_seconds
        while True:
            try:
                return step()
            except LedgerUnavailable:
                if time.monotonic() > give_up:
                    raise
                log.warning("commit_waits_for_ledger", queue_id=request.queue_id)
                self._sleep(COMMIT_RETRY_SECONDS)

    def _handle_request_success(self, decision: Decision) -> None:
        """Tell the caller the verdict: the event to its callback topic, or the result into the result backend.

        Called by the task's success handler, after the commit. It decides nothing and raises nothing: what fails
        here, or dies, is in the ledger's `open` index, where the sweeper finds it.
        """
        self._deliver(decision, self._gate.is_open)

    def _handle_request_failure(self, decision: Decision) -> None:
        """Tell the caller why there is no verdict, the same way."""
        self._deliver(decision, self._gate.is_open)

    def deliver_due(self, queue_id: str) -> None:
        """OutcomeDelivererProtocol: deliver what is stored, probing a closed topic when its time has come."""
        decision = self._ledger.decided(queue_id)
        if decision:
            self._deliver(decision, self._gate.may_probe)

    def seconds_to_leave_deliveries(self) -> float | None:
        """OutcomeDelivererProtocol: while the broker is away and its next probe is not due."""
        return self._gate.seconds_until_next_look() if self._gate.broker_is_left_alone() else None

    def expire(self, queue_id: str) -> None:
        """OutcomeDelivererProtocol: the deadline has passed."""
        decision = self._give_up(queue_id, RequestExpired(outcomes.EXPIRED_MESSAGE))
        if decision:
            log.info("request_expired", queue_id=queue_id)
            self._deliver(decision, self._gate.may_probe)

    def give_up(self, queue_id: str) -> None:
        """OutcomeDelivererProtocol: where its caller can be told, nobody waits for ever."""
        decision = self._give_up(queue_id, RequestDamaged(DAMAGED_MESSAGE))
        if decision:
            self._deliver(decision, self._gate.may_probe)

    def revoke(self, queue_id: str) -> None:
        """An operator revoked the task: workers will discard every message of it, so it ends here.

        The sweeper delivers, since a worker's main process hears of revocations and must not open Kafka.
        """
        if self._give_up(queue_id, RequestRevoked("The request was revoked by an operator.")):
            self._ledger.postpone(queue_id, attempted=False)

    def _give_up(self, queue_id: str, error: ComparisonError) -> Decision | None:
        progress = self._ledger.pending(queue_id)
        view = None if progress is None else self._ledger.view(queue_id)
        if progress is None or view is None:
            return None
        outcome = outcomes.abandoned(queue_id, error, progress, at=view.request.ended_now())
        decision = self._ledger.commit(queue_id, outcomes.with_notes_apart(outcome, view.request))
        if decision is None or not decision.mine:
            return None
        self._caller.leave(decision.request)
        return decision

    def _deliver(self, decision: Decision, admits: Callable[[str], bool]) -> None:
        request = decision.request
        ids = {"queue_id": request.queue_id, "correlation_id": str(request.correlation_id)}
        with structlog.contextvars.bound_contextvars(**ids):
            self._deliver_in_context(decision, admits)

    def _deliver_in_context(self, decision: Decision, admits: Callable[[str], bool]) -> None:
        queue_id, topic = decision.request.queue_id, decision.request.callback_topic
        try:
            if topic is None:
                self._store(decision)
            elif not self._publish(topic, decision, admits):
                return
            self._ledger.mark_delivered(decision)
        except LedgerUnavailable:
            log.warning("delivery_left_to_sweeper", queue_id=queue_id)
        except Exception as error:
            # Celery would log the exception's text, and the sweeper would leave the rest of its batch.
            log_defect(log, "delivery_broke", error, queue_id=queue_id)
        else:
            log.info("request_delivered", queue_id=queue_id, topic=topic)

    def _publish(self, topic: str, decision: Decision, admits: Callable[[str], bool]) -> bool:
        """True once Kafka has acknowledged the event; otherwise it is left to the sweeper, or given up."""
        queue_id = decision.request.queue_id
        if not admits(topic):
            wait, refusal = self._gate.seconds_until_next_look(topic), self._gate.refusal(topic)
            self._postpone(queue_id, attempted=False, refusal=refusal, wait_seconds=wait)
            return False
        try:
            self._publisher.publish_comparison_result(topic, build_callback(decision.request, decision.outcome))
        except PublishError as error:
            self._gate.failed(topic, error)
            log.warning("publish_failed", topic=topic, error=type(error).__name__, reason=error.message)
            self._postpone(queue_id, attempted=True, refusal=error.message if error.is_refusal else None)
            return False
        self._gate.succeeded(topic)
        return True

    def _postpone(
        self, queue_id: str, *, attempted: bool, refusal: str | None, wait_seconds: float | None = None
    ) -> None:
        if self._ledger.postpone(queue_id, attempted=attempted, refusal=refusal, wait_seconds=wait_seconds):
            log.error("event_became_dead_letter", queue_id=queue_id, reason=refusal)

    def _store(self, decision: Decision) -> None:
        queue_id, outcome = decision.request.queue_id, decision.outcome
        if outcome.error is not None:
            self._results.store_error(queue_id, outcome.error)
        else:
            self._results.store_result(queue_id, build_response(decision.request, outcome).model_dump(mode="json"))


def _given_up(request: QueuedRequest, error: ComparisonError) -> Outcome:
    return outcomes.failed(request.queue_id, error, response_time_ms=error.response_time_ms, at=request.ended_now())


def _checked(request: QueuedRequest, outcome: Outcome) -> Outcome:
    """The outcome, when an event can be built of it: found out before it is stored for good."""
    try:
        build_callback(request, outcome)
    except Exception as error:
        return _defect(request, error, response_time_ms=outcome.response_time_ms)
    return outcome


def _defect(request: QueuedRequest, error: Exception, *, response_time_ms: int) -> Outcome:
    log_defect(log, "unexpected_error", error, queue_id=request.queue_id)
    told = UnexpectedError("The service failed unexpectedly while it processed this request.")
    return outcomes.failed(request.queue_id, told, response_time_ms=response_time_ms, at=request.ended_now())
