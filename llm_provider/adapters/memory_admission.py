"""Admission control in memory: what the Redis one does, for one process. For tests of whatever asks for admission."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from contracts.enums import LLMProviderType
from llm_provider.admission import (
    AWAKE_SECONDS,
    BACK_OFF,
    CAUGHT_UP_SECONDS,
    FASTEST_RATE,
    FIRST_INVITED,
    GRANTING_SECONDS,
    INVITATION_SECONDS,
    INVITED_AHEAD_SECONDS,
    LATENESS_SECONDS,
    LEARNED_WAIT_SECONDS,
    LEAST_INTERVAL_SECONDS,
    LOOK_AGAIN_EACH_SECONDS,
    LOOK_AGAIN_SECONDS,
    MOST_INVITED,
    TICKET_KEPT_SECONDS,
    UNHEARD_KEPT_SECONDS,
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
    learned_rate,
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
class _Learned:
    """The rate that a model's refusals taught; see learned_rate."""

    since: float
    refused_rate: float = 0.0
    calling_seconds: float = 0.0
    last_call: float = 0.0
    # When the next call may be made, and when all who wait awake, and all who were invited, will have been admitted.
    next_call: float = 0.0
    awake_until: float = 0.0
    invited_until: float = 0.0

    @property
    def rate(self) -> float:
        return learned_rate(self.refused_rate, self.calling_seconds)

    @property
    def interval(self) -> float:
        return 1 / self.rate

    def count(self, now: float) -> None:
        self.calling_seconds += min(now - self.last_call, 2 * self.interval)
        self.last_call = now
        self.next_call = max(self.next_call, now - CAUGHT_UP_SECONDS) + self.interval


@dataclass
class _Pace:
    """What a model's calls have taken: when it will have flowed back, by account; until when it is left alone."""

    taken: dict[str, float] = field(default_factory=dict)
    hold: float = 0.0
    learned: _Learned | None = None
    # When the vendor last granted a call all the same.
    granted: float = float("-inf")
    # Who sleeps for what was learned, by until when.
    asleep: dict[str, float] = field(default_factory=dict)

    def refuse(self, now: float) -> None:
        learned = self.learned or _Learned(now)
        if self.learned is not None:
            rate = learned.rate
            # Refused before it was back where the last one was: the vendor grants less than then.
            learned.refused_rate = rate * (1 - BACK_OFF / 2) if rate < learned.refused_rate else rate
        learned.since = learned.last_call = now
        learned.calling_seconds = 0.0
        learned.next_call = now + learned.interval
        self.learned = learned

    def count(self, now: float) -> None:
        if self.learned is not None:
            self.learned.count(now)
            if self.learned.rate > FASTEST_RATE:
                self.learned = None


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
    """In the line by when it first asked; asleep until it is invited, or awake and expected back."""

    asked: int
    until: float
    is_asleep: bool


