"""Admission control: whether a call to a vendor may be made now, agreed on by all processes.

A circuit breaker for each provider, limits on requests and tokens per minute for each model, and a limit on the calls
that run at the same time. Every operation is atomic, uses one clock for all processes, and raises
AdmissionUnavailable when the others cannot be asked: then calls go on without.
"""

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
# Who was called is called again, if it has not come, after so long; longer where it is one of many that come in a flow.
OFFER_SECONDS = 5.0
FLOW_OFFER_SECONDS = 30.0
FLOW_KEPT_SECONDS = 600.0
# Who is asleep looks again after so long, and a little longer for each who stands before it: a call may get lost.
LOOK_AGAIN_SECONDS = 60.0
LOOK_AGAIN_EACH_SECONDS = 0.05
# How many are called in the first second after a provider without a limit answers again, and in any later one at most.
FIRST_CALLED = 5
MOST_CALLED = 500
# What a vendor's first refusal (429) sets as the time between two calls to the model, what further ones may make of it,
# how much less each call that it grants makes it, and from where on it is none.
FIRST_SLOW_SECONDS = 0.5
SLOWEST_SECONDS = 10.0
FASTER = 0.9
FASTEST_SECONDS = 0.01
SLOW_KEPT_SECONDS = 600.0
# Who is kept back by what was learned looks again after so long at the latest, since it may not be true any more.
LEARNED_WAIT_SECONDS = 20.0
# A vendor that has granted a call so lately turns others away because they are too many.
GRANTING_SECONDS = 60.0


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
    `is_late` are what it was told before. Who `can_sleep` is called when its circuit closes or its place is free; the
    others come back by themselves.
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
    those; say so when asking again. `sleeps`: it will be called as soon as it may come, and looks again by itself only
    should that get lost. `is_probe`: the breaker is half-open, and this is the one call that finds out. `called`:
    others who may come now, whom whoever asked has to wake.
    """

    obstacle: Obstacle | None = None
    wait_seconds: float = 0.0
    has_turn: bool = False
    is_late: bool = False
    sleeps: bool = False
    is_probe: bool = False
    called: tuple[str, ...] = ()


class CallHealth(StrEnum):
    """What a call told about the provider."""

    GOOD = "good"
    BAD = "bad"  # It counts towards opening the breaker.
    UNKNOWN = "unknown"  # Neither: no call was made after all, or it was turned away by a limit.


@dataclass(frozen=True)
class CallReport:
    """What a call that is over told about its provider.

    `tokens_beyond_estimate` may be negative. `hold_seconds`: the vendor asked that its model be left alone for so long;
    two such wishes do not add up, the later end counts. `turned_away`: by a limit of the vendor's (429); its model is
    asked more slowly from then on, and faster again with each call that it grants.
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

    called: tuple[str, ...] = ()
    is_granting: bool = False


@dataclass(frozen=True)
class ProviderLoad:
    """How much goes on at a provider: calls that run, requests that wait to be called, the models that the vendor wants
    left alone, with the seconds until that ends, and those asked more slowly, with the seconds between two calls."""

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

        Who may come now is called.
        """
        ...

    def forget(self, call_id: str) -> None:
        """A call is over, or left, and nobody could be told: what it held is not renewed any more, and so lapses."""
        ...

    def call_next(self, provider: LLMProviderType) -> Sequence[str]:
        """Who is asleep and may come now, and has not been called a moment ago. Asked every second by every worker."""
        ...

    def renew(self) -> Sequence[str]:
        """Keep what the admitted calls of this process hold; called every quarter of a lease.

        A place that has lapsed in the meantime, since Redis or this process stood still, is taken again. Who may come
        now after all is called.
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
