"""What the web process decides about a request, below HTTP; tests/unit/api covers every row of the outcome table."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
import structlog

from contracts.enums import LLMProviderType
from llm_provider.admission import Admission, BreakerView, Obstacle
from llm_provider.api_models import LLMComparisonRequest, LLMComparisonResponse, LLMConfigOverrides
from llm_provider.errors import (
    LedgerUnavailable,
    NotAdmitted,
    ProviderNotConfigured,
    ProviderOverloaded,
    RequestRejected,
)
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import LedgerProtocol
from llm_provider.orchestrator import LLMOrchestratorImpl, Queued, RequestContext, RequestPolicy
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import TraceContext, utc_now
from tests.unit.api.service import Service
from tests.unit.builders import Bell, a_policy

POLICY = RequestPolicy(
    default_provider=None,
    allowed_callback_topics=("*",),
    sync_responses=True,
    deadline_seconds=600,
    allow_empty_essays=False,
)


@dataclass
class WatchingDispatcher:
    """TaskDispatcherProtocol that notes what the ledger held when each message was sent, and may then fail."""

    ledger: LedgerProtocol
    seen: list[bool] = field(default_factory=list)
    error: Exception | None = None

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        self.seen.append(self.ledger.view(queue_id) is not None)
        if self.error is not None:
            raise self.error

    def queue_is_empty(self) -> bool:
        return False


@pytest.fixture
def service() -> Service:
    """The parts around the orchestrator, in memory."""
    return Service()


@pytest.fixture
def dispatcher(service: Service) -> WatchingDispatcher:
    return WatchingDispatcher(service.ledger)


@pytest.fixture
def orchestrator(service: Service, dispatcher: WatchingDispatcher) -> LLMOrchestratorImpl:
    return LLMOrchestratorImpl(service.ledger, dispatcher, service.caller, service.sync_threads, POLICY)


def request(callback_topic: str | None = None, **overrides: object) -> LLMComparisonRequest:
    """A comparison for openai with these overrides."""
    chosen = LLMConfigOverrides.model_validate({"provider_override": "openai"} | overrides, strict=False)
    return LLMComparisonRequest(
        user_prompt="Which?", essay_a="A.", essay_b="B.", callback_topic=callback_topic, llm_config_overrides=chosen
    )


def context(**fields: object) -> RequestContext:
    return RequestContext(correlation_id=uuid4(), **fields)  # type: ignore[arg-type] # Named by each test.


def queued(answer: LLMComparisonResponse | Queued) -> Queued:
    assert isinstance(answer, Queued)
    return answer


def test_a_request_is_dispatched_after_the_ledger_has_it(
    orchestrator: LLMOrchestratorImpl, dispatcher: WatchingDispatcher
) -> None:
    """A worker that is quicker than the web process must find the record; a crash in between leaves it accepted."""
    orchestrator.perform_comparison(request("t"), context())

    assert dispatcher.seen == [True]


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), RuntimeError("Retry limit exceeded"), OSError()])
def test_whatever_becomes_of_the_message_the_request_is_accepted(
    orchestrator: LLMOrchestratorImpl, dispatcher: WatchingDispatcher, service: Service, error: Exception
) -> None:
    """The sweeper dispatches what could not be: an error here would tell the caller to send it twice."""
    dispatcher.error = error
    answer = queued(orchestrator.perform_comparison(request("t"), context()))

    assert service.ledger.pending(answer.request.queue_id) is not None


def test_what_the_ledger_refused_is_not_dispatched(
    orchestrator: LLMOrchestratorImpl, dispatcher: WatchingDispatcher, service: Service
) -> None:
    """No message without a record."""
    service.ledger.away = True
    with pytest.raises(LedgerUnavailable):
        orchestrator.perform_comparison(request("t"), context())

    assert dispatcher.seen == []


def test_the_stored_request_is_complete(orchestrator: LLMOrchestratorImpl, service: Service) -> None:
    """All that a worker and the builder of the event need is resolved and stored when it is accepted."""
    trace = TraceContext(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    asked = request("grades.v1", temperature_override=0.5, max_tokens_override=9, system_prompt_override="Be fair.")
    asked = asked.model_copy(update={"metadata": {"k": 1}, "user_id": "u-1"})
    wanted = context(trace_context=trace)
    answer = queued(orchestrator.perform_comparison(asked, wanted))

    claim = service.ledger.claim(answer.request.queue_id, "a worker")
    stored = claim.request
    assert stored is not None
    assert claim.texts is not None
    assert (stored.callback_topic, stored.provider, stored.model) == ("grades.v1", "openai", "scripted-1")
    assert (stored.correlation_id, stored.trace_context) == (wanted.correlation_id, trace)
    assert (stored.metadata, stored.user_id, stored.deadline_seconds) == ({"k": 1}, "u-1", 600)
    assert (stored.overrides.temperature_override, stored.overrides.max_tokens_override) == (0.5, 9)
    assert stored.overrides.system_prompt_override is None
    assert claim.texts.system_prompt == "Be fair."


def test_a_model_that_was_asked_for_is_the_one_stored(orchestrator: LLMOrchestratorImpl) -> None:
    """A default that changes later does not change what was accepted."""
    answer = queued(orchestrator.perform_comparison(request("t", model_override="gpt-x"), context()))

    assert answer.request.model == "gpt-x"


def test_the_queue_id_is_no_correlation_id(service: Service, dispatcher: WatchingDispatcher) -> None:
    """Many requests may share one correlation id; each has a queue id of its own."""
    ids = [UUID(int=1), UUID(int=2)]
    orchestrator = LLMOrchestratorImpl(
        service.ledger, dispatcher, service.caller, service.sync_threads, POLICY, new_id=iter(ids).__next__
    )
    shared = context()
    answers = [queued(orchestrator.perform_comparison(request("t"), shared)) for _ in ids]

    assert [answer.request.queue_id for answer in answers] == [str(each) for each in ids]
    assert {answer.request.correlation_id for answer in answers} == {shared.correlation_id}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (lambda: request().model_copy(update={"llm_config_overrides": None}), RequestRejected),
        (lambda: request(provider_override="mock"), ProviderNotConfigured),
        (lambda: request(provider_override="google"), ProviderNotConfigured),
    ],
)
def test_a_request_that_could_never_be_served_is_not_accepted(
    orchestrator: LLMOrchestratorImpl,
    service: Service,
    asked: Callable[[], LLMComparisonRequest],
    error: type[RequestRejected],
) -> None:
    """Refused at once, with the field that is to be changed."""
    with pytest.raises(error) as refused:
        orchestrator.perform_comparison(asked(), context())

    assert refused.value.field == "llm_config_overrides.provider_override"
    assert service.accepted == 0


def test_a_request_that_would_rather_wait_is_not_sent_now(orchestrator: LLMOrchestratorImpl, service: Service) -> None:
    """prefers_async queues although the provider is free."""
    queued(orchestrator.perform_comparison(request(), context(prefers_async=True)))

    assert service.provider.calls == []


def test_an_answer_at_once_leaves_nothing_behind(
    orchestrator: LLMOrchestratorImpl, service: Service, dispatcher: WatchingDispatcher
) -> None:
    """The synchronous path touches neither the ledger nor the queue."""
    answer = orchestrator.perform_comparison(request(), context())

    assert isinstance(answer, LLMComparisonResponse)
    assert (service.accepted, dispatcher.seen) == (0, [])


def test_a_call_whose_turn_comes_late_is_queued(service: Service, orchestrator: LLMOrchestratorImpl) -> None:
    """Nothing was sent, so the caller, who can poll, need not send it again."""
    service.admission.answers = [Admission(Obstacle.RATE_LIMIT, wait_seconds=30)]

    answer = queued(orchestrator.perform_comparison(request(), context()))

    assert service.provider.calls == []
    assert service.ledger.view(answer.request.queue_id) is not None


def test_what_was_tried_at_once_is_queued_as_it_was(service: Service, dispatcher: WatchingDispatcher) -> None:
    """One request with one id, whose time began with the post, and whose reserved turn is not reserved again."""
    service.admission.answers = [
        Admission(Obstacle.RATE_LIMIT, wait_seconds=0.3, has_turn=True),
        Admission(Obstacle.CONCURRENCY, wait_seconds=30, has_turn=True),
    ]
    caller = ProviderCaller(
        {service.provider.name: service.provider},
        Gatekeeper(service.admission, Bell(), lease_seconds=60),
        a_policy(),
        sleep=time.sleep,
    )
    orchestrator = LLMOrchestratorImpl(service.ledger, dispatcher, caller, service.sync_threads, POLICY)
    before = utc_now()

    answer = queued(orchestrator.perform_comparison(request(), context()))

    claim = service.ledger.claim(answer.request.queue_id, "a worker")
    assert [asked["call_id"] for asked in service.admission.asked] == [answer.request.queue_id] * 2
    assert claim.progress == CallProgress(has_turn=True)
    assert claim.seconds_left <= POLICY.deadline_seconds - 0.3
    assert (answer.request.queued_at - before).total_seconds() < 0.3


def test_a_call_that_failed_is_never_queued(service: Service, orchestrator: LLMOrchestratorImpl) -> None:
    """Not even when its circuit opened meanwhile: the caller hears what the provider did."""
    service.provider.error = ProviderOverloaded("no")
    service.admission.answers = [Admission(), Admission(Obstacle.CIRCUIT_OPEN, wait_seconds=120)]

    with pytest.raises(ProviderOverloaded):
        orchestrator.perform_comparison(request(), context())

    assert service.accepted == 0


@pytest.mark.parametrize(("asked", "stored"), [(None, 600), (30.5, 30.5), (600, 600)])
def test_a_request_may_ask_for_less_time(orchestrator: LLMOrchestratorImpl, asked: float | None, stored: float) -> None:
    """Null is all that this installation allows."""
    comparison = request("t").model_copy(update={"deadline_seconds": asked})

    assert queued(orchestrator.perform_comparison(comparison, context())).request.deadline_seconds == stored


def test_a_request_may_not_ask_for_more_time(service: Service, orchestrator: LLMOrchestratorImpl) -> None:
    """The message says how much there is."""
    comparison = request("t").model_copy(update={"deadline_seconds": 600.5})

    with pytest.raises(RequestRejected, match="600") as refused:
        orchestrator.perform_comparison(comparison, context())

    assert (refused.value.field, service.accepted) == ("deadline_seconds", 0)


def test_a_synchronous_call_ends_at_its_deadline(service: Service, orchestrator: LLMOrchestratorImpl) -> None:
    """The provider is given what is left of it."""
    comparison = request().model_copy(update={"deadline_seconds": 2.5})

    orchestrator.perform_comparison(comparison, context())

    assert 0 < service.provider.timeouts[0] <= 2.5


def test_what_went_before_a_synchronous_call_is_no_time_of_its(
    service: Service, orchestrator: LLMOrchestratorImpl
) -> None:
    """A Redis that hangs when it is asked for the breaker does not put off the deadline."""

    def hang(provider: LLMProviderType) -> BreakerView:
        time.sleep(0.3)
        return BreakerView()

    service.admission.breaker = hang  # type: ignore[method-assign]

    orchestrator.perform_comparison(request().model_copy(update={"deadline_seconds": 2.5}), context())

    assert 0 < service.provider.timeouts[0] <= 2.2


def test_an_answer_for_a_caller_who_has_hung_up_is_told(orchestrator: LLMOrchestratorImpl) -> None:
    """What it cost, and to whom it was paid."""
    with structlog.testing.capture_logs() as lines:
        orchestrator.perform_comparison(request(), context(is_gone=lambda: True))
        orchestrator.perform_comparison(request(), context())

    (told,) = [line for line in lines if line["event"] == "answer_paid_for_nobody"]
    assert (told["provider"], told["model"], told["cost_usd"]) == ("openai", "scripted-1", 0.0021)


def test_for_a_caller_who_has_hung_up_nothing_is_queued(orchestrator: LLMOrchestratorImpl, service: Service) -> None:
    """Its turn would come later, and nobody knows the queue id."""
    service.admission.answers = [Admission(Obstacle.RATE_LIMIT, wait_seconds=30)]
    with pytest.raises(NotAdmitted):
        orchestrator.perform_comparison(request(), context(is_gone=lambda: True))

    assert service.ledger.figures().open == 0
