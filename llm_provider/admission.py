"""Admission control: whether a call to a vendor may be made now, agreed on by all processes.

A circuit breaker for each provider, limits on requests and tokens per minute for each model, and a limit on the calls
that run at the same time. Every operation is atomic, uses one clock for all processes, and raises
AdmissionUnavailable when the others cannot be asked: then calls go on without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from contracts.enums import LLMProviderType
from llm_provider.internal_models import ComparisonTarget

# Who waits for a place among the concurrent calls and is later than told by so much keeps nobody else waiting.
LATENESS_SECONDS = 0.5
# Its place in the line is remembered for so long, all the same.
PLACE_KEPT_SECONDS = 30.0


class Obstacle(StrEnum):
    """What a call has to wait for."""

    CIRCUIT_OPEN = "circuit_open"  # The provider has failed again and again.
    VENDOR_HOLD = "vendor_hold"  # The vendor asked that the model be left alone.
    RATE_LIMIT = "rate_limit"  # Its turn comes later.
    CONCURRENCY = "concurrency"  # As many calls as may run at once do so.


@dataclass(frozen=True)
class Admission:
    """Whether a call may be made: at once when there is no obstacle, else ask again after the wait.

    `has_turn`: its turn under the rate limits is reserved; say so when asking again. `is_probe`: the breaker is
    half-open, and this is the one call that finds out.
    """

    obstacle: Obstacle | None = None
    wait_seconds: float = 0.0
    has_turn: bool = False
    is_probe: bool = False


class CallHealth(StrEnum):
    """What a call told about the provider."""

    GOOD = "good"
    BAD = "bad"  # It counts towards opening the breaker.
    UNKNOWN = "unknown"  # Neither: no call was made after all, or it was turned away by a limit.


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerView:
    """A breaker as an operator sees it; `retry_in_seconds` while it is open."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    retry_in_seconds: float | None = None

    @property
    def lets_all_through(self) -> bool:
        """Probing an open one is left to what is queued."""
        return self.state is BreakerState.CLOSED


@dataclass(frozen=True)
class BreakerPolicy:
    """After so many failures in a row a provider is left alone for so long; so many probes in a row close it."""

    failures: int
    open_seconds: float
    successes: int


class AdmissionProtocol(Protocol):
    """Shared by all threads of a process, and with all other processes."""

    def ask(
        self, target: ComparisonTarget, call_id: str, *, tokens: int, has_turn: bool, patience_seconds: float
    ) -> Admission:
        """May this call be made? The breaker is asked first, then the rate limits, then the concurrent calls.

        `call_id` is the request's queue id: asking again with it is the same caller, who keeps its place, and who is
        admitted again while it holds one. `tokens` is an estimate; a call larger than the limit is made all the same,
        and those after it wait longer. Turns are given in the order of asking; one that would come later than
        `patience_seconds` is not reserved. A turn is good until it is used, but waits like all others while the
        vendor wants its model left alone. When admitted, the call holds its place among the concurrent ones, and a
        probe the right to be the only one, until `settle`, or for a lease after its process died.
        """
        ...

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
        """An admitted call is over; one that went on without admission may be told of, too.

        What it told counts unless the breaker has opened since it was admitted; then only a probe's result does.
        `tokens_beyond_estimate` may be negative. `hold_seconds`: the vendor asked that its model be left alone for so
        long; two such wishes do not add up, the later end counts.
        """
        ...

    def leave(self, target: ComparisonTarget, call_id: str) -> None:
        """A caller that was told to wait gives up its place in the line, and whatever else it holds but its turn."""
        ...

    def renew(self) -> None:
        """Keep what the admitted calls of this process hold; called every quarter of a lease.

        A place that has lapsed in the meantime, since Redis or this process stood still, is taken again.
        """
        ...

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        """How this provider's breaker stands; asking changes nothing."""
        ...

    def held_models(self, provider: LLMProviderType) -> Mapping[str, float]:
        """The models that their vendor wants left alone, and for how many seconds from now."""
        ...

    def release(self, provider: LLMProviderType) -> None:
        """Forget an open circuit, and what the vendor asked for: an operator knows that the provider is well."""
        ...
