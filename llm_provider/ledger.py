"""The ledger: what is accepted, decided and delivered, and when somebody must look at it again.

    accepted --dispatch--> waiting --claim--> running --commit--> decided --deliver--> delivered
                                               |   ^
                                            suspend, claim again after the wait

Celery moves work but does not remember it; the ledger remembers. Every operation is atomic, safe to repeat, uses
the ledger's own clock, and raises LedgerUnavailable when the ledger cannot be asked; whether it then happened is
unknown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from contracts.enums import CallbackStatus, QueueStatus
from llm_provider.internal_models import CallProgress, ComparisonTexts
from llm_provider.queue_models import Outcome, OutcomeKind, QueuedRequest

NO_PROGRESS = CallProgress()


class ClaimState(StrEnum):
    """What a task learns when it asks how far its request had come."""

    CLAIMED = "claimed"  # It is yours: call the provider.
    EXPIRED = "expired"  # Its deadline has passed: decide that.
    POISONED = "poisoned"  # Its workers died again and again: decide that.
    DAMAGED = "damaged"  # Its record cannot be read as a whole: decide that.
    DECIDED = "decided"  # It has an outcome that is due for delivery: deliver it.
    LEFT = "left"  # Somebody else works on it, or nothing is left to do: leave quietly.


@dataclass(frozen=True)
class Claim:
    """The answer to a claim: `request` unless LEFT, `progress` unless LEFT or DECIDED; `texts` and `seconds_left` when
    CLAIMED; `outcome` when DECIDED."""

    state: ClaimState
    request: QueuedRequest | None = None
    texts: ComparisonTexts | None = None
    seconds_left: float = 0.0
    progress: CallProgress = field(default_factory=CallProgress)
    outcome: Outcome | None = None


def minutes_until(position: int, decided_per_minute: float) -> int:
    """Whole minutes until a position's turn, at least 1; 1 when there is no recent pace to judge by."""
    return max(1, math.ceil(position / decided_per_minute)) if decided_per_minute > 0 else 1


@dataclass(frozen=True)
class Acceptance:
    """Where an accepted request stands: its position among those waiting (from 1), and the recent pace."""

    position: int
    decided_per_minute: float

    @property
    def estimated_wait_minutes(self) -> int:
        """Whole minutes until its turn at the recent pace, at least 1; 1 when nothing was decided lately."""
        return minutes_until(self.position, self.decided_per_minute)


@dataclass(frozen=True)
class Decision:
    """A request with the outcome that stands; `mine` when the caller is the one who must deliver it now."""

    request: QueuedRequest
    outcome: Outcome
    mine: bool = True

    def __repr__(self) -> str:
        # Celery prints what a task returns; an id is all that may be read there.
        return f"Decision({self.request.queue_id})"


class Action(StrEnum):
    """What the sweeper must do about a request that is due."""

    DISPATCH = "dispatch"
    DELIVER = "deliver"
    EXPIRE = "expire"
    GIVE_UP = "give_up"


@dataclass(frozen=True)
class Due:
    """One request that a crash, a lost message or time left behind."""

    queue_id: str
    action: Action


@dataclass(frozen=True)
class RequestView:
    """What may be told about a request; `outcome` while the ledger still holds it."""

    request: QueuedRequest
    status: QueueStatus
    callback_status: CallbackStatus
    position: int | None
    decided_per_minute: float
    expires_at: datetime | None
    outcome: Outcome | None
    # Whether it waits for its turn with the provider, or for its next try, in nobody's hands.
    is_suspended: bool = False

    @property
    def estimated_wait_minutes(self) -> int | None:
        """Whole minutes until its turn, or None when it is not waiting."""
        return None if self.position is None else minutes_until(self.position, self.decided_per_minute)

    @property
    def is_finished(self) -> bool:
        return self.status not in {QueueStatus.QUEUED, QueueStatus.PROCESSING}


@dataclass(frozen=True)
class LedgerFigures:
    """The ledger in numbers: what is in it now, and what ever passed through it, by name."""

    open: int
    waiting: int
    dead: int
    totals: Mapping[str, int]
    quarantined: int = 0


