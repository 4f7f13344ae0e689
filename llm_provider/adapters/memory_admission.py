"""Admission control in memory: what the Redis one does, for one process. For tests of whatever asks for admission."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from contracts.enums import LLMProviderType
from llm_provider.admission import (
    FASTER,
    FASTEST_SECONDS,
    FIRST_CALLED,
    FIRST_SLOW_SECONDS,
    FLOW_OFFER_SECONDS,
    GRANTING_SECONDS,
    LATENESS_SECONDS,
    LEARNED_WAIT_SECONDS,
    LOOK_AGAIN_EACH_SECONDS,
    LOOK_AGAIN_SECONDS,
    MOST_CALLED,
    OFFER_SECONDS,
    SLOWEST_SECONDS,
    TICKET_KEPT_SECONDS,
    Admission,
    BreakerPolicy,
    BreakerState,
    BreakerView,
    CallAsk,
    CallHealth,
    CallReport,
    Obstacle,
    ProviderLoad,
    Settled,
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

    def is_half_open(self, now: float) -> bool:
        return self.until is not None and self.until <= now

    def is_probed(self, now: float) -> bool:
        return self.probe != "" and self.probe_until > now


@dataclass
class _Pace:
    """What a model's calls have taken: when it will have flowed back, by account; until when it is left alone."""

    taken: dict[str, float] = field(default_factory=dict)
    hold: float = 0.0
    # Seconds between two calls that the vendor's refusals taught.
    slow: float = 0.0
    slow_since: float = float("-inf")
    # When it last granted a call all the same; by what was learned, when the next call may be made, and when all who
    # were told to look again have done so.
    granted: float = float("-inf")
    learned_passed: float = 0.0
    learned_late: float = 0.0


@dataclass
class _Account:
    """Of requests or of tokens: a second's worth may be taken at once, and one request always.

    Each has three times: when all turns will have come, when what was really called will have flowed back, and when all
    who were late will have had another turn.
    """

    name: str
    per_minute: float
    pace: _Pace
    now: float

    @property
    def interval(self) -> float:
        return 60 / self.per_minute

    @property
    def burst(self) -> float:
        return max(1.0, self.per_minute / 60)

    def at(self, which: str) -> float:
        return max(self.now, self.pace.taken.get(f"{self.name} {which}", 0.0))

    def wait(self, which: str, cost: float) -> float:
        """Who takes more than the account ever holds waits until it is full, and leaves it in debt."""
        return self.at(which) - self.now - (self.burst - min(cost, self.burst)) * self.interval

    def take(self, which: str, cost: float) -> None:
        self.pace.taken[f"{self.name} {which}"] = self.at(which) + cost * self.interval

    def hold(self, until: float) -> None:
        """The next turn comes then, and those behind it at the pace of the limit."""
        for which in ("turns", "passed"):
            first = until + (self.burst - 1) * self.interval
            self.pace.taken[f"{self.name} {which}"] = max(self.at(which), first)


@dataclass
class _Waiting:
    """In the line by when it first asked; asleep until it is called, or awake and expected back."""

    asked: int
    until: float
    is_asleep: bool


