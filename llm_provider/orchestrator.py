"""What the web process does with a request: answer it at once, or accept it for later."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from uuid import UUID, uuid4

import structlog

from contracts.enums import LLMProviderType
from llm_provider.api_models import LLMComparisonRequest, LLMComparisonResponse, LLMConfigOverrides, is_blank
from llm_provider.callbacks import build_response
from llm_provider.errors import ComparisonError, LedgerUnavailable, NotAdmitted, RequestRejected
from llm_provider.internal_models import CallProgress, ComparisonTexts
from llm_provider.ledger import Acceptance, LedgerProtocol
from llm_provider.outcomes import with_notes_apart
from llm_provider.protocols import LLMProviderProtocol, TaskDispatcherProtocol
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import QueuedRequest, TraceContext, utc_now
from llm_provider.retractor import Retractor
from llm_provider.sync_threads import SyncThreads

log = structlog.get_logger(__name__)


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RequestContext:
    """What comes with a request beside its body, and whether its caller is gone, who may hang up at any time."""

    correlation_id: UUID
    trace_context: TraceContext | None = None
    prefers_async: bool = False
    is_gone: Callable[[], bool] = _never


@dataclass(frozen=True)
class Queued:
    """The request is accepted: it ends with one outcome, whatever dies from here on."""

    request: QueuedRequest
    acceptance: Acceptance


@dataclass(frozen=True)
class RequestPolicy:
    """What this installation allows; config.py says what each is for."""

    default_provider: LLMProviderType | None
    allowed_callback_topics: Sequence[str]
    sync_responses: bool
    deadline_seconds: float
    allow_empty_essays: bool


class LLMOrchestratorImpl:
    """Shared by all threads of a web process."""

    def __init__(
        self,
        ledger: LedgerProtocol,
        dispatcher: TaskDispatcherProtocol,
        caller: ProviderCaller,
        sync_threads: SyncThreads,
        policy: RequestPolicy,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._ledger = ledger
        self._retractor = Retractor(ledger)
        self._dispatcher = dispatcher
        self._caller = caller
        self._policy = policy
        self._new_id = new_id
        self._sync_threads = sync_threads

    def perform_comparison(
        self, request: LLMComparisonRequest, context: RequestContext
    ) -> LLMComparisonResponse | Queued:
        """Answer now when that was asked for and is possible, else accept.

        Raises RequestRejected (nothing happened), a ComparisonError of the synchronous call, or NotAcceptedNow.
        """
        provider = self._provider(request.llm_config_overrides)
        self._check_topic(request.callback_topic)
        self._check_deadline(request.deadline_seconds)
        self._check_essays(request)
        # Built once: whichever way it is answered, its time runs from here on.
        stored, texts, progress = self._stored(request, context, provider), _texts(request), CallProgress()
        self._caller.check_prompt(stored, texts)
        end = time.monotonic() + stored.deadline_seconds
        if self._may_answer_now(request, context, provider):
            answer = self._answer_now(stored, texts, end, context.is_gone)
            if isinstance(answer, LLMComparisonResponse):
                return answer
            progress = answer
        return self._queue_request(stored, texts, progress, end)

    def _provider(self, overrides: LLMConfigOverrides | None) -> LLMProviderProtocol:
        name = (overrides and overrides.provider_override) or self._policy.default_provider
        if name is None:
            raise RequestRejected(
                "Name a provider: this service has no default one.",
                field="llm_config_overrides.provider_override",
            )
        return self._caller.configured(name)

    def _check_topic(self, topic: str | None) -> None:
        allowed = self._policy.allowed_callback_topics
        if topic is not None and not any(fnmatchcase(topic, pattern) for pattern in allowed):
            raise RequestRejected("This service does not publish to that topic.", field="callback_topic")

    def _check_deadline(self, seconds: float | None) -> None:
        longest = self._policy.deadline_seconds
        if seconds is not None and seconds > longest:
            raise RequestRejected(f"must be at most {longest:g} here", field="deadline_seconds")

    def _check_essays(self, request: LLMComparisonRequest) -> None:
        if self._policy.allow_empty_essays:
            return
        for field in ("essay_a", "essay_b"):
            if is_blank(getattr(request, field)):
                raise RequestRejected(f"{field} must hold a visible character.", field=field)

    def _may_answer_now(
        self, request: LLMComparisonRequest, context: RequestContext, provider: LLMProviderProtocol
    ) -> bool:
        wants_it = request.callback_topic is None and not context.prefers_async
        return wants_it and self._policy.sync_responses and self._caller.is_available(provider)

    def _answer_now(
        self, stored: QueuedRequest, texts: ComparisonTexts, end: float, is_gone: Callable[[], bool]
    ) -> LLMComparisonResponse | CallProgress:
        """The answer; or, when nothing was sent because its turn comes late, what the request brings to the queue.

        `end` is its deadline as time.monotonic() counts.
        """
        with self._sync_threads.one() as is_free:
            if not is_free:
                return CallProgress()
            try:
                outcome = self._caller.compare(stored, texts, end - time.monotonic(), is_gone=is_gone)
            except NotAdmitted as late:
                if is_gone():
                    # Nobody would poll for it.
                    self._caller.leave(stored)
                    raise
                return CallProgress(has_turn=late.has_turn, is_late=late.is_late)
            except ComparisonError as error:
                _note_waste(stored, error.cost_usd, is_wasted=error.cost_usd > 0 and is_gone())
                raise
            _note_waste(stored, outcome.cost_estimate, is_wasted=is_gone())
            return build_response(stored, with_notes_apart(outcome, stored))

    def _queue_request(
        self, queued: QueuedRequest, texts: ComparisonTexts, progress: CallProgress, end: float
    ) -> Queued:
        left = max(0.0, end - time.monotonic())
        try:
            acceptance = self._ledger.accept(queued, texts, progress=progress, seconds_left=left)
        except LedgerUnavailable:
            # Its caller is told that it is not accepted, and sends it again: it shall not run, and be paid, as well.
            self._retractor.take_back(queued.queue_id)
            raise
        # From here on the ledger answers for it: should the dispatch fail, in whatever way, or this process die
        # before it, the sweeper of a worker dispatches it.
        try:
            self._dispatcher.dispatch(queued.queue_id)
        except Exception as error:
            log.warning("dispatch_left_to_sweeper", queue_id=queued.queue_id, error=type(error).__name__)
        log.info("request_accepted", queue_id=queued.queue_id, callback_topic=queued.callback_topic)
        return Queued(queued, acceptance)

    def _stored(
        self, request: LLMComparisonRequest, context: RequestContext, provider: LLMProviderProtocol
    ) -> QueuedRequest:
        overrides = request.llm_config_overrides or LLMConfigOverrides()
        return QueuedRequest(
            queue_id=str(self._new_id()),
            correlation_id=context.correlation_id,
            callback_topic=request.callback_topic,
            provider=provider.name,
            model=overrides.model_override or provider.default_model,
            # The system prompt is one of the texts, which are stored apart.
            overrides=overrides.model_copy(update={"system_prompt_override": None}),
            user_id=request.user_id,
            metadata=request.metadata or {},
            queued_at=utc_now(),
            deadline_seconds=request.deadline_seconds or self._policy.deadline_seconds,
            trace_context=context.trace_context,
        )


def _note_waste(stored: QueuedRequest, cost: float, *, is_wasted: bool) -> None:
    if is_wasted:
        log.warning("answer_paid_for_nobody", provider=stored.provider, model=stored.model, cost_usd=cost)


def _texts(request: LLMComparisonRequest) -> ComparisonTexts:
    overrides = request.llm_config_overrides
    return ComparisonTexts(
        user_prompt=request.user_prompt,
        essay_a=request.essay_a,
        essay_b=request.essay_b,
        system_prompt=overrides.system_prompt_override if overrides else None,
    )
