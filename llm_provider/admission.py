"""Admission control: whether a call to a vendor may be made now, agreed on by all processes.

A circuit breaker for each provider, limits on requests and tokens per minute for each model, and a limit on the calls
that run at the same time. Every operation is atomic, uses one clock for all processes, and raises
AdmissionUnavailable when the others cannot be asked: then calls go on without.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from contracts.enums import LLMProviderType
from llm_provider.internal_models import ComparisonTarget

# Who waits awake for a place among the concurrent calls and is later than told by so much keeps nobody else waiting.
LATENESS_SECONDS = 0.5
# Its place in the line is remembered for so long, all the same.
TICKET_KEPT_SECONDS = 600.0
# A place is kept for who was invited for so long. When it has not come, others who are there do not wait for such
# guests, for so long.
INVITATION_SECONDS = 5.0
UNHEARD_KEPT_SECONDS = 10.0
FLOW_KEPT_SECONDS = 600.0
# Who is asleep looks again after so long, and a little longer for each who stands before it: an invitation may be lost.
LOOK_AGAIN_SECONDS = 60.0
LOOK_AGAIN_EACH_SECONDS = 0.05
# How many are invited in the first second after a circuit has closed, and in any later one at most.
FIRST_INVITED = 5
MOST_INVITED = 500
# What a vendor's refusals (429) teach is a rate, in calls a second. The first refusal sets it, and it doubles each so
# many seconds in which calls are made, until one is refused again. From then on it follows CUBIC (RFC 9438): by a part
# less than what was refused, back there after the time of so many calls but not sooner than in so many seconds, and
# then beyond it, slowly first.
FIRST_RATE = 2.0
DOUBLED_AFTER_SECONDS = 4.0
BACK_OFF = 0.3
CALLS_TO_RECOVER = 30
LEAST_RECOVERY_SECONDS = 3.0
SLOWEST_RATE = 0.1
# From here on there is none.
FASTEST_RATE = 1000.0
SLOW_KEPT_SECONDS = 600.0
# Calls that came a little late for it are caught up with.
CAUGHT_UP_SECONDS = 0.2
# Who sleeps for it is invited so long before it may come, and waits the rest awake, for so long at most; no more of
# them in a moment than so far apart.
INVITED_AHEAD_SECONDS = 1.0
AWAKE_SECONDS = 1.4
LEAST_INTERVAL_SECONDS = 0.002
# Who is kept back by it and cannot sleep looks again after so long, or when a longer hold has ended.
LEARNED_WAIT_SECONDS = 20.0
# A vendor that has granted a call so lately turns others away because they are too many.
GRANTING_SECONDS = 60.0


def learned_rate(refused_rate: float, calling_seconds: float) -> float:
    """Calls a second, after so many seconds of calling since a call was refused at `refused_rate`; 0: none was yet."""
    if not refused_rate:
        return FIRST_RATE * math.exp2(min(calling_seconds / DOUBLED_AFTER_SECONDS, 20.0))
    recovery = max(CALLS_TO_RECOVER / refused_rate, LEAST_RECOVERY_SECONDS)
    beyond = calling_seconds / recovery - 1
    return max(SLOWEST_RATE, refused_rate * (1 + BACK_OFF * beyond * beyond * beyond))


class Obstacle(StrEnum):
    """What a call has to wait for."""

    CIRCUIT_OPEN = "circuit_open"  # The provider has failed again and again.
    VENDOR_HOLD = "vendor_hold"  # The vendor asked that the model be left alone.
    RATE_LIMIT = "rate_limit"  # Its turn comes later.
    CONCURRENCY = "concurrency"  # As many calls as may run at once do so.


@dataclass(frozen=True)
class CallAsk:
    """One caller's question, whether its call may be made.

    `call_id` is the request's queue id: asking again with it is the same caller, who keeps its place, and who is
    admitted again while it holds one. `tokens` is an estimate; a call larger than the limit is made all the same, and
    those after it wait longer. A turn that would come later than `patience_seconds` is not reserved. `has_turn` and
    `is_late` are what it was told before. Who `can_sleep` is invited when its circuit closes, its place is free or its
    vendor may be asked again; the others come back by themselves.
    """

    target: ComparisonTarget
    call_id: str
    tokens: int
    patience_seconds: float
    has_turn: bool = False
    is_late: bool = False
    can_sleep: bool = False


@dataclass(frozen=True)
class Admission:
    """Whether a call may be made: at once when there is no obstacle, else ask again after the wait.

    `has_turn`: its turn under the rate limits is reserved, `is_late`: and was missed, so that it stands in the line of
    those; say so when asking again. `sleeps`: it will be invited as soon as it may come, and looks again by itself only
    should that get lost. `is_probe`: the breaker is half-open, and this is the one call that finds out. `invited`:
    others who may come now, whom whoever asked has to wake.
    """

    obstacle: Obstacle | None = None
    wait_seconds: float = 0.0
    has_turn: bool = False
    is_late: bool = False
    sleeps: bool = False
    is_probe: bool = False
    invited: tuple[str, ...] = ()


class CallHealth(StrEnum):
    """What a call told about the provider."""

    GOOD = "good"
    BAD = "bad"  # It counts towards opening the breaker.
    UNKNOWN = "unknown"  # Neither: it was not made after all, or told of itself alone, or of a limit.


@dataclass(frozen=True)
class CallReport:
    """What a call that is over told about its provider.

    `tokens_beyond_estimate` may be negative. `hold_seconds`: the vendor asked that its model be left alone for so long;
    two such wishes do not add up, the later end counts. `turned_away`: by a limit of the vendor's (429); its model is
    asked more slowly from then on, and little by little faster again.
    """

    health: CallHealth = CallHealth.UNKNOWN
    is_probe: bool = False
    tokens_beyond_estimate: int = 0
    hold_seconds: float = 0.0
    turned_away: bool = False


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    UNKNOWN = "unknown"  # Nobody can be asked; calls go on.


@dataclass(frozen=True)
class BreakerView:
    """A breaker as an operator sees it; `retry_in_seconds` while it is open."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    retry_in_seconds: float | None = None

    @property
    def lets_all_through(self) -> bool:
        """Probing an open one is left to what is queued."""
        return self.state in {BreakerState.CLOSED, BreakerState.UNKNOWN}


