"""Admission control in memory: what the Redis one does, for one process. For tests of whatever asks for admission."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from contracts.enums import LLMProviderType
from llm_provider.admission import (
    LATENESS_SECONDS,
    PLACE_KEPT_SECONDS,
    Admission,
    BreakerPolicy,
    BreakerState,
    BreakerView,
    CallHealth,
    Obstacle,
)
from llm_provider.config import VendorSettings
from llm_provider.errors import AdmissionUnavailable
from llm_provider.internal_models import ComparisonTarget


@dataclass
class _Breaker:
    failures: int = 0
    goods: int = 0
    until: float | None = None
    probe: str = ""
    probe_until: float = 0.0
    # Counts the openings, so that results from before one can be told.
    epoch: int = 0


@dataclass
class _Pace:
    """What a model's calls have taken: when it will have flowed back, by account; until when it is left alone."""

    back: dict[str, float] = field(default_factory=dict)
    hold: float = 0.0


@dataclass
class _Account:
    """Of requests or of tokens: a second's worth may be taken at once, and one request always."""

    name: str
    per_minute: int
    pace: _Pace
    now: float

    @property
    def interval(self) -> float:
        return 60 / self.per_minute

    @property
    def burst(self) -> float:
        return max(1.0, self.per_minute / 60)

    @property
    def back(self) -> float:
        return max(self.now, self.pace.back.get(self.name, 0.0))

    def wait(self, cost: float) -> float:
        """Who takes more than the account ever holds waits until it is full, and leaves it in debt."""
        return self.back - self.now - (self.burst - min(cost, self.burst)) * self.interval

    def take(self, cost: float) -> None:
        self.pace.back[self.name] = self.back + cost * self.interval

    def hold(self, until: float) -> None:
        """The next turn comes then, and those behind it at the pace of the limit."""
        self.pace.back[self.name] = max(self.back, until + (self.burst - 1) * self.interval)


@dataclass
class _Ticket:
    """When a call first asked for a slot, and when it is to be back."""

    asked: int
    back: float


@dataclass
class _Slots:
    leases: dict[str, float] = field(default_factory=dict)
    line: dict[str, _Ticket] = field(default_factory=dict)
    tickets: int = 0

    def forget(self, now: float) -> None:
        self.leases = {call: end for call, end in self.leases.items() if end > now}
        self.line = {call: t for call, t in self.line.items() if t.back + PLACE_KEPT_SECONDS > now}

    def before(self, ticket: _Ticket, now: float) -> int:
        """How many of those who are there have asked earlier."""
        return sum(t.asked < ticket.asked and t.back + LATENESS_SECONDS > now for t in self.line.values())

    def ticket(self, call_id: str, now: float) -> _Ticket:
        if call_id not in self.line:
            self.tickets += 1
            self.line[call_id] = _Ticket(self.tickets, now)
        return self.line[call_id]


@dataclass
class MemoryAdmissionState:
    """What several MemoryAdmissions share when they play several processes."""

    breakers: dict[LLMProviderType, _Breaker] = field(default_factory=dict)
    paces: dict[ComparisonTarget, _Pace] = field(default_factory=dict)
    slots: dict[LLMProviderType, _Slots] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_POLICY = BreakerPolicy(failures=3, open_seconds=120.0, successes=2)


def _unlimited(_: LLMProviderType) -> VendorSettings:
    return VendorSettings.model_construct()


