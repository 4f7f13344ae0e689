"""Test data that differ only where a test says so, and a worker made of parts in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from contracts.enums import EssayWinner, LLMProviderType
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1, TokenUsage
from llm_provider import outcomes
from llm_provider.adapters.event_publisher import KafkaEventPublisher
from llm_provider.adapters.memory_bus import MemoryBus, PublishedRecord
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.memory_queue import MemoryResultStore
from llm_provider.admission import Admission, BreakerView, CallAsk, CallReport, ProviderLoad, Settled
from llm_provider.api_models import LLMConfigOverrides
from llm_provider.call_attempts import CallPolicy
from llm_provider.errors import AdmissionUnavailable, ComparisonError, RateLimited
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import (
    ComparisonTarget,
    ComparisonTexts,
    Prompt,
    ProviderAnswer,
    ProviderCall,
    Verdict,
)
from llm_provider.leases import LeaseKeeper
from llm_provider.ledger import Action, LedgerTiming
from llm_provider.prompts import PromptWriter
from llm_provider.protocols import EventBusProtocol
from llm_provider.provider_caller import ProviderCaller
from llm_provider.publish_gate import PublishGate
from llm_provider.queue_models import Outcome, QueuedRequest, TraceContext, utc_now
from llm_provider.queue_processor import QueueProcessorImpl
from llm_provider.retries import RetrySchedule

TOPIC = "team-a.comparisons"
# A word that only the confidential texts hold.
SECRET = "zebra-secret-zebra"
TRACE = TraceContext(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", tracestate="vendor=opaque")


def a_request(**changes: Any) -> QueuedRequest:
    """A request that names a callback topic and may take an hour."""
    fields: dict[str, Any] = {
        "queue_id": str(uuid4()),
        "correlation_id": uuid4(),
        "callback_topic": TOPIC,
        "provider": LLMProviderType.MOCK,
        "model": "mock-1",
        "overrides": LLMConfigOverrides(),
        "metadata": {"batch": 7, "nested": {"essay_ids": ["a", "b"]}},
        "queued_at": utc_now(),
        "deadline_seconds": 3600.0,
        "trace_context": TRACE,
    }
    return QueuedRequest(**{**fields, **changes})


def some_texts() -> ComparisonTexts:
    return ComparisonTexts(
        user_prompt=f"Which is better? {SECRET}",
        essay_a=f"Essay one. {SECRET}",
        essay_b=f"Essay two. {SECRET}",
        system_prompt=f"You are strict. {SECRET}",
    )


# With a secret that every test knows.
PROMPTS = PromptWriter(lambda: b"the installation's")
A_MODEL = ComparisonTarget(provider=LLMProviderType.OPENAI, model="unknown-1")


def a_prompt(texts: ComparisonTexts, *, complaint: str | None = None) -> Prompt:
    """As a model of which nothing is known is sent it."""
    return PROMPTS.write(texts, A_MODEL, complaint=complaint)


def an_answer(**changes: Any) -> ProviderAnswer:
    verdict = {"winner": EssayWinner.ESSAY_A, "justification": "Clearer structure.", "confidence": 0.75}
    usage = TokenUsage(prompt_tokens=900, completion_tokens=60, total_tokens=960)
    return ProviderAnswer(verdict=Verdict(**{**verdict, **changes}), token_usage=usage, cost_usd=0.0125)


def a_verdict_for(request: QueuedRequest, **changes: Any) -> Outcome:
    """The stored outcome of a request that went well; `changes` are of the verdict."""
    return outcomes.completed(request.queue_id, an_answer(**changes), response_time_ms=840, at=utc_now())


def an_error_for(request: QueuedRequest, error: ComparisonError | None = None) -> Outcome:
    """The stored outcome of a request that failed."""
    told = error or RateLimited("The provider limits the rate of calls.", details={"provider": "mock"})
    return outcomes.failed(request.queue_id, told, response_time_ms=840, at=utc_now())


def a_timing(**changes: Any) -> LedgerTiming:
    """Times so long that nothing happens by itself, except where a test says so."""
    times: dict[str, Any] = {
        "lease": 60.0,
        "redispatch_after": 60.0,
        "delivery_window": 60.0,
        "delivery_retry": (60.0,),
        "result_expires": 60.0,
        "record_retention": 60.0,
        "high_watermark": 100_000,
        "low_watermark": 90_000,
    }
    return LedgerTiming(**{**times, **changes})


@dataclass
class Clock:
    """Time that passes when a test says so, in seconds."""

    now: float = field(default_factory=lambda: datetime.now(UTC).timestamp())

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class ScriptedProvider:
    """An LLMProviderProtocol that gives what it is told to give, and remembers what it was asked.

    First what `before` holds, one a call, then `answer` for ever.
    """

    answer: ProviderAnswer | Exception = field(default_factory=an_answer)
    before: list[ProviderAnswer | Exception] = field(default_factory=list)
    name: LLMProviderType = LLMProviderType.MOCK
    default_model: str = "mock-1"
    configured: bool = True
    calls: list[tuple[ProviderCall, float]] = field(default_factory=list)
    on_call: Callable[[], object] = lambda: None

    def is_configured(self) -> bool:
        return self.configured

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        self.calls.append((call, timeout_seconds))
        self.on_call()
        answer = self.before.pop(0) if self.before else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.configured = False


@dataclass
class ScriptedAdmission:
    """An AdmissionProtocol that admits, after what `answers` holds, and remembers what it was asked and told."""

    answers: list[Admission | Exception] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    settled: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    renewals: int = 0
    view: BreakerView = field(default_factory=BreakerView)
    at_provider: ProviderLoad = field(default_factory=ProviderLoad)
    invited: tuple[str, ...] = ()
    forgotten: list[str] = field(default_factory=list)
    is_granting: bool = False
    released: list[LLMProviderType] = field(default_factory=list)
    is_away: bool = False

    def ask(self, ask: CallAsk) -> Admission:
        self._answer_or_fail()
        self.asked.append(dict(vars(ask)))
        answer = self.answers.pop(0) if self.answers else Admission()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def settle(self, target: ComparisonTarget, call_id: str, report: CallReport) -> Settled:
        self._answer_or_fail()
        self.settled.append(dict(vars(report)))
        return Settled(self.invited, self.is_granting)

    def leave(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        self._answer_or_fail()
        self.left.append(call_id)
        return self.invited

    def forget(self, call_id: str) -> None:
        self.forgotten.append(call_id)

    def invite_next(self, provider: LLMProviderType) -> Sequence[str]:
        self._answer_or_fail()
        return self.invited

    def renew(self) -> Sequence[str]:
        self._answer_or_fail()
        self.renewals += 1
        return self.invited

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        self._answer_or_fail()
        return self.view

    def load(self, provider: LLMProviderType) -> ProviderLoad:
        self._answer_or_fail()
        return self.at_provider

    def release(self, provider: LLMProviderType) -> None:
        self._answer_or_fail()
        self.released.append(provider)

    def _answer_or_fail(self) -> None:
        if self.is_away:
            raise AdmissionUnavailable("Redis is away.")


@dataclass
class Bell:
    """A WakerProtocol that remembers whom it was to wake."""

    woken: list[str] = field(default_factory=list)
    # Who of those that are called is over.
    over: tuple[str, ...] = ()

    def wake(self, queue_ids: Sequence[str]) -> Sequence[str]:
        self.woken.extend(queue_ids)
        return [each for each in queue_ids if each in self.over]


def a_policy(**changes: Any) -> CallPolicy:
    """Patience without chance: calls are made again after 1, 5 and 30 seconds."""
    waits = RetrySchedule(waits=(1.0, 5.0, 30.0), random=lambda: 0.5)
    return CallPolicy(**{"timeout_seconds": 120.0, "retries": waits, **changes})


class Worker:
    """A queue processor of one process; give another one its ledger, bus and results to play a second process."""

    def __init__(
        self,
        *,
        beside: "Worker | None" = None,
        ledger: MemoryLedger | None = None,
        bus: EventBusProtocol | None = None,
        sleep: Callable[[float], None] = lambda seconds: None,
        timeout_seconds: float = 120.0,
        kind: type[QueueProcessorImpl] = QueueProcessorImpl,
    ) -> None:
        self.clock: Clock = beside.clock if beside else Clock()
        self.ledger: MemoryLedger = ledger or (beside.ledger if beside else MemoryLedger(a_timing()))
        self.ledger.clock = self.clock
        self.bus: MemoryBus = beside.bus if beside else MemoryBus()
        self.results: MemoryResultStore = beside.results if beside else MemoryResultStore()
        self.provider = ScriptedProvider()
        self.gate = PublishGate(self.clock)
        self.leases = LeaseKeeper(self.ledger, self.ledger.timing.lease)
        self.admission = ScriptedAdmission()
        self.caller = ProviderCaller(
            {self.provider.name: self.provider},
            Gatekeeper(self.admission, Bell(), lease_seconds=60),
            a_policy(timeout_seconds=timeout_seconds),
            prompts=PROMPTS,
            sleep=sleep,
        )
        self.processor = kind(
            self.ledger,
            self.caller,
            KafkaEventPublisher(bus or self.bus),
            self.results,
            self.leases,
            self.gate,
            sleep=sleep,
        )

    def accept(self, **changes: Any) -> QueuedRequest:
        request = a_request(**changes)
        self.ledger.accept(request, some_texts())
        return request

    def run(self, request: QueuedRequest) -> None:
        """What a delivered task message does: the task, then its success or failure handler."""
        decision = self.processor.process(request.queue_id)
        if decision is None:
            return
        if decision.outcome.error is None:
            self.processor._handle_request_success(decision)  # noqa: SLF001 The contract names it so.
        else:
            self.processor._handle_request_failure(decision)  # noqa: SLF001 The contract names it so.

    def sweep(self) -> list[str]:
        """Deliver what is due, as the sweeper does; the ids of what was due."""
        due = [item for item in self.ledger.sweep(queue_is_empty=False) if item.action is Action.DELIVER]
        for item in due:
            self.processor.deliver_due(item.queue_id)
        return [item.queue_id for item in due]

    @property
    def records(self) -> list[PublishedRecord]:
        return self.bus.records


def read(record: PublishedRecord) -> EventEnvelope[LLMComparisonResultV1]:
    """An event as a consumer reads it."""
    return EventEnvelope[LLMComparisonResultV1].model_validate_json(record.value)
