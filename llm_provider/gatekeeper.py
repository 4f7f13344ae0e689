"""This process's side of admission control: calls go on without it while Redis is away."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from contracts.enums import LLMProviderType
from llm_provider.admission import Admission, AdmissionProtocol, BreakerView, CallHealth
from llm_provider.background import PeriodicThread
from llm_provider.errors import AdmissionUnavailable
from llm_provider.internal_models import ComparisonTarget

log = structlog.get_logger(__name__)

# Who could not ask does not ask again for so long, so that not every call waits for a Redis that hangs.
BLIND_SECONDS = 1.0


@dataclass(frozen=True)
class CallReport:
    """What a call that is over told about its provider."""

    health: CallHealth = CallHealth.UNKNOWN
    tokens_beyond_estimate: int = 0
    # How long the vendor asks that its model be left alone.
    hold_seconds: float = 0.0


class Gatekeeper:
    """Shared by all threads of a process; nothing here raises, and nothing starts before the first call."""

    def __init__(
        self, admission: AdmissionProtocol, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._blind_until = 0.0
        self._starting = threading.Lock()
        self._thread = PeriodicThread("gatekeeper", self._renew, lease_seconds / 4)
        self._is_started = False

    def ask(
        self, target: ComparisonTarget, call_id: str, *, tokens: int, has_turn: bool, patience_seconds: float
    ) -> Admission:
        """AdmissionProtocol.ask; everything is admitted while nobody can be asked."""
        self._start()
        with self._unless_blind() as may_ask:
            if may_ask:
                return self._admission.ask(
                    target, call_id, tokens=tokens, has_turn=has_turn, patience_seconds=patience_seconds
                )
        return Admission(has_turn=has_turn)

    def settle(
        self,
        target: ComparisonTarget,
        call_id: str,
        admission: Admission,
        report: CallReport,
    ) -> None:
        """AdmissionProtocol.settle; what cannot be told lapses by itself."""
        with self._unless_blind() as may_ask:
            if may_ask:
                self._admission.settle(
                    target,
                    call_id,
                    health=report.health,
                    is_probe=admission.is_probe,
                    tokens_beyond_estimate=report.tokens_beyond_estimate,
                    hold_seconds=report.hold_seconds,
                )

    def leave(self, target: ComparisonTarget, call_id: str) -> None:
        """AdmissionProtocol.leave."""
        with self._unless_blind() as may_ask:
            if may_ask:
                self._admission.leave(target, call_id)

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        """The provider's breaker; closed while nobody can be asked."""
        with self._unless_blind() as may_ask:
            if may_ask:
                return self._admission.breaker(provider)
        return BreakerView()

    def held_models(self, provider: LLMProviderType) -> Mapping[str, float]:
        """AdmissionProtocol.held_models; none while nobody can be asked."""
        with self._unless_blind() as may_ask:
            if may_ask:
                return self._admission.held_models(provider)
        return {}

    def release(self, provider: LLMProviderType) -> bool:
        """AdmissionProtocol.release; False when nobody could be told."""
        with self._unless_blind() as may_ask:
            if may_ask:
                self._admission.release(provider)
                return True
        return False

    def stop(self) -> None:
        self._thread.stop()

    @contextmanager
    def _unless_blind(self) -> Iterator[bool]:
        if self._clock() < self._blind_until:
            yield False
            return
        try:
            yield True
        except AdmissionUnavailable as error:
            self._blind_until = self._clock() + BLIND_SECONDS
            log.warning("calls_go_on_without_limits", reason=error.message)

    def _start(self) -> None:
        """Lazily, since a web process forks after it was built."""
        if self._is_started:
            return
        with self._starting:
            if not self._is_started:
                self._thread.start()
                self._is_started = True

    def _renew(self) -> bool:
        with self._unless_blind() as may_ask:
            if may_ask:
                self._admission.renew()
        return False