@dataclass(frozen=True)
class LedgerTiming:
    """The ledger's times and limits, in seconds and counts; config.py says what each is for."""

    lease: float
    redispatch_after: float
    delivery_window: float
    delivery_retry: tuple[float, ...]
    result_expires: float
    record_retention: float
    high_watermark: int
    low_watermark: int
    sweep_batch: int = 200
    # What no worker has time for when its wait has ended is dispatched ever more rarely, but at least this often.
    longest_redispatch: float = 300.0
    # How long an event is refused for good before it becomes a dead letter.
    dead_letter_after: float = 600.0
    # A request whose lease lapsed that often runs alone among its like; one more time, and it ends with an error.
    suspect_after: int = 2
    poisoned_after: int = 3
    # Redis's memory may be used up to this share of its limit before nothing more is accepted.
    memory_share: float = 0.8
    # What counts as its limit, when that is less than its own, or it has none; 0: unset.
    memory_bytes: int = 0
    # A message may still be on its way to its worker: this long nobody calls it lost.
    settle: float = 2.0
    # A call may end a little after its request's deadline; its lease lasts that much longer.
    deadline_margin: float = 30.0
    # Processes accept and claim side by side, so that a few turns of disorder mean nothing.
    overtaken_by: int = 50

    def restorable_until(self, request: QueuedRequest) -> float:
        """Until when, in seconds of the wall clock, an outcome may come for a request that the ledger has forgotten."""
        return request.queued_at.timestamp() + request.deadline_seconds + self.deadline_margin

    def retention(self, decision: "Decision") -> float:
        """Seconds a delivered record is kept: it outlives a result that is kept for polling."""
        polled = decision.request.callback_topic is None
        return self.record_retention + (self.result_expires if polled else 0.0)


@dataclass(frozen=True)
class Woken:
    """Of those who were to be woken: whose message is to be sent, and who is over, or unknown."""

    suspended: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


class RecordState(StrEnum):
    """How far a stored request has come."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DECIDED = "decided"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True)
class StoredRequest:
    """A request's record as a ledger reads it, whatever it is kept in; `position` is None once it is claimed."""

    request: QueuedRequest
    state: RecordState
    kind: OutcomeKind | None
    outcome: Outcome | None
    deadline: datetime
    delivered: datetime | None
    position: int | None

    @property
    def is_polled(self) -> bool:
        return self.request.callback_topic is None

    def view(self, decided_per_minute: float, timing: LedgerTiming) -> RequestView:
        """What of it may be told."""
        return RequestView(
            request=self.request,
            status=self._status,
            callback_status=self._callback_status,
            position=self.position,
            decided_per_minute=decided_per_minute,
            expires_at=self._expires_at(timing),
            outcome=self.outcome,
            is_suspended=self.state is RecordState.SUSPENDED,
        )

    @property
    def _status(self) -> QueueStatus:
        if self.kind is not None:
            return QueueStatus(self.kind)
        return QueueStatus.QUEUED if self.state is RecordState.WAITING else QueueStatus.PROCESSING

    @property
    def _callback_status(self) -> CallbackStatus:
        if self.is_polled:
            return CallbackStatus.NONE
        if self.state is RecordState.DEAD:
            return CallbackStatus.DEAD
        return CallbackStatus.PUBLISHED if self.delivered else CallbackStatus.PENDING

    def _expires_at(self, timing: LedgerTiming) -> datetime | None:
        """The deadline while there is no outcome, then the end of the result that is kept for polling."""
        if self.kind is None:
            return self.deadline
        if self.is_polled and self.delivered:
            return self.delivered + timedelta(seconds=timing.result_expires)
        return None


@dataclass(frozen=True)
class DeadLetter:
    """An event that nobody could publish, a request that killed its workers, or a record that cannot be read; kept
    until an operator decides. `request` and `outcome` are None where they cannot be read."""

    queue_id: str
    reason: str
    buried: datetime
    request: QueuedRequest | None = None
    outcome: Outcome | None = None
    refused_since: datetime | None = None
    attempts: int = 0
    lapses: int = 0