@dataclass(frozen=True)
class Settled:
    """What came of telling that a call is over: who may come now, whom whoever told it has to wake, and whether the
    vendor, which turns calls away, has granted others to the model lately."""

    invited: tuple[str, ...] = ()
    is_granting: bool = False


@dataclass(frozen=True)
class ProviderLoad:
    """How much goes on at a provider.

    Calls that run, requests that wait to be invited, the models that the vendor wants left alone, with the seconds
    until that ends, and those asked more slowly, with the seconds between two calls.
    """

    running: int = 0
    waiting: int = 0
    held_models: Mapping[str, float] = field(default_factory=dict)
    slowed_models: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BreakerPolicy:
    """After so many failures in a row a provider is left alone for so long; so many probes in a row close it."""

    failures: int
    open_seconds: float
    successes: int


class AdmissionProtocol(Protocol):
    """Shared by all threads of a process, and with all other processes."""

    def ask(self, ask: CallAsk) -> Admission:
        """May this call be made? The breaker is asked first, then the rate limits, then the concurrent calls.

        Turns are given in the order of asking; however many come late for theirs, no more pass than the limits allow.
        When admitted, the call holds its place among the concurrent ones, and a probe the right to be the only one,
        until `settle`, or for a lease after its process died.
        """
        ...

    def settle(self, target: ComparisonTarget, call_id: str, report: CallReport) -> Settled:
        """An admitted call is over; one that went on without admission may be told of, too.

        What it told counts unless the breaker has opened since it was admitted; then only a probe's result does.
        """
        ...

    def leave(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        """A caller that was told to wait gives up its place in the line, and whatever else it holds but its turn.

        Who may come now is invited.
        """
        ...

    def forget(self, call_id: str) -> None:
        """A call is over, or left, and nobody could be told: what it held is not renewed any more, and so lapses."""
        ...

    def invite_next(self, provider: LLMProviderType) -> Sequence[str]:
        """Who is asleep and may come now, and has not been invited yet. Asked every second by every worker."""
        ...

    def renew(self) -> Sequence[str]:
        """Keep what the admitted calls of this process hold; called every quarter of a lease.

        A place that has lapsed in the meantime, since Redis or this process stood still, is taken again. Who may come
        now after all is invited.
        """
        ...

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        """How this provider's breaker stands; asking changes nothing."""
        ...

    def load(self, provider: LLMProviderType) -> ProviderLoad:
        """How much goes on at this provider; asking changes nothing. Calls are counted where they are limited."""
        ...

    def release(self, provider: LLMProviderType) -> None:
        """Forget an open circuit, and what the vendor asked for: an operator knows that the provider is well."""
        ...