@dataclass
class _Line:
    """A provider's calls that run, and who waits."""

    leases: dict[str, float] = field(default_factory=dict)
    # For whom a place is kept, until when; and until when nobody waits for such guests, since some did not come.
    invited: dict[str, float] = field(default_factory=dict)
    unheard_until: float = 0.0
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    tickets: dict[str, tuple[int, float]] = field(default_factory=dict)
    given: int = 0
    # Of the second in which some were invited last: which it was, how many might be, and how many still may; None while
    # no circuit has opened.
    flow: tuple[int, int, int] | None = None

    def forget_absent(self, now: float) -> None:
        self.leases = {call: end for call, end in self.leases.items() if end > now}
        if any(end <= now for end in self.invited.values()):
            self.unheard_until = now + UNHEARD_KEPT_SECONDS
        self.invited = {call: end for call, end in self.invited.items() if end > now}
        self.waiting = {call: w for call, w in self.waiting.items() if w.until > now}
        self.tickets = {call: t for call, t in self.tickets.items() if t[1] > now}

    def leave(self, call_id: str) -> None:
        self.waiting.pop(call_id, None)
        self.invited.pop(call_id, None)

    def ticket(self, call_id: str) -> int:
        return self.tickets[call_id][0] if call_id in self.tickets else self.given + 1

    def keep_ticket(self, call_id: str, now: float, wait: float = 0.0) -> int:
        """However often it asks, it stands where it stood when it first did."""
        mine = self.ticket(call_id)
        self.given = max(self.given, mine)
        self.tickets[call_id] = (mine, now + TICKET_KEPT_SECONDS + wait)
        return mine

    def stand(self, call_id: str, now: float, until: float, *, is_asleep: bool) -> None:
        mine = self.keep_ticket(call_id, now, until - now)
        self.leave(call_id)
        self.waiting[call_id] = _Waiting(mine, until, is_asleep)

    def before(self, call_id: str, now: float) -> int:
        """How many places are for others who have asked earlier."""
        mine = self.ticket(call_id)
        if self.unheard_until > now:
            return sum(not w.is_asleep and w.asked < mine for w in self.waiting.values())
        if call_id in self.invited:
            return 0
        return sum(w.asked < mine for w in self.waiting.values()) + len(self.invited)

    def sleepers(self, most: int) -> list[str]:
        """Of the first in the line those who are asleep."""
        in_order = sorted(self.waiting.items(), key=lambda item: item[1].asked)[: max(0, most)]
        return [call for call, w in in_order if w.is_asleep]

    def flow_left(self, now: float, limit: int) -> float:
        """Slowly first, and twice as many each second, until as many may come at once as there are places."""
        second, (last, allowed, left) = int(now), self.flow or _UNUSED_FLOW
        if second > last + 10:
            allowed = left = FIRST_INVITED
        elif second > last:
            allowed = left = min(2 * allowed, MOST_INVITED)
        if limit and allowed >= limit:
            self.flow = None
            return float("inf")
        self.flow = (second, allowed, left)
        return left

    def flow_on(self, invited: int) -> None:
        if self.flow is not None:
            second, allowed, left = self.flow
            self.flow = (second, allowed, left - invited)


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
    """One caller's question, when it was asked, and who may come now."""

    now: float = 0.0
    invited: list[str] = field(default_factory=list)

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
            told = self._circuit(asked) or self._turn(asked) or self._slot(asked)
            return replace(told, invited=tuple(asked.invited))

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
        self._pace(ask.target).asleep.pop(ask.call_id, None)
        rank = sum(w.asked < line.ticket(ask.call_id) for w in line.waiting.values())
        return LOOK_AGAIN_SECONDS + LOOK_AGAIN_EACH_SECONDS * rank

    def _turn(self, ask: _Ask) -> Admission | None:
        """Requests and tokens are reserved together or not at all."""
        accounts, held = self._accounts(ask.target, ask.now), max(0.0, self._pace(ask.target).hold - ask.now)
        obstacle = Obstacle.VENDOR_HOLD if held else Obstacle.RATE_LIMIT
        if ask.has_turn or not accounts:
            if held and self._pace(ask.target).learned is None:
                # Not paced by anything, those who wait are spread over some time behind the hold.
                spread = self.chance() * min(60.0, max(1.0, held / 5))
                return self._step_aside(ask, self._told(ask, obstacle, held + spread))
            return self._passage(ask, accounts, obstacle, is_late=ask.is_late)
        wait = max(held, *(account.wait("turns", ask.cost(account)) for account in accounts))
        if wait > ask.patience_seconds:
            return self._step_aside(ask, Admission(obstacle, wait))
        for account in accounts:
            account.take("turns", ask.cost(account))
        if wait > 0:
            return self._step_aside(ask, Admission(obstacle, wait, has_turn=True))
        return self._passage(ask, accounts, obstacle, is_late=False)

    def _passage(self, ask: _Ask, accounts: list[_Account], obstacle: Obstacle, *, is_late: bool) -> Admission | None:
        """A turn is for a time: who comes late for it passes only as the limits allow, and who comes behind waits."""
        wait = max([0.0, *(account.wait("passed", ask.cost(account)) for account in accounts)])
        if not is_late:
            wait = max([wait, *(account.at("late") - ask.now for account in accounts)])
            for account in accounts if wait > _ROUNDING else []:
                account.take("late", ask.cost(account))
        if wait > _ROUNDING:
            return self._step_aside(ask, Admission(obstacle, wait, has_turn=True, is_late=True))
        return self._learned(ask, has_turn=bool(accounts) or ask.has_turn, is_late=is_late)

    def _learned(self, ask: _Ask, *, has_turn: bool, is_late: bool) -> Admission | None:
        """What was learned is a guess: it gives no turns in advance, but invites those who sleep."""
        pace, line = self._pace(ask.target), self._line(ask.provider)
        if pace.learned is None:
            return None
        # Its own place is not given to others: it is there.
        pace.asleep.pop(ask.call_id, None)
        ask.invited.extend(self._invite_paced(ask.target, ask.now))
        before = sum(line.ticket(call) < line.ticket(ask.call_id) for call in pace.asleep)
        free_at = max(pace.learned.next_call, pace.hold)
        if free_at <= ask.now and not before:
            return None
        wait = max(free_at, pace.learned.awake_until) - ask.now
        told = Admission(Obstacle.VENDOR_HOLD, wait, has_turn=has_turn, is_late=is_late)
        if free_at - ask.now >= ask.patience_seconds:
            return self._step_aside(ask, replace(told, wait_seconds=free_at - ask.now))
        if not before and wait < AWAKE_SECONDS:
            pace.learned.awake_until = ask.now + wait + pace.learned.interval
            line.keep_ticket(ask.call_id, ask.now, wait)
            return self._step_aside(ask, told)
        if not ask.can_sleep:
            later = LEARNED_WAIT_SECONDS * (1 + self.chance()) / 2
            return self._step_aside(ask, replace(told, wait_seconds=max(wait, later)))
        line.keep_ticket(ask.call_id, ask.now, ask.patience_seconds)
        pace.asleep[ask.call_id] = ask.now + ask.patience_seconds
        wait = max(0.0, free_at - ask.now) + LOOK_AGAIN_SECONDS + LOOK_AGAIN_EACH_SECONDS * before
        return self._step_aside(ask, replace(told, wait_seconds=wait, sleeps=True))

    def _step_aside(self, ask: _Ask, told: Admission) -> Admission:
        """Who has to wait for something else than its place keeps nobody else from it."""
        line = self._line(ask.provider)
        if not any(ask.call_id in places for places in (line.waiting, line.leases, line.invited)):
            return told
        line.keep_ticket(ask.call_id, ask.now, told.wait_seconds)
        line.leave(ask.call_id)
        line.leases.pop(ask.call_id, None)
        ask.invited.extend(self._invite_next(ask.provider, ask.now))
        return told

    def _slot(self, ask: _Ask) -> Admission:
        """A slot goes to whoever asked first, of those who are there or can be invited."""
        limit, line = self._limit(ask.provider), self._line(ask.provider)
        half_open = self._breaker(ask.provider).is_half_open(ask.now)
        if limit:
            line.forget_absent(ask.now)
            if ask.call_id not in line.leases:
                free = limit - len(line.leases)
                before = 0 if half_open else line.before(ask.call_id, ask.now)
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
        ask.invited.extend(self._invite_next(ask.provider, ask.now))
        return Admission(Obstacle.CONCURRENCY, wait, has_turn=True, is_late=ask.is_late, sleeps=ask.can_sleep)

    def _admit(self, ask: _Ask) -> Admission:
        """The probe is taken last, so that only a call that is made takes it."""
        breaker, line, pace = self._breaker(ask.provider), self._line(ask.provider), self._pace(ask.target)
        line.keep_ticket(ask.call_id, ask.now)
        line.leave(ask.call_id)
        pace.asleep.pop(ask.call_id, None)
        for account in self._accounts(ask.target, ask.now):
            account.take("passed", ask.cost(account))
        pace.count(ask.now)
        self._held[ask.call_id] = (ask.provider, breaker.epoch, ask.now)
        if breaker.until is None:
            if self._limit(ask.provider):
                ask.invited.extend(self._invite_next(ask.provider, ask.now))
            return Admission(has_turn=True)
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
            invited = self._invite_next(target.provider, now)
            if pace.learned and report.health is CallHealth.GOOD:
                pace.granted = now
            if report.turned_away or report.health is CallHealth.BAD:
                # Should it come back, then to where it stood.
                self._line(target.provider).keep_ticket(call_id, now)
            else:
                self._line(target.provider).tickets.pop(call_id, None)
            # Calls that began before the last refusal tell nothing new.
            if report.turned_away and admitted_at > (pace.learned.since if pace.learned else float("-inf")):
                pace.refuse(now)
            self._correct(target, now, report.tokens_beyond_estimate, report.hold_seconds)
            invited += self._invite_paced(target, now)
            return Settled(tuple(invited), is_granting=pace.granted > now - GRANTING_SECONDS)

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

    def _invitations_of_circuit(self, provider: LLMProviderType, now: float) -> float:
        """Nobody while the circuit is open or probed, and others one to probe."""
        breaker = self._breaker(provider)
        if breaker.until is None:
            return float("inf")
        if breaker.until > now or breaker.is_probed(now):
            return 0
        return max(0, 1 - len(self._line(provider).invited))

    def _invite_next(self, provider: LLMProviderType, now: float) -> list[str]:
        """Who is asleep in the line and may come now; those awake who stand before them come by themselves."""
        line, limit = self._line(provider), self._limit(provider)
        line.forget_absent(now)
        if not line.waiting:
            return []
        of_circuit = self._invitations_of_circuit(provider, now)
        most = min(of_circuit, limit - len(line.leases) - len(line.invited) if limit else MOST_INVITED)
        if of_circuit > 1 and most > 0:
            if line.flow is not None:
                most = min(most, line.flow_left(now, limit))
            elif not limit:
                # Whom a process without a limit finds here waits for the places of another one's.
                most = 0
        invited = line.sleepers(int(most))
        for call in invited:
            line.leave(call)
        line.flow_on(len(invited))
        if limit or of_circuit == 1:
            line.invited.update(dict.fromkeys(invited, now + INVITATION_SECONDS))
        return invited

    def _invite_paced(self, target: ComparisonTarget, now: float) -> list[str]:
        """Who sleeps for what was learned about a model, and may come soon."""
        pace, line, invited = self._pace(target), self._line(target.provider), list[str]()
        pace.asleep = {call: until for call, until in pace.asleep.items() if until > now}
        most = self._invitations_of_circuit(target.provider, now)
        learned = pace.learned or _Learned(now)
        interval = max(LEAST_INTERVAL_SECONDS, learned.interval if pace.learned else 0.0)
        at = max(now, pace.hold, learned.next_call, learned.awake_until, learned.invited_until)
        for call in sorted(pace.asleep, key=line.ticket):
            if at >= now + INVITED_AHEAD_SECONDS or not most:
                break
            invited.append(call)
            del pace.asleep[call]
            if most == 1:
                line.invited[call] = now + INVITATION_SECONDS
            at, most = at + interval, most - 1
        learned.invited_until = at
        return invited

    def invite_next(self, provider: LLMProviderType) -> Sequence[str]:
        with self._asked() as now:
            invited = self._invite_next(provider, now)
            for target in [target for target in self.state.paces if target.provider is provider]:
                invited += self._invite_paced(target, now)
            return invited

    def leave(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        self.forget(call_id)
        with self._asked() as now:
            line, breaker = self._line(target.provider), self._breaker(target.provider)
            line.leases.pop(call_id, None)
            line.leave(call_id)
            line.tickets.pop(call_id, None)
            self._pace(target).asleep.pop(call_id, None)
            if breaker.probe == call_id:
                breaker.probe = ""
            return self._invite_next(target.provider, now)

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
            waiting += sum(end > now for t, p in paces if t.provider is provider for end in p.asleep.values())
            held = {t.model: p.hold - now for t, p in paces if t.provider is provider and p.hold > now}
            slowed = {t.model: p.learned.interval for t, p in paces if t.provider is provider and p.learned}
            return ProviderLoad(running, waiting, held, slowed)

    def release(self, provider: LLMProviderType) -> None:
        with self._asked() as now:
            self.state.breakers.pop(provider, None)
            self._line(provider).flow = _UNUSED_FLOW
            for target, pace in self.state.paces.items():
                if target.provider is provider and (pace.hold > now or pace.learned):
                    self.state.paces[target] = _Pace(asleep=pace.asleep)

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