@dataclass
class MemoryAdmission:
    """AdmissionProtocol in one process; `clock` gives seconds, `away` plays an outage."""

    breaker_policy: BreakerPolicy = _POLICY
    limits: Callable[[LLMProviderType], VendorSettings] = _unlimited
    lease_seconds: float = 10.0
    chance: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic
    away: bool = False
    state: MemoryAdmissionState = field(default_factory=MemoryAdmissionState)
    _held: dict[str, tuple[LLMProviderType, int]] = field(default_factory=dict)

    def ask(
        self, target: ComparisonTarget, call_id: str, *, tokens: int, has_turn: bool, patience_seconds: float
    ) -> Admission:
        with self._asked() as now:
            return (
                self._circuit(target.provider, call_id, now, has_turn=has_turn)
                or self._turn(target, now, tokens=tokens, has_turn=has_turn, patience=patience_seconds)
                or self._slot(target.provider, call_id, now)
                or self._admit(target.provider, call_id, now)
            )

    def _circuit(self, provider: LLMProviderType, call_id: str, now: float, *, has_turn: bool) -> Admission | None:
        breaker = self._breaker(provider)
        if breaker.until is None:
            return None
        if breaker.until > now:
            return Admission(Obstacle.CIRCUIT_OPEN, breaker.until - now, has_turn=has_turn)
        if breaker.probe not in {"", call_id} and breaker.probe_until > now:
            return Admission(Obstacle.CIRCUIT_OPEN, 0.75 + 0.5 * self.chance(), has_turn=has_turn)
        return None

    def _turn(
        self, target: ComparisonTarget, now: float, *, tokens: int, has_turn: bool, patience: float
    ) -> Admission | None:
        """Requests and tokens are reserved together or not at all."""
        held, accounts = max(0.0, self._pace(target).hold - now), self._accounts(target, now)
        if has_turn or not accounts:
            # Not paced by an account, those who wait are spread over some time behind the hold.
            spread = self.chance() * min(60.0, max(1.0, held / 5))
            return Admission(Obstacle.VENDOR_HOLD, held + spread, has_turn=has_turn) if held else None
        costs, obstacle = {"requests": 1, "tokens": tokens}, Obstacle.VENDOR_HOLD if held else Obstacle.RATE_LIMIT
        wait = max(held, *(account.wait(costs[account.name]) for account in accounts))
        if wait > patience:
            return Admission(obstacle, wait)
        for account in accounts:
            account.take(costs[account.name])
        return Admission(obstacle, wait, has_turn=True) if wait > 0 else None

    def _slot(self, provider: LLMProviderType, call_id: str, now: float) -> Admission | None:
        """A slot goes to whoever asked first, of those who are there."""
        limit, slots = self.limits(provider).max_concurrent_calls, self._slots(provider)
        if limit is None:
            return None
        slots.forget(now)
        if call_id not in slots.leases:
            ticket = slots.ticket(call_id, now)
            before, free = slots.before(ticket, now), limit - len(slots.leases)
            if before >= free:
                wait = min(1.0, 0.05 + 0.1 * (before - max(0, free)) / limit)
                ticket.back = now + wait
                return Admission(Obstacle.CONCURRENCY, wait, has_turn=True)
            del slots.line[call_id]
        slots.leases[call_id] = now + self.lease_seconds
        return None

    def _admit(self, provider: LLMProviderType, call_id: str, now: float) -> Admission:
        """The probe is taken last, so that only a call that is made takes it."""
        breaker = self._breaker(provider)
        self._held[call_id] = (provider, breaker.epoch)
        if breaker.until is None:
            return Admission(has_turn=True)
        breaker.probe, breaker.probe_until = call_id, now + self.lease_seconds
        return Admission(has_turn=True, is_probe=True)

    def settle(
        self,
        target: ComparisonTarget,
        call_id: str,
        *,
        health: CallHealth,
        is_probe: bool = False,
        tokens_beyond_estimate: int = 0,
        hold_seconds: float = 0.0,
    ) -> None:
        _, epoch = self._held.pop(call_id, (target.provider, None))
        with self._asked() as now:
            self._slots(target.provider).leases.pop(call_id, None)
            breaker = self._breaker(target.provider)
            if breaker.probe == call_id:
                self._count_probe(breaker, health, now)
            elif breaker.until is None and not is_probe and epoch in {None, breaker.epoch}:
                self._count(breaker, health, now)
            self._correct(target, now, tokens_beyond_estimate, hold_seconds)

    def _correct(self, target: ComparisonTarget, now: float, tokens: int, hold_seconds: float) -> None:
        pace, accounts = self._pace(target), self._accounts(target, now)
        for account in accounts:
            if account.name == "tokens":
                account.take(tokens)
        if hold_seconds and now + hold_seconds > pace.hold:
            pace.hold = now + hold_seconds
            for account in accounts:
                account.hold(pace.hold)

    def _count_probe(self, breaker: _Breaker, health: CallHealth, now: float) -> None:
        breaker.probe = ""
        if health is CallHealth.BAD:
            breaker.failures += 1
            self._open(breaker, now)
        elif health is CallHealth.GOOD:
            breaker.goods += 1
            if breaker.goods >= self.breaker_policy.successes:
                breaker.until, breaker.goods, breaker.failures = None, 0, 0

    def _count(self, breaker: _Breaker, health: CallHealth, now: float) -> None:
        if health is CallHealth.GOOD:
            breaker.failures = 0
        elif health is CallHealth.BAD:
            breaker.failures += 1
            if breaker.failures >= self.breaker_policy.failures:
                self._open(breaker, now)

    def _open(self, breaker: _Breaker, now: float) -> None:
        breaker.until, breaker.goods = now + self.breaker_policy.open_seconds, 0
        breaker.epoch += 1

    def leave(self, target: ComparisonTarget, call_id: str) -> None:
        self._held.pop(call_id, None)
        with self._asked():
            slots, breaker = self._slots(target.provider), self._breaker(target.provider)
            slots.leases.pop(call_id, None)
            slots.line.pop(call_id, None)
            if breaker.probe == call_id:
                breaker.probe = ""

    def renew(self) -> None:
        with self._asked() as now:
            end = now + self.lease_seconds
            for call_id, (provider, _) in self._held.items():
                breaker = self._breaker(provider)
                if breaker.probe == call_id:
                    breaker.probe_until = end
                if self.limits(provider).max_concurrent_calls is not None:
                    self._slots(provider).leases[call_id] = end

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        with self._asked() as now:
            breaker = self._breaker(provider)
            if breaker.until is None:
                return BreakerView(BreakerState.CLOSED, breaker.failures)
            if breaker.until <= now:
                return BreakerView(BreakerState.HALF_OPEN, breaker.failures)
            return BreakerView(BreakerState.OPEN, breaker.failures, breaker.until - now)

    def held_models(self, provider: LLMProviderType) -> Mapping[str, float]:
        with self._asked() as now:
            paces = self.state.paces.items()
            return {
                target.model: pace.hold - now
                for target, pace in paces
                if target.provider is provider and pace.hold > now
            }

    def release(self, provider: LLMProviderType) -> None:
        with self._asked() as now:
            self.state.breakers.pop(provider, None)
            for target, pace in [*self.state.paces.items()]:
                if target.provider is provider and pace.hold > now:
                    del self.state.paces[target]

    @contextmanager
    def _asked(self) -> Iterator[float]:
        if self.away:
            raise AdmissionUnavailable("The memory is away.")
        with self.state.lock:
            yield self.clock()

    def _breaker(self, provider: LLMProviderType) -> _Breaker:
        return self.state.breakers.setdefault(provider, _Breaker())

    def _slots(self, provider: LLMProviderType) -> _Slots:
        return self.state.slots.setdefault(provider, _Slots())

    def _pace(self, target: ComparisonTarget) -> _Pace:
        return self.state.paces.setdefault(target, _Pace())

    def _accounts(self, target: ComparisonTarget, now: float) -> list[_Account]:
        limit, pace = self.limits(target.provider).rate_limit(target.model), self._pace(target)
        rates = {"requests": limit.requests_per_minute, "tokens": limit.tokens_per_minute}
        return [_Account(name, rate, pace, now) for name, rate in rates.items() if rate]
