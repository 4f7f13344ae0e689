"""This process's side of admission control: calls go on without it while Redis is away."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from contracts.enums import LLMProviderType
from llm_provider.admission import (
    Admission,
    AdmissionProtocol,
    BreakerState,
    BreakerView,
    CallAsk,
    CallReport,
    ProviderLoad,
    Settled,
)
from llm_provider.background import PeriodicThread
from llm_provider.errors import AdmissionUnavailable
from llm_provider.internal_models import ComparisonTarget
from llm_provider.protocols import WakerProtocol

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Who could not ask does not ask again for so long, so that not every call waits for a Redis that hangs.
BLIND_SECONDS = 1.0
# Of inviting others instead of those who are over: the rest is left to the next sweep.
MOST_ROUNDS = 100
NOBODY: Sequence[str] = ()


class Gatekeeper:
    """Shared by all threads of a process; nothing here raises, and nothing starts before the first call."""

    def __init__(
        self,
        admission: AdmissionProtocol,
        waker: WakerProtocol,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._waker = waker
        self._clock = clock
        self._blind_until = 0.0
        self._starting = threading.Lock()
        self._thread = PeriodicThread("gatekeeper", self._renew, lease_seconds / 4)
        self._is_started = False

    def ask(self, ask: CallAsk) -> Admission:
        """AdmissionProtocol.ask; everything is admitted while nobody can be asked."""
        self._start()
        unlimited = Admission(has_turn=ask.has_turn, is_late=ask.is_late)
        admission = self._told(lambda: self._admission.ask(ask), unlimited)
        self._wake(ask.target, admission.invited)
        return admission

    def settle(self, target: ComparisonTarget, call_id: str, report: CallReport) -> bool:
        """AdmissionProtocol.settle; what cannot be told lapses by itself. Whether the vendor grants other calls."""
        settled = self._told(lambda: self._admission.settle(target, call_id, report), Settled())
        # While nobody is asked, this process must not renew the place all the same.
        self._admission.forget(call_id)
        self._wake(target, settled.invited)
        return settled.is_granting

    def leave(self, target: ComparisonTarget, call_id: str) -> None:
        """AdmissionProtocol.leave."""
        self._wake(target, self._left(target, call_id))

    def _left(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        invited = self._told(lambda: self._admission.leave(target, call_id), NOBODY)
        self._admission.forget(call_id)
        return invited

    def invite_next(self, provider: LLMProviderType) -> None:
        """Wake who is asleep and may come now: a circuit has closed, a place has lapsed, a pace allows it."""
        invited = self._told(lambda: self._admission.invite_next(provider), NOBODY)
        self._wake(ComparisonTarget(provider=provider, model=""), invited)

    def _wake(self, target: ComparisonTarget, invited: Sequence[str]) -> None:
        """Those who are over leave the line, and others are invited instead; a long line of them in several rounds."""
        for _ in range(MOST_ROUNDS):
            over = self._waker.wake(invited)
            if not over:
                return
            invited = [following for call_id in over for following in self._left(target, call_id)]

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        """The provider's breaker; unknown while nobody can be asked."""
        return self._told(lambda: self._admission.breaker(provider), BreakerView(BreakerState.UNKNOWN))

    def load(self, provider: LLMProviderType) -> ProviderLoad:
        """AdmissionProtocol.load; nothing while nobody can be asked."""
        return self._told(lambda: self._admission.load(provider), ProviderLoad())

    def release(self, provider: LLMProviderType) -> bool:
        """AdmissionProtocol.release; False when nobody could be told."""
        return self._told(lambda: self._released(provider), otherwise=False)

    def _released(self, provider: LLMProviderType) -> bool:
        self._admission.release(provider)
        return True

    def stop(self) -> None:
        self._thread.stop()

    def _told(self, question: Callable[[], T], otherwise: T) -> T:
        """What admission control answers; `otherwise` while it does not."""
        if self._clock() < self._blind_until:
            return otherwise
        try:
            return question()
        except AdmissionUnavailable as error:
            # Of many threads that wait for the same outage one tells of it.
            if self._clock() >= self._blind_until:
                log.warning("calls_go_on_without_limits", reason=error.message)
            self._blind_until = self._clock() + BLIND_SECONDS
            return otherwise

    def _start(self) -> None:
        """Lazily, since a web process forks after it was built."""
        if self._is_started:
            return
        with self._starting:
            if not self._is_started:
                self._thread.start()
                self._is_started = True

    def _renew(self) -> bool:
        invited = self._told(self._admission.renew, NOBODY)
        # Whose provider does not matter: they were invited because a place of the line that they stand in is free.
        self._waker.wake(invited)
        return False
