"""The calls made for one comparison: admitted, timed, made again where that helps."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from pydantic import JsonValue

from contracts.enums import LLMProviderType
from llm_provider import outcomes
from llm_provider.admission import Admission, CallAsk, CallHealth, CallReport, Obstacle
from llm_provider.config import VENDORS
from llm_provider.errors import (
    CircuitOpen,
    ComparisonError,
    HeldBack,
    InvalidAnswer,
    InvalidVerdict,
    LimitReached,
    NotAdmitted,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RequestExpired,
)
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import (
    CHARS_PER_TOKEN,
    CallProgress,
    ComparisonTarget,
    ComparisonTexts,
    FailedCall,
    Prompt,
    ProviderAnswer,
    ProviderCall,
)
from llm_provider.model_names import canonical_name
from llm_provider.prompts import PromptWriter
from llm_provider.protocols import LLMProviderProtocol
from llm_provider.queue_models import Outcome, QueuedRequest
from llm_provider.retries import RetrySchedule

log = structlog.get_logger(__name__)

# What comes sooner is waited for in the thread; anything later gives the thread back.
SHORT_WAIT_SECONDS = 2.0
# After a longer run even a short wait gives it back: stopping a worker takes one long call, not one for each try.
SHORT_RUN_SECONDS = 5.0
# What a verdict takes beside the prompt.
ANSWER_TOKENS = 300


class CallLater(Exception):
    """The next call is due after `wait_seconds`; until then no thread need wait. Who `sleeps` may be woken before."""

    def __init__(self, wait_seconds: float, progress: CallProgress, *, sleeps: bool = False) -> None:
        super().__init__(f"in {wait_seconds:.1f} s")
        self.wait_seconds = wait_seconds
        self.progress = progress
        self.sleeps = sleeps


@dataclass(frozen=True)
class CallPolicy:
    """How patiently a provider is called; config.py says what each is for."""

    timeout_seconds: float
    retries: RetrySchedule
    repair_invalid_answers: bool = False
    judged_after_seconds: float = 30.0
    longest_hold_seconds: float = 600.0


@dataclass(frozen=True)
class TimedAnswer:
    """An answer with the time its call took, waits left out."""

    answer: ProviderAnswer
    response_time_ms: int


class CallAttempts:
    """One request's way to its verdict, from one claim or post to the next; used by one thread."""

    def __init__(
        self,
        provider: LLMProviderProtocol,
        gatekeeper: Gatekeeper,
        prompts: PromptWriter,
        policy: CallPolicy,
        request: QueuedRequest,
        texts: ComparisonTexts,
        *,
        seconds_left: float,
        progress: CallProgress | None,
        sleep: Callable[[float], None],
        is_gone: Callable[[], bool] | None = None,
    ) -> None:
        self._provider = provider
        self._gate = gatekeeper
        self._prompts = prompts
        self._policy = policy
        self._request = request
        self._texts = texts
        self._began = time.monotonic()
        self._end = self._began + seconds_left
        self._can_come_back = progress is not None
        progress = progress or CallProgress()
        self._failures, self._refusals = progress.failures, progress.turned_away
        self._has_turn, self._is_late = progress.has_turn, progress.is_late
        self._bill = progress.bill
        self._last_error = progress.last_error()
        # Of the calls that a limit of the vendor's turned away: whether it did so because they were too many.
        self._others_are_granted = False
        self._sleep = sleep
        self._is_gone = is_gone or (lambda: False)
        self._target = target_of(request)

    def run(self) -> Outcome:
        """The verdict; raises CallLater or a ComparisonError."""
        while True:
            try:
                return self._verdict()
            except ProviderError as error:
                self._last_error = error
                wait = self._wait_after(error)
                # What took so long to fail takes as long to answer: it would be cut off, and might be billed.
                if wait + error.response_time_ms / 1000 >= self._seconds_left():
                    raise
                self._pause(wait, error, is_long=self._makes_run_long(wait))
                if self._is_gone():
                    raise

    def _makes_run_long(self, wait: float) -> bool:
        """Whether this claim would have held its thread for long by then; a synchronous call has another bound."""
        return self._can_come_back and time.monotonic() - self._began + wait > SHORT_RUN_SECONDS

    def _verdict(self) -> Outcome:
        try:
            timed = self._call(self._prompt())
        except InvalidVerdict as error:
            if not self._policy.repair_invalid_answers or self._is_gone():
                raise
            timed = self._repaired(error)
        return outcomes.completed(
            self._request.queue_id,
            timed.answer,
            response_time_ms=timed.response_time_ms,
            at=self._request.ended_now(),
        )

    def _prompt(self, complaint: str | None = None) -> Prompt:
        return self._prompts.write(self._texts, asked_target(self._request), complaint=complaint)

    def _repaired(self, first: InvalidVerdict) -> TimedAnswer:
        """Ask once more, saying what was wrong; what keeps the second answer away does not replace the first error."""
        try:
            return self._call(self._prompt(complaint=first.message))
        except InvalidAnswer:
            raise
        except (CallLater, ComparisonError):
            # It does not come back for it.
            self._gate.leave(self._target, self._request.queue_id)
            raise self._bill.put_on(first) from None

    def _call(self, prompt: Prompt) -> TimedAnswer:
        """One call, admitted and settled; what it cost is told together with the calls before it."""
        tokens = _estimated_tokens(prompt, self._request.overrides.max_tokens_override)
        admission, report = self._admitted(tokens), CallReport()
        try:
            allowed, started = min(self._policy.timeout_seconds, self._seconds_left()), time.monotonic()
            if not self._can_come_back:
                # Its caller is on the line: all calls together may take what one may.
                self._end = min(self._end, started + self._policy.timeout_seconds)
            try:
                answer = self._provider.compare(self._provider_call(prompt), timeout_seconds=allowed)
            except ProviderError as error:
                report = self._failure_report(error, tokens, allowed)
                self._note_failure(error, prompt, milliseconds_since(started))
                raise
            milliseconds = milliseconds_since(started)
            beyond = answer.token_usage.total_tokens - tokens
            report = CallReport(CallHealth.GOOD, tokens_beyond_estimate=beyond)
        finally:
            self._settle(admission, report)
        return TimedAnswer(self._with_all_costs(answer, prompt), milliseconds)

    def _note_failure(self, error: ProviderError, prompt: Prompt, milliseconds: int) -> None:
        """What its caller should know beside the error."""
        self._bill = self._bill.plus(error.token_usage, error.cost_usd)
        self._bill.put_on(error)
        error.noted(self._notes(prompt) if error.was_sent else {})
        error.response_time_ms = milliseconds

    def _with_all_costs(self, answer: ProviderAnswer, prompt: Prompt) -> ProviderAnswer:
        bill = self._bill.plus(answer.token_usage, answer.cost_usd)
        notes = {**answer.notes, **self._notes(prompt)}
        return answer.model_copy(update={"notes": notes, "token_usage": bill.token_usage, "cost_usd": bill.cost_usd})

    def _admitted(self, tokens: int) -> Admission:
        """Wait until the call may be made, here or by coming back."""
        patience, waited = self._seconds_left() if self._can_come_back else SHORT_WAIT_SECONDS, 0.0
        while is_guarded(self._provider.name):
            ask = CallAsk(
                self._target,
                self._request.queue_id,
                tokens,
                patience,
                has_turn=self._has_turn,
                is_late=self._is_late,
                can_sleep=self._can_come_back,
            )
            admission = self._gate.ask(ask)
            self._has_turn, self._is_late = admission.has_turn, admission.is_late
            if admission.obstacle is None:
                return admission
            if admission.sleeps:
                raise CallLater(admission.wait_seconds, self._progress(), sleeps=True)
            # Many short waits in a row are a long one.
            waited += admission.wait_seconds
            self._wait_for_admission(admission, is_long=waited > SHORT_WAIT_SECONDS)
        return Admission()

    def _wait_for_admission(self, admission: Admission, *, is_long: bool) -> None:
        why = _not_admitted(self._target, admission)
        try:
            self._pause(admission.wait_seconds, self._last_error or why, is_long=is_long)
        except ComparisonError as error:
            # Should it be queued, it goes on with its turn, and from its place in the line.
            why.has_turn, why.is_late = self._has_turn, self._is_late
            if self._can_come_back or error is not why:
                self._gate.leave(self._target, self._request.queue_id)
            raise

    def _settle(self, admission: Admission, report: CallReport) -> None:
        # Should it be made again, it has had its turn, and comes when what has really been called allows.
        self._has_turn, self._is_late = report.health is not CallHealth.GOOD, False
        if is_guarded(self._provider.name):
            told = replace(report, is_probe=admission.is_probe)
            self._others_are_granted = self._gate.settle(self._target, self._request.queue_id, told)

    def _failure_report(self, error: ProviderError, tokens: int, allowed: float) -> CallReport:
        counted = error.token_usage.total_tokens
        is_unused = not error.was_sent or isinstance(error, RateLimited)
        beyond = counted - tokens if counted or is_unused else 0
        turned_away = isinstance(error, RateLimited)
        hold = (error.retry_after_seconds or 0.0) if turned_away else 0.0
        return CallReport(
            self._health(error, allowed),
            tokens_beyond_estimate=beyond,
            hold_seconds=min(hold, self._policy.longest_hold_seconds),
            turned_away=turned_away,
        )

    def _health(self, error: ProviderError, allowed: float) -> CallHealth:
        is_ours = "http_status" not in error.details
        if isinstance(error, ProviderTimeout) and is_ours and allowed < self._enough_seconds:
            # A caller in a hurry learns nothing about the vendor.
            return CallHealth.UNKNOWN
        if error.trips_breaker:
            return CallHealth.BAD
        return CallHealth.GOOD if error.shows_life else CallHealth.UNKNOWN

    @property
    def _enough_seconds(self) -> float:
        return min(self._policy.timeout_seconds, self._policy.judged_after_seconds)

    def _wait_after(self, error: ProviderError) -> float:
        """Seconds until the call is made again; raises the error when it is not."""
        wait = self._scheduled(error) if is_guarded(self._provider.name) else None
        if wait is None:
            raise error
        log.info(
            "provider_call_failed",
            error_code=str(error.error_code),
            failures=self._failures,
            turned_away=self._refusals,
            next_in_seconds=round(wait, 1),
        )
        return wait

    def _scheduled(self, error: ProviderError) -> float | None:
        if isinstance(error, RateLimited) and self._others_are_granted:
            # Its turn has not come yet; that is no failure.
            self._refusals += 1
            return self._policy.retries.wait_after_refusal(error, refusals=self._refusals)
        self._failures += 1
        return self._policy.retries.wait_after(error, failures=self._failures)

    def _pause(self, wait: float, why: ComparisonError, *, is_long: bool = False) -> None:
        """Wait here, or come back later; raises `why` when neither is possible within the time left."""
        if wait >= self._seconds_left():
            raise why
        if wait <= SHORT_WAIT_SECONDS and not is_long:
            self._sleep(wait)
        elif self._can_come_back:
            raise CallLater(wait, self._progress())
        else:
            raise why

    def _progress(self) -> CallProgress:
        return CallProgress(
            failures=self._failures,
            turned_away=self._refusals,
            has_turn=self._has_turn,
            is_late=self._is_late,
            bill=self._bill,
            last_failure=self._last_error and FailedCall.of(self._last_error),
        )

    def _seconds_left(self) -> float:
        """Until it must have ended; raises RequestExpired, or the error before, when nothing is left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self._last_error or self._bill.put_on(RequestExpired(outcomes.EXPIRED_MESSAGE))
        return left

    def _notes(self, prompt: Prompt) -> dict[str, JsonValue]:
        return {"prompt_sha256": prompt.sha256} if is_guarded(self._provider.name) else {}

    def _provider_call(self, prompt: Prompt) -> ProviderCall:
        overrides = self._request.overrides
        return ProviderCall(
            texts=self._texts,
            prompt=prompt,
            model=self._request.model,
            temperature=overrides.temperature_override,
            max_tokens=overrides.max_tokens_override,
        )


def target_of(request: QueuedRequest) -> ComparisonTarget:
    """What admission control counts and limits its calls by."""
    return ComparisonTarget(provider=request.provider, model=canonical_name(request.model))


def asked_target(request: QueuedRequest) -> ComparisonTarget:
    """The model as its caller spelled it, by which its row is found."""
    return ComparisonTarget(provider=request.provider, model=request.model)


def is_guarded(provider: LLMProviderType) -> bool:
    """Whether a provider's calls cost something, so that they are limited, and made again; the mock's are neither."""
    return provider in VENDORS


def milliseconds_since(started: float) -> int:
    """Whole milliseconds since a reading of time.monotonic()."""
    return round((time.monotonic() - started) * 1000)


def _estimated_tokens(prompt: Prompt, max_tokens: int | None) -> int:
    asked = (len(prompt.system) + len(prompt.user)) // CHARS_PER_TOKEN
    return asked + min(ANSWER_TOKENS, max_tokens or ANSWER_TOKENS)


def _not_admitted(target: ComparisonTarget, admission: Admission) -> NotAdmitted:
    wait = admission.wait_seconds
    match admission.obstacle:
        case Obstacle.CIRCUIT_OPEN:
            return CircuitOpen(f"{target.provider} fails, and is left alone for now.", retry_after_seconds=wait)
        case Obstacle.VENDOR_HOLD:
            return HeldBack(f"{target.provider} limits the calls to its model for now.", retry_after_seconds=wait)
        case Obstacle.CONCURRENCY:
            limit = f"calls to {target.provider} at the same time"
        case _:
            limit = f"calls to {target.provider} per minute"
    return LimitReached(f"The limit of this service on {limit} leaves no turn in time.", retry_after_seconds=wait)