@dataclass
class _Line:
    """A provider's calls that run, and who waits."""

    leases: dict[str, float] = field(default_factory=dict)
    # Who of those that wait has been called, and until when it is expected.
    offers: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    tickets: dict[str, tuple[int, float]] = field(default_factory=dict)
    given: int = 0
    # Of the second in which some were called last: which it was, how many might be, and how many still may; None while
    # no circuit has opened.
    flow: tuple[int, int, int] | None = None

    def forget_absent(self, now: float) -> None:
        self.leases = {call: end for call, end in self.leases.items() if end > now}
        self.offers = {call: end for call, end in self.offers.items() if end > now}
        self.waiting = {call: w for call, w in self.waiting.items() if w.until > now}
        self.tickets = {call: t for call, t in self.tickets.items() if t[1] > now}

    def leave(self, call_id: str) -> None:
        self.waiting.pop(call_id, None)
        self.offers.pop(call_id, None)

    def ticket(self, call_id: str) -> int:
        if call_id in self.waiting:
            return self.waiting[call_id].asked
        return self.tickets[call_id][0] if call_id in self.tickets else self.given + 1

    def stand(self, call_id: str, now: float, until: float, *, is_asleep: bool) -> None:
        mine = self.ticket(call_id)
        self.given = max(self.given, mine)
        self.tickets[call_id] = (mine, now + TICKET_KEPT_SECONDS)
        self.waiting[call_id] = _Waiting(mine, until, is_asleep)

    def before(self, call_id: str) -> int:
        """How many of those who are there have asked earlier."""
        mine = self.ticket(call_id)
        return sum(w.asked < mine for call, w in self.waiting.items())

    def sleepers(self, among_first: int, most: int) -> list[str]:
        """Of the first in the line those who are asleep and have not been called."""
        in_order = sorted(self.waiting.items(), key=lambda item: item[1].asked)[: max(0, among_first)]
        return [call for call, w in in_order if w.is_asleep and call not in self.offers][: max(0, most)]

    def flowing(self, now: float) -> list[str]:
        """Slowly first, and twice as many each second."""
        if self.flow is None:
            return []
        second, (last, allowed, left) = int(now), self.flow
        if second > last + 10:
            allowed = left = FIRST_CALLED
        elif second > last:
            allowed = left = min(2 * allowed, MOST_CALLED)
        called = self.sleepers(len(self.offers) + left + 20, left)
        self.flow = (second, allowed, left - len(called))
        return called


@dataclass
class MemoryAdmissionState:
    """What several MemoryAdmissions share when they play several processes."""

    breakers: dict[LLMProviderType, _Breaker] = field(default_factory=dict)
    paces: dict[ComparisonTarget, _Pace] = field(default_factory=dict)
    lines: dict[LLMProviderType, _Line] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


# Of sums of seconds since 1970.
_ROUNDING = 1e-5

# Of a second long ago.
_UNUSED_FLOW = (-1000, 0, 0)

_POLICY = BreakerPolicy(failures=3, open_seconds=120.0, successes=2)


def _unlimited(_: LLMProviderType) -> VendorSettings:
    return VendorSettings.model_construct()


