"""The ledger in memory: what the Redis one does, without surviving its process. For tests of whatever uses a ledger."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llm_provider.errors import LedgerUnavailable, QueueFull
from llm_provider.internal_models import CallProgress, ComparisonTexts
from llm_provider.ledger import (
    NO_PROGRESS,
    Acceptance,
    Action,
    Claim,
    ClaimState,
    DeadLetter,
    Decision,
    Due,
    LedgerFigures,
    LedgerTiming,
    RecordState,
    RequestView,
    StoredRequest,
    Woken,
)
from llm_provider.queue_models import Outcome, OutcomeKind, QueuedRequest


@dataclass
class _Record:
    request: QueuedRequest
    texts: ComparisonTexts | None
    turn: int
    accepted: float
    deadline: float
    look_at: float
    state: RecordState = RecordState.WAITING
    holder: str = ""
    lease: float = 0.0
    due: float = 0.0
    progress: CallProgress = field(default_factory=CallProgress)
    # Called before it waits.
    woken: bool = False
    wait: float = 0.0
    redispatched: float = float("-inf")
    attempts: int = 0
    lapses: int = 0
    refused: float | None = None
    buried: float | None = None
    reason: str = ""
    reopened: bool = False
    outcome: Outcome | None = None
    kind: OutcomeKind | None = None
    delivered: float | None = None
    forgotten: float = float("inf")


@dataclass
class MemoryLedger:
    """LedgerProtocol in one process; `clock` gives seconds, `away` plays an outage."""

    timing: LedgerTiming
    clock: Callable[[], float] = time.time
    away: bool = False
    _records: dict[str, _Record] = field(default_factory=dict)
    _taken_back: set[str] = field(default_factory=set)
    _totals: dict[str, int] = field(default_factory=dict)
    _decided_at: list[float] = field(default_factory=list)
    _turns: int = 0
    _suspect: str = ""
    _furthest: int = 0
    _full: bool = False
    _swept_at: float | None = None
    _pause_until: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def accept(
        self,
        request: QueuedRequest,
        texts: ComparisonTexts,
        *,
        progress: CallProgress = NO_PROGRESS,
        seconds_left: float | None = None,
    ) -> Acceptance:
        with self._asked() as now:
            if request.queue_id in self._taken_back:
                raise LedgerUnavailable("The request has been taken back.", retry_after_seconds=5)
            if self._record(request.queue_id) is None:
                self._refuse_when_full()
                self._turns += 1
                deadline = now + (request.deadline_seconds if seconds_left is None else seconds_left)
                record = _Record(request, texts, self._turns, now, deadline, deadline, progress=progress)
                self._records[request.queue_id] = record
                self._count("accepted")
            return Acceptance(self._position(request.queue_id) or 1, self._pace(now))

    def _refuse_when_full(self) -> None:
        opened = len(self._open())
        limit = self.timing.low_watermark if self._full else self.timing.high_watermark
        self._full = opened >= limit
        if self._full:
            raise QueueFull(f"{opened} requests are open, as many as are allowed.")

    def retract(self, queue_id: str) -> bool:
        with self._asked():
            record = self._record(queue_id)
            if record is not None and record.state is not RecordState.WAITING:
                return False
            self._taken_back.add(queue_id)
            if self._records.pop(queue_id, None):
                self._count("retracted")
            return True

    def claim(self, queue_id: str, holder: str) -> Claim:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None or record.state in {RecordState.DELIVERED, RecordState.DEAD}:
                return Claim(ClaimState.LEFT)
            if record.state is RecordState.DECIDED:
                return self._claim_delivery(record, now)
            others = record.state is RecordState.RUNNING and record.holder != holder
            if others and not self._may_be_taken_over(record, now):
                return Claim(ClaimState.LEFT)
            if record.state is RecordState.SUSPENDED and record.due > now:
                return Claim(ClaimState.LEFT)
            record.wait = 0.0
            if now >= record.deadline:
                record.look_at = now + self.timing.delivery_window
                return Claim(ClaimState.EXPIRED, record.request, progress=record.progress)
            return self._judge(record, holder, now) or self._take_lease(record, holder, now)

    def _judge(self, record: _Record, holder: str, now: float) -> Claim | None:
        """What the deaths of earlier holders mean; each lapsed lease is counted once."""
        if record.state is RecordState.RUNNING and record.holder not in {"", holder}:
            record.lapses, record.holder = record.lapses + 1, ""
            self._count("taken_over")
        if record.lapses >= self.timing.poisoned_after:
            record.look_at = now + self.timing.delivery_window
            return Claim(ClaimState.POISONED, record.request, progress=record.progress)
        if record.lapses < self.timing.suspect_after:
            return None
        other = self._records.get(self._suspect)
        if other and other is not record and other.state is RecordState.RUNNING and other.lease > now:
            record.look_at = now + 1
            return Claim(ClaimState.LEFT)
        self._suspect = record.request.queue_id
        return None

    def _claim_delivery(self, record: _Record, now: float) -> Claim:
        if record.look_at > now:
            return Claim(ClaimState.LEFT)
        record.look_at = now + self.timing.delivery_window
        return Claim(ClaimState.DECIDED, record.request, outcome=record.outcome)

    def _may_be_taken_over(self, record: _Record, now: float) -> bool:
        if record.lease <= now and not self._leases_are_judged(now):
            record.look_at = now + self.timing.lease / 2
            return False
        return record.lease <= now

    def _leases_are_judged(self, now: float) -> bool:
        if self._swept_at is not None and now - self._swept_at > self.timing.lease / 2:
            return False
        return now >= self._pause_until

    def _take_lease(self, record: _Record, holder: str, now: float) -> Claim:
        record.state, record.holder, record.woken = RecordState.RUNNING, holder, False
        self._prolong(record, now)
        self._furthest = max(self._furthest, record.turn)
        seconds_left = record.deadline - now
        return Claim(ClaimState.CLAIMED, record.request, record.texts, seconds_left, record.progress)

    def _prolong(self, record: _Record, now: float) -> None:
        record.lease = min(now + self.timing.lease, record.deadline + self.timing.deadline_margin)
        record.look_at = record.lease

    def renew(self, leases: Mapping[str, str]) -> None:
        with self._asked() as now:
            for holder, queue_id in leases.items():
                record = self._record(queue_id)
                if record and record.state is RecordState.RUNNING and record.holder == holder:
                    self._prolong(record, now)

    def suspend(
        self, queue_id: str, holder: str, *, wait_seconds: float, progress: CallProgress, sleeps: bool = False
    ) -> bool:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None or record.state is not RecordState.RUNNING or record.holder != holder:
                return False
            wait = 0.0 if record.woken and sleeps else wait_seconds
            record.due = record.look_at = min(now + wait, record.deadline)
            record.state, record.holder, record.progress = RecordState.SUSPENDED, "", progress
            record.woken = False
            return True

    def wake(self, queue_ids: Sequence[str]) -> Woken:
        with self._asked() as now:
            suspended, over = [], []
            for queue_id in queue_ids:
                record = self._record(queue_id)
                state = None if record is None else record.state
                if record is not None and state is RecordState.SUSPENDED:
                    record.due, record.look_at = now, now + self.timing.redispatch_after
                    suspended.append(queue_id)
                elif record is not None and state is RecordState.RUNNING:
                    record.woken = True
                elif state is not RecordState.WAITING:
                    over.append(queue_id)
            return Woken(tuple(suspended), tuple(over))

    def commit(self, queue_id: str, outcome: Outcome, request: QueuedRequest | None = None) -> Decision | None:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None:
                return None
            if record.outcome is not None:
                mine = record.outcome == outcome and record.state is RecordState.DECIDED
                record.look_at = now + self.timing.delivery_window if mine else record.look_at
                return Decision(record.request, record.outcome, mine=mine)
            if record.state is RecordState.DELIVERED:
                return None
            record.state, record.outcome, record.texts, record.holder = RecordState.DECIDED, outcome, None, ""
            record.kind, record.look_at = outcome.kind, now + self.timing.delivery_window
            self._decided_at.append(now)
            self._count(outcome.kind)
            return Decision(record.request, outcome)

    def decided(self, queue_id: str) -> Decision | None:
        with self._asked():
            record = self._record(queue_id)
            if record is None or record.state is not RecordState.DECIDED or record.outcome is None:
                return None
            return Decision(record.request, record.outcome)

    def pending(self, queue_id: str) -> CallProgress | None:
        with self._asked():
            record = self._record(queue_id)
            return record.progress if record and record.kind is None else None

    def mark_delivered(self, decision: Decision) -> None:
        with self._asked() as now:
            record = self._record(decision.request.queue_id)
            if record is None or record.state is not RecordState.DECIDED:
                return
            polled = record.request.callback_topic is None
            record.state, record.delivered = RecordState.DELIVERED, now
            if record.buried is None:
                record.forgotten = now + self.timing.retention(decision)
            if polled and decision.outcome.verdict is not None:
                record.outcome = None
            if not record.reopened:
                self._count("stored" if polled else "published")
            record.reopened = False

    def put_off(self, queue_ids: Sequence[str], wait_seconds: float) -> None:
        with self._asked() as now:
            for record in filter(None, map(self._record, queue_ids)):
                if record.state is RecordState.DECIDED:
                    record.look_at = now + wait_seconds

    def postpone(
        self, queue_id: str, *, attempted: bool, refusal: str | None = None, wait_seconds: float | None = None
    ) -> bool:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None or record.state is not RecordState.DECIDED:
                return False
            record.attempts += attempted
            if self._is_refused_for_long(record, refusal, now):
                record.state, record.buried, record.reason = RecordState.DEAD, now, refusal or ""
                return True
            step = min(record.attempts, len(self.timing.delivery_retry)) - 1 if attempted else 0
            record.look_at = now + (self.timing.delivery_retry[step] if wait_seconds is None else wait_seconds)
            return False

    def _is_refused_for_long(self, record: _Record, refusal: str | None, now: float) -> bool:
        if refusal is None:
            record.refused = None
            return False
        record.refused = now if record.refused is None else record.refused
        return now - record.refused >= self.timing.dead_letter_after

    def note_poisoned(self, queue_id: str, reason: str) -> None:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is not None:
                record.buried, record.reason = now, reason

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        with self._asked():
            buried = sorted((r.buried, queue_id) for queue_id, r in self._records.items() if r.buried is not None)
            return [letter for _, queue_id in buried[:limit] if (letter := self.dead_letter(queue_id))]

    def dead_letter(self, queue_id: str) -> DeadLetter | None:
        with self._asked():
            record = self._record(queue_id)
            if record is None or record.buried is None:
                return None
            return DeadLetter(
                queue_id=queue_id,
                request=record.request,
                outcome=record.outcome,
                reason=record.reason,
                buried=_datetime(record.buried),
                refused_since=None if record.refused is None else _datetime(record.refused),
                attempts=record.attempts,
                lapses=record.lapses,
            )

    def reopen(self, queue_id: str) -> bool:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None or record.outcome is None:
                return False
            if record.state not in {RecordState.DEAD, RecordState.DELIVERED}:
                return False
            record.reopened = record.state is RecordState.DELIVERED or record.buried is None
            record.state, record.look_at, record.attempts, record.refused = RecordState.DECIDED, now, 0, None
            record.buried, record.delivered, record.forgotten = None, None, float("inf")
            return True

    def drop(self, queue_id: str) -> bool:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None or record.buried is None:
                return False
            record.buried = None
            if record.state is not RecordState.DECIDED:
                record.forgotten = now + self.timing.record_retention
            if record.state is RecordState.DEAD:
                self._count("dropped")
            return True

    def sweep(self, *, queue_is_empty: bool) -> list[Due]:
        with self._asked() as now:
            if not self._leases_are_judged(now) and now >= self._pause_until:
                self._pause_until = now + self.timing.lease / 2
            self._swept_at = now
            due = [due for record in self._due(now) if (due := self._look(record, now))]
            return due + [self._redispatch(record, now, queue_is_empty) for record in self._lost(now, queue_is_empty)]

    def _due(self, now: float) -> list[_Record]:
        due = sorted((r for r in self._open() if r.look_at <= now), key=lambda r: r.look_at)
        return due[: self.timing.sweep_batch]

    def _look(self, record: _Record, now: float) -> Due | None:
        timing, queue_id = self.timing, record.request.queue_id
        if record.state is RecordState.DECIDED:
            record.look_at = now + timing.delivery_window
            return Due(queue_id, Action.DELIVER)
        if record.state is RecordState.RUNNING and now < self._pause_until:
            record.look_at = self._pause_until
            return None
        if now >= record.deadline:
            record.look_at = now + timing.delivery_window
            return Due(queue_id, Action.EXPIRE)
        self._wait_longer(record)
        record.look_at = min(now + record.wait, record.deadline)
        return Due(queue_id, Action.DISPATCH)

    def _wait_longer(self, record: _Record) -> None:
        record.wait = max(self.timing.redispatch_after, min(2 * record.wait, self.timing.longest_redispatch))

    def _lost(self, now: float, queue_is_empty: bool) -> list[_Record]:
        timing = self.timing
        return [
            record
            for record in self._waiting()[: timing.sweep_batch]
            if (queue_is_empty or record.turn + timing.overtaken_by < self._furthest)
            and now >= record.accepted + timing.settle
            and now >= record.redispatched + max(timing.redispatch_after, record.wait)
        ]

    def _redispatch(self, record: _Record, now: float, queue_is_empty: bool) -> Due:
        record.redispatched = now
        if not queue_is_empty:
            self._wait_longer(record)
        return Due(record.request.queue_id, Action.DISPATCH)

    def view(self, queue_id: str) -> RequestView | None:
        with self._asked() as now:
            record = self._record(queue_id)
            if record is None:
                return None
            return self._stored(record).view(self._pace(now), self.timing)

    def _stored(self, record: _Record) -> StoredRequest:
        return StoredRequest(
            request=record.request,
            state=record.state,
            kind=record.kind,
            outcome=record.outcome,
            deadline=_datetime(record.deadline),
            delivered=None if record.delivered is None else _datetime(record.delivered),
            position=self._position(record.request.queue_id),
        )

    def figures(self) -> LedgerFigures:
        with self._asked():
            dead = sum(record.buried is not None for record in self._records.values())
            return LedgerFigures(len(self._open()), len(self._waiting()), dead, dict(self._totals))

    def ping(self) -> None:
        """Raise LedgerUnavailable while away."""
        with self._asked():
            pass

    def check_accepts(self) -> None:
        self.ping()

    @contextmanager
    def _asked(self) -> Iterator[float]:
        if self.away:
            raise LedgerUnavailable("The ledger did not answer (away).", retry_after_seconds=5)
        with self._lock:
            yield self.clock()

    def _record(self, queue_id: str) -> _Record | None:
        record = self._records.get(queue_id)
        return record if record and record.forgotten > self.clock() else None

    def _open(self) -> list[_Record]:
        finished = {RecordState.DELIVERED, RecordState.DEAD}
        return [r for r in self._records.values() if r.state not in finished]

    def _waiting(self) -> list[_Record]:
        waiting = (r for r in self._records.values() if r.state is RecordState.WAITING)
        return sorted(waiting, key=lambda r: r.turn)

    def _position(self, queue_id: str) -> int | None:
        ids = [record.request.queue_id for record in self._waiting()]
        return ids.index(queue_id) + 1 if queue_id in ids else None

    def _pace(self, now: float) -> float:
        return float(sum(at > now - 60 for at in self._decided_at))

    def _count(self, name: str) -> None:
        self._totals[name] = self._totals.get(name, 0) + 1


def _datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