class DeadLettersProtocol(Protocol):
    """What an operator does with dead letters, on a running system. Raises LedgerUnavailable."""

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The oldest ones."""
        ...

    def dead_letter(self, queue_id: str) -> DeadLetter | None: ...

    def reopen(self, queue_id: str) -> bool:
        """Let a sweeper publish the stored event once more, the identical one; False when there is none.

        A record that was quarantined, and is repaired now, goes on where it was.
        """
        ...

    def drop(self, queue_id: str) -> bool:
        """Take it off the list; its record expires after its retention. False when it is no dead letter."""
        ...


class LedgerProtocol(Protocol):
    """Remembers every accepted request until its outcome is delivered, and for a while after."""

    def accept(
        self,
        request: QueuedRequest,
        texts: ComparisonTexts,
        *,
        progress: CallProgress = NO_PROGRESS,
        seconds_left: float | None = None,
    ) -> Acceptance:
        """Take responsibility for a request: from here on it ends with exactly one outcome, delivered.

        Its deadline is `seconds_left` away, None: the whole of its own; its first claim answers with `progress`.
        Accepting the same queue_id again changes nothing and answers the same, so one retry after a lost reply is
        safe. Raises QueueFull above the high watermark, until the open requests are below the low one.
        """
        ...

    def retract(self, queue_id: str) -> bool:
        """Forget a request whose acceptance was not answered, for as long as that one may be on its way.

        False when a worker has taken it already: it goes on.
        """
        ...

    def claim(self, queue_id: str, holder: str) -> Claim:
        """Ask how far a request had come, and take the lease when it waits or its last lease has lapsed.

        `holder` is one task's run; claiming again with the same holder answers CLAIMED again.
        """
        ...

    def renew(self, leases: Mapping[str, str]) -> None:
        """Prolong leases (holder -> queue_id), lapsed ones included unless another holder took them.

        No lease is prolonged beyond its request's deadline plus a margin.
        """
        ...

    def suspend(
        self, queue_id: str, holder: str, *, wait_seconds: float, progress: CallProgress, sleeps: bool = False
    ) -> bool:
        """Give the lease back and let a sweeper dispatch the request again after the wait; until then nobody claims
        it. False when the lease was not the holder's any more. Who `sleeps` and was woken meanwhile does not wait.

        Its next claim answers with `progress`.
        """
        ...

    def wake(self, queue_ids: Sequence[str]) -> Woken:
        """End the waits of these requests now.

        One that is about to go to sleep will not. A message that gets lost is sent again by a sweeper, as after
        any wait.
        """
        ...

    def commit(self, queue_id: str, outcome: Outcome, request: QueuedRequest | None = None) -> Decision | None:
        """Store the outcome and drop the texts: the first outcome wins, a later one is answered with the first.

        After it returns the outcome is stored; until the delivery window ends nobody else delivers it. None when
        the record is gone. With the `request` at hand one that the ledger has forgotten, and has not delivered, is
        stored anew with its outcome.
        """
        ...

    def decided(self, queue_id: str) -> Decision | None:
        """The stored outcome of a request that is not yet delivered, else None."""
        ...

    def pending(self, queue_id: str) -> CallProgress | None:
        """How far a request has come that has no outcome yet, else None."""
        ...

    def mark_delivered(self, decision: Decision) -> None:
        """Note that the outcome reached its caller; the record expires after its retention."""
        ...

    def put_off(self, queue_ids: Sequence[str], wait_seconds: float) -> None:
        """Look at these undelivered outcomes again after the wait."""
        ...

    def postpone(
        self, queue_id: str, *, attempted: bool, refusal: str | None = None, wait_seconds: float | None = None
    ) -> bool:
        """Leave an undelivered outcome to the sweeper: after the wait, or a back-off that grows with the attempts.

        `refusal` says why Kafka refuses the event for good; once it has done so for long enough without a break the
        event becomes a dead letter, and this returns True.
        """
        ...

    def note_poisoned(self, queue_id: str, reason: str) -> None:
        """Put a request that killed its workers among the dead letters; its error is delivered all the same."""
        ...

    def sweep(self, *, queue_is_empty: bool) -> list[Due]:
        """Take what is due and move it forward, so that two sweepers never take the same."""
        ...

    def view(self, queue_id: str) -> RequestView | None:
        """What may be told about a request, or None when it is unknown or forgotten."""
        ...

    def figures(self) -> LedgerFigures:
        """The ledger in numbers."""
        ...

    def ping(self) -> None:
        """Return when the ledger answers; raise LedgerUnavailable otherwise."""
        ...

    def check_accepts(self) -> None:
        """Return when a request would be accepted, full or not; raise LedgerUnavailable otherwise."""
        ...