@dataclass(frozen=True)
class _Ask(CallAsk):
    """One caller's question, and when it was asked."""

    now: float = 0.0

    @property
    def provider(self) -> LLMProviderType:
        return self.target.provider

    def cost(self, account: _Account) -> float:
        return self.tokens if account.name == "tokens" else 1


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
    # Of the calls of this process: the provider, the breaker's epoch, and when it was admitted.
    _held: dict[str, tuple[LLMProviderType, int, float]] = field(default_factory=dict)

    def ask(self, ask: CallAsk) -> Admission:
        with self._asked() as now:
            asked = _Ask(**vars(ask), now=now)
            return self._circuit(asked) or self._turn(asked) or self._slot(asked)

    def _circuit(self, ask: _Ask) -> Admission | None:
        breaker = self._breaker(ask.provider)
        if breaker.until is None:
            return None
        if breaker.until > ask.now:
            wait = breaker.until - ask.now
            sleeps = ask.can_sleep and wait < ask.patience_seconds
            return self._told(ask, Obstacle.CIRCUIT_OPEN, wait + (self._sleep(ask) if sleeps else 0.0), sleeps=sleeps)
        if breaker.is_probed(ask.now) and breaker.probe != ask.call_id:
            wait = self._sleep(ask) if ask.can_sleep else 0.75 + 0.5 * self.chance()
            return self._told(ask, Obstacle.CIRCUIT_OPEN, wait, sleeps=ask.can_sleep)
        return None

    def _told(self, ask: _Ask, obstacle: Obstacle, wait: float, *, sleeps: bool = False) -> Admission:
        return Admission(obstacle, wait, has_turn=ask.has_turn, is_late=ask.is_late, sleeps=sleeps)

    def _sleep(self, ask: _Ask) -> float:
        line = self._line(ask.provider)
        line.stand(ask.call_id, ask.now, ask.now + ask.patience_seconds, is_asleep=True)
        return LOOK_AGAIN_SECONDS + LOOK_AGAIN_EACH_SECONDS * line.before(ask.call_id)

    def _turn(self, ask: _Ask) -> Admission | None:
        """Requests and tokens are reserved together or not at all."""
        accounts, held = self._accounts(ask.target, ask.now), max(0.0, self._pace(ask.target).hold - ask.now)
        obstacle = Obstacle.VENDOR_HOLD if held else Obstacle.RATE_LIMIT
        if ask.has_turn or not accounts:
            if held:
                # Not paced by an account, those who wait are spread over some time behind the hold.
                spread = self.chance() * min(60.0, max(1.0, held / 5))
                return self._step_aside(ask, self._told(ask, obstacle, held + spread))
            return self._passage(ask, accounts, is_late=ask.is_late)
        wait = max(held, *(account.wait("turns", ask.cost(account)) for account in accounts))
        if wait > ask.patience_seconds:
            return self._step_aside(ask, Admission(obstacle, wait))
        for account in accounts:
            account.take("turns", ask.cost(account))
        if wait > 0:
            return self._step_aside(ask, Admission(obstacle, wait, has_turn=True))
        return self._passage(ask, accounts, is_late=False)

    def _passage(self, ask: _Ask, accounts: list[_Account], *, is_late: bool) -> Admission | None:
        """A turn is for a time: who comes late for it passes only as the limits allow, and who comes behind waits."""
        wait = max([0.0, *(account.wait("passed", ask.cost(account)) for account in accounts)])
        if not is_late:
            wait = max([wait, *(account.at("late") - ask.now for account in accounts)])
            for account in accounts if wait > _ROUNDING else []:
                account.take("late", ask.cost(account))
        if wait > _ROUNDING:
            return self._step_aside(ask, Admission(Obstacle.RATE_LIMIT, wait, has_turn=True, is_late=True))
        return self._learned(ask, has_turn=bool(accounts) or ask.has_turn, is_late=is_late)

    def _learned(self, ask: _Ask, *, has_turn: bool, is_late: bool) -> Admission | None:
        """What was learned is a guess: it gives no turns in advance, and who does not pass looks again soon."""
        pace = self._pace(ask.target)
        if not pace.slow or pace.learned_passed <= ask.now:
            return None
        wait = max(pace.learned_passed, pace.learned_late) - ask.now
        if wait < LEARNED_WAIT_SECONDS:
            pace.learned_late = ask.now + wait + pace.slow
        else:
            wait = LEARNED_WAIT_SECONDS * (1 + self.chance()) / 2
        return self._step_aside(ask, Admission(Obstacle.VENDOR_HOLD, wait, has_turn=has_turn, is_late=is_late))

    def _step_aside(self, ask: _Ask, told: Admission) -> Admission:
        """Who has to wait for something else than its place keeps nobody else from it."""
        line = self._line(ask.provider)
        if ask.call_id not in line.waiting and ask.call_id not in line.leases:
            return told
        line.tickets[ask.call_id] = (line.ticket(ask.call_id), ask.now + TICKET_KEPT_SECONDS + told.wait_seconds)
        line.leave(ask.call_id)
        line.leases.pop(ask.call_id, None)
        return replace(told, called=tuple(self._call_next(ask.provider, ask.now)))

    def _slot(self, ask: _Ask) -> Admission:
        """A slot goes to whoever asked first, of those who are there or can be called."""
        limit, line = self._limit(ask.provider), self._line(ask.provider)
        half_open = self._breaker(ask.provider).is_half_open(ask.now)
        if limit:
            line.forget_absent(ask.now)
            if ask.call_id not in line.leases:
                free = limit - len(line.leases)
                before = 0 if half_open else line.before(ask.call_id)
                if before >= free:
                    return self._no_slot(ask, before - max(0, free))
            line.leases[ask.call_id] = ask.now + self.lease_seconds
        return self._admit(ask)

    def _no_slot(self, ask: _Ask, behind: int) -> Admission:
        wait = min(1.0, 0.05 + 0.1 * behind / self._limit(ask.provider))
        if ask.can_sleep:
            wait = self._sleep(ask)
        else:
            self._line(ask.provider).stand(ask.call_id, ask.now, ask.now + wait + LATENESS_SECONDS, is_asleep=False)
        return Admission(
            Obstacle.CONCURRENCY,
            wait,
            has_turn=True,
            is_late=ask.is_late,
            sleeps=ask.can_sleep,
            called=tuple(self._call_next(ask.provider, ask.now)),
        )

    def _admit(self, ask: _Ask) -> Admission:
        """The probe is taken last, so that only a call that is made takes it."""
        breaker, line, pace = self._breaker(ask.provider), self._line(ask.provider), self._pace(ask.target)
        line.leave(ask.call_id)
        line.tickets.pop(ask.call_id, None)
        for account in self._accounts(ask.target, ask.now):
            account.take("passed", ask.cost(account))
        pace.learned_passed = ask.now + pace.slow
        self._held[ask.call_id] = (ask.provider, breaker.epoch, ask.now)
        if breaker.until is None:
            called = self._call_next(ask.provider, ask.now) if self._limit(ask.provider) else []
            return Admission(has_turn=True, called=tuple(called))
        breaker.probe, breaker.probe_until = ask.call_id, ask.now + self.lease_seconds
        return Admission(has_turn=True, is_probe=True)

    def settle(self, target: ComparisonTarget, call_id: str, report: CallReport) -> Settled:
        _, epoch, admitted_at = self._held.pop(call_id, (target.provider, None, float("-inf")))
        with self._asked() as now:
            self._line(target.provider).leases.pop(call_id, None)
            self._line(target.provider).leave(call_id)
            breaker, pace = self._breaker(target.provider), self._pace(target)
            if breaker.probe == call_id:
                self._count_probe(target.provider, report.health, now)
            elif breaker.until is None and not report.is_probe and epoch in {None, breaker.epoch}:
                self._count(target.provider, report.health, now)
            is_granted = report.health is CallHealth.GOOD
            if pace.slow and is_granted:
                pace.granted = now
            if admitted_at > pace.slow_since:
                self._learn(pace, now, turned_away=report.turned_away, granted=is_granted)
            self._correct(target, now, report.tokens_beyond_estimate, report.hold_seconds)
            called = self._call_next(target.provider, now)
            return Settled(tuple(called), is_granting=pace.granted > now - GRANTING_SECONDS)

    def _learn(self, pace: _Pace, now: float, *, turned_away: bool, granted: bool) -> None:
        if turned_away:
            pace.slow, pace.slow_since = min(SLOWEST_SECONDS, max(FIRST_SLOW_SECONDS, 2 * pace.slow)), now
            pace.learned_passed = now + pace.slow
        elif granted:
            pace.slow *= FASTER
            pace.slow = pace.slow if pace.slow >= FASTEST_SECONDS else 0.0

    def _correct(self, target: ComparisonTarget, now: float, tokens: int, hold_seconds: float) -> None:
        pace, accounts = self._pace(target), self._accounts(target, now)
        for account in accounts:
            if account.name == "tokens":
                account.take("turns", tokens)
                account.take("passed", tokens)
        if hold_seconds and now + hold_seconds > pace.hold:
            pace.hold = now + hold_seconds
            for account in accounts:
                account.hold(pace.hold)

    def _count_probe(self, provider: LLMProviderType, health: CallHealth, now: float) -> None:
        breaker = self._breaker(provider)
        breaker.probe = ""
        if health is CallHealth.BAD:
            breaker.failures += 1
            self._open(provider, now)
        elif health is CallHealth.GOOD:
            breaker.goods += 1
            if breaker.goods >= self.breaker_policy.successes:
                breaker.until, breaker.goods, breaker.failures = None, 0, 0

    def _count(self, provider: LLMProviderType, health: CallHealth, now: float) -> None:
        breaker = self._breaker(provider)
        if health is CallHealth.GOOD:
            breaker.failures = 0
        elif health is CallHealth.BAD:
            breaker.failures += 1
            if breaker.failures >= self.breaker_policy.failures:
                self._open(provider, now)

    def _open(self, provider: LLMProviderType, now: float) -> None:
        breaker = self._breaker(provider)
        breaker.until, breaker.goods = now + self.breaker_policy.open_seconds, 0
        breaker.epoch += 1
        self._line(provider).flow = _UNUSED_FLOW

    def _call_next(self, provider: LLMProviderType, now: float) -> list[str]:
        """Who is asleep and may come now."""
        breaker, line, limit = self._breaker(provider), self._line(provider), self._limit(provider)
        line.forget_absent(now)
        if not any(w.is_asleep for w in line.waiting.values()):
            return []
        offer = OFFER_SECONDS
        if breaker.until is not None:
            if breaker.until > now or breaker.is_probed(now):
                return []
            called = [] if line.offers else line.sleepers(20, 1)
        elif limit:
            free = limit - len(line.leases)
            called = line.sleepers(free, free)
        else:
            called, offer = line.flowing(now), FLOW_OFFER_SECONDS
        line.offers.update(dict.fromkeys(called, now + offer))
        return called

    def call_next(self, provider: LLMProviderType) -> Sequence[str]:
        with self._asked() as now:
            return self._call_next(provider, now)

    def leave(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        self.forget(call_id)
        with self._asked() as now:
            line, breaker = self._line(target.provider), self._breaker(target.provider)
            line.leases.pop(call_id, None)
            line.leave(call_id)
            line.tickets.pop(call_id, None)
            if breaker.probe == call_id:
                breaker.probe = ""
            return self._call_next(target.provider, now)

    def forget(self, call_id: str) -> None:
        self._held.pop(call_id, None)

    def renew(self) -> Sequence[str]:
        with self._asked() as now:
            end = now + self.lease_seconds
            for call_id, (provider, *_) in self._held.items():
                breaker = self._breaker(provider)
                if breaker.probe == call_id:
                    breaker.probe_until = end
                if self._limit(provider):
                    self._line(provider).leases[call_id] = end
        return ()

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        with self._asked() as now:
            breaker = self._breaker(provider)
            if breaker.until is None:
                return BreakerView(BreakerState.CLOSED, breaker.failures)
            if breaker.is_half_open(now):
                return BreakerView(BreakerState.HALF_OPEN, breaker.failures)
            return BreakerView(BreakerState.OPEN, breaker.failures, breaker.until - now)

    def load(self, provider: LLMProviderType) -> ProviderLoad:
        with self._asked() as now:
            line, paces = self._line(provider), self.state.paces.items()
            running = sum(end > now for end in line.leases.values())
            waiting = sum(w.is_asleep and w.until > now for w in line.waiting.values())
            held = {t.model: p.hold - now for t, p in paces if t.provider is provider and p.hold > now}
            slowed = {t.model: p.slow for t, p in paces if t.provider is provider and p.slow}
            return ProviderLoad(running, waiting, held, slowed)

    def release(self, provider: LLMProviderType) -> None:
        with self._asked() as now:
            self.state.breakers.pop(provider, None)
            self._line(provider).flow = _UNUSED_FLOW
            for target, pace in [*self.state.paces.items()]:
                if target.provider is provider and (pace.hold > now or pace.slow):
                    del self.state.paces[target]

    @contextmanager
    def _asked(self) -> Iterator[float]:
        if self.away:
            raise AdmissionUnavailable("The memory is away.")
        with self.state.lock:
            yield self.clock()

    def _breaker(self, provider: LLMProviderType) -> _Breaker:
        return self.state.breakers.setdefault(provider, _Breaker())

    def _line(self, provider: LLMProviderType) -> _Line:
        return self.state.lines.setdefault(provider, _Line())

    def _limit(self, provider: LLMProviderType) -> int:
        return self.limits(provider).max_concurrent_calls or 0

    def _pace(self, target: ComparisonTarget) -> _Pace:
        return self.state.paces.setdefault(target, _Pace())

    def _accounts(self, target: ComparisonTarget, now: float) -> list[_Account]:
        limit, pace = self.limits(target.provider).rate_limit(target.model), self._pace(target)
        rates = {"requests": limit.requests_per_minute, "tokens": limit.tokens_per_minute}
        return [_Account(name, rate, pace, now) for name, rate in rates.items() if rate]
