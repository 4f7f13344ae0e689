"""The ledger in Redis: one hash per request, two indexes, and a Lua script for each step (lua/*.lua)."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from llm_provider.adapters.redis_client import CLOCK_KEY, load_scripts
from llm_provider.adapters.redis_connection import NotServing
from llm_provider.adapters.redis_safety import SafeSteps, Safety, TooFewCopies
from llm_provider.adapters.stored_records import damage, read, read_or_none
from llm_provider.errors import LedgerUnavailable, QueueFull, RecordUnreadable, ServiceError
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

log = structlog.get_logger(__name__)

_SCRIPTS = Path(__file__).parent / "lua"

# What accept.lua answers beside 1, accepted.
_FULL, _MEMORY_FULL, _TAKEN_BACK = 0, 2, 3
MEMORY_NOTE_SECONDS = 5
# Longer than a command may lie in a socket's buffer.
TAKEN_BACK_SECONDS = 600
_ACKNOWLEDGED_BY_REDIS = Safety()


# A worker that cannot read a newer version's record leaves it alone for that long, then ever longer.
FIRST_LOOK_SECONDS = 1.0


class _Undecided(NamedTuple):
    request: QueuedRequest
    progress: CallProgress


class RedisLedger:
    """LedgerProtocol over one Redis; shared by all threads of a process.

    `safety` is asked for where a failover that forgot could have a request lost, paid twice, or told in two ways.
    """

    def __init__(
        self, client: Redis, *, prefix: str, timing: LedgerTiming, safety: Safety = _ACKNOWLEDGED_BY_REDIS
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._timing = timing
        # Reasons for which this process has left records to a newer one: told once.
        self._told: set[str] = set()
        self._epoch = ""
        self._scripts = load_scripts(client, _SCRIPTS, {"CLOCK": prefix + CLOCK_KEY})
        self._safe = SafeSteps(client, safety, self._key("fence"))

    def _run_safely(
        self, name: str, keys: list[str], *args: str | float, undo: Callable[[Any], None] | None = None
    ) -> Any:
        try:
            return self._safe.run(self._scripts[name], keys, list(args))
        except RedisError as error:
            if undo is not None and isinstance(error, TooFewCopies):
                undo(error.answer)
            raise _unavailable(error) from error

    def _run(self, name: str, keys: list[str], *args: str | float) -> Any:
        try:
            return self._scripts[name](keys=keys, args=list(args))
        except RedisError as error:
            raise _unavailable(error) from error

    def _record(self, queue_id: str) -> str:
        return f"{self._prefix}request:{queue_id}"

    def _key(self, name: str) -> str:
        return f"{self._prefix}ledger:{name}"

    def _over(self, queue_id: str) -> str:
        return f"{self._prefix}over:{queue_id}"

    def accept(
        self,
        request: QueuedRequest,
        texts: ComparisonTexts,
        *,
        progress: CallProgress = NO_PROGRESS,
        seconds_left: float | None = None,
    ) -> Acceptance:
        timing = self._timing
        names = ("open", "waiting", "turns", "full", "pace", "totals", "memory-full")
        accepted, figure, *pace = self._run_safely(
            "accept",
            [self._record(request.queue_id), *map(self._key, names), self._over(request.queue_id)],
            request.queue_id,
            request.model_dump_json(),
            texts.model_dump_json(),
            _ms(request.deadline_seconds if seconds_left is None else seconds_left),
            timing.high_watermark,
            timing.low_watermark,
            "" if progress == NO_PROGRESS else progress.model_dump_json(),
        )
        if accepted == _FULL:
            raise QueueFull(f"{figure} requests are open, as many as are allowed.")
        if accepted == _MEMORY_FULL:
            raise QueueFull("Redis is near its memory limit.")
        if accepted == _TAKEN_BACK:
            raise LedgerUnavailable("The request has been taken back.", retry_after_seconds=5)
        return Acceptance(position=int(figure), decided_per_minute=float(pace[0]))

    def retract(self, queue_id: str) -> bool:
        keys = [self._record(queue_id), *map(self._key, ("open", "waiting")), self._over(queue_id), self._key("totals")]
        return bool(self._run("retract", keys, queue_id, _ms(TAKEN_BACK_SECONDS)))

    def claim(self, queue_id: str, holder: str) -> Claim:
        try:
            return self._asked_for(queue_id, holder)
        except RecordUnreadable as error:
            self._set_aside(queue_id, error, holder)
            return Claim(ClaimState.LEFT) if error.is_newer else self._damaged(queue_id)

    def _damaged(self, queue_id: str) -> Claim:
        try:
            undecided = self._undecided(queue_id)
        except RecordUnreadable:
            undecided = None
        if undecided is None:
            return Claim(ClaimState.LEFT)
        return Claim(ClaimState.DAMAGED, undecided.request, progress=undecided.progress)

    def _asked_for(self, queue_id: str, holder: str) -> Claim:
        timing = self._timing
        names = ("open", "waiting", "sweep", "suspects", "totals", "suspects-allowed", "suspects-next")
        state, *stored = self._run_safely(
            "claim",
            [self._record(queue_id), *map(self._key, names)],
            queue_id,
            holder,
            _ms(timing.lease),
            _ms(timing.delivery_window),
            _ms(timing.deadline_margin),
            timing.suspect_after,
            timing.poisoned_after,
            self._record(""),
            undo=lambda claimed: self._give_back(queue_id, holder, claimed),
        )
        return _claim(ClaimState(state), stored)

    def _give_back(self, queue_id: str, holder: str, claimed: list[Any]) -> None:
        """A lease that nobody works under would lapse, and count as the death of a worker."""
        if claimed[0] == ClaimState.CLAIMED:
            keys, progress = [self._record(queue_id), self._key("open")], claimed[4] or "{}"
            with contextlib.suppress(LedgerUnavailable):
                self._run("suspend", keys, queue_id, holder, 0, progress, 0)

    def renew(self, leases: Mapping[str, str]) -> None:
        keys = [self._key("open"), *map(self._record, leases.values())]
        pairs = [text for pair in leases.items() for text in pair]
        self._run("renew", keys, _ms(self._timing.lease), _ms(self._timing.deadline_margin), *pairs)

    def suspend(
        self, queue_id: str, holder: str, *, wait_seconds: float, progress: CallProgress, sleeps: bool = False
    ) -> bool:
        keys, stored = [self._record(queue_id), self._key("open")], progress.model_dump_json()
        return bool(self._run_safely("suspend", keys, queue_id, holder, _ms(wait_seconds), stored, int(sleeps)))

    def wake(self, queue_ids: Sequence[str]) -> Woken:
        keys = [self._key("open"), *map(self._record, queue_ids)]
        suspended, over = self._run("wake", keys, _ms(self._timing.redispatch_after), *queue_ids)
        return Woken(tuple(suspended), tuple(over))

    def commit(self, queue_id: str, outcome: Outcome, request: QueuedRequest | None = None) -> Decision | None:
        verdict, *stored = self._run_safely(
            "commit",
            [
                self._record(queue_id),
                *map(self._key, ("open", "waiting", "pace", "totals", "quarantine")),
                self._over(queue_id),
            ],
            queue_id,
            outcome.model_dump_json(),
            outcome.kind,
            _ms(self._timing.delivery_window),
            request.model_dump_json() if request else "",
            _ms(self._timing.restorable_until(request)) if request else 0,
        )
        if verdict == "restored" or (verdict == "gone" and request is not None):
            log.error("answer_without_record", queue_id=queue_id, is_restored=verdict == "restored")
        if verdict in {"gone", "over"}:
            return None
        try:
            found = read(QueuedRequest, stored[0], "request")
            if verdict != "adopted":
                return Decision(found, outcome)
            return Decision(found, read(Outcome, stored[1], "outcome"), mine=False)
        except RecordUnreadable as error:
            self._set_aside(queue_id, error)
            return None

    def decided(self, queue_id: str) -> Decision | None:
        try:
            state, request, outcome = self._fields_to_publish(queue_id)
            if state != "decided":
                return None
            return Decision(read(QueuedRequest, request, "request"), read(Outcome, outcome, "outcome"))
        except RecordUnreadable as error:
            self._set_aside(queue_id, error)
            return None

    def _fields_to_publish(self, queue_id: str) -> Any:
        # Another process may have stored it, and not waited for its copies yet.
        try:
            return self._safe.execute("HMGET", self._record(queue_id), "state", "request", "outcome")
        except RedisError as error:
            raise _unavailable(error) from error

    def pending(self, queue_id: str) -> CallProgress | None:
        try:
            undecided = self._undecided(queue_id)
        except RecordUnreadable as error:
            self._set_aside(queue_id, error)
            return None
        return undecided and undecided.progress

    def _undecided(self, queue_id: str) -> _Undecided | None:
        """What tells the caller of a request that it ends without a verdict; None when it has an outcome."""
        state, outcome, stored, progress = self._fields(queue_id, "state", "outcome", "request", "progress")
        if outcome is not None or state == "delivered" or (state is None and stored is None):
            return None
        request = read(QueuedRequest, stored, "request")
        return _Undecided(request, read_or_none(CallProgress, progress) or NO_PROGRESS)

    def _set_aside(self, queue_id: str, error: RecordUnreadable, holder: str = "") -> None:
        """Keep a damaged record out of everybody's way; leave a newer version's to a newer worker."""
        keys = [self._record(queue_id), *map(self._key, ("open", "waiting", "quarantine"))]
        if error.is_newer:
            waits = _ms(FIRST_LOOK_SECONDS), _ms(self._timing.longest_redispatch)
            is_new = self._run("leave_to_newer", keys, queue_id, holder, *waits, error.reason)
            if error.reason not in self._told:
                self._told.add(error.reason)
                log.warning("records_left_to_newer_worker", reason=error.reason)
        else:
            is_new = self._run("quarantine", keys, queue_id, error.reason)
        if is_new:
            log.error("record_quarantined", queue_id=queue_id, reason=error.reason)

    def _fields(self, queue_id: str, *names: str) -> list[Any]:
        try:
            return self._client.hmget(self._record(queue_id), list(names))
        except RedisError as error:
            raise _unavailable(error) from error

    def mark_delivered(self, decision: Decision) -> None:
        request = decision.request
        polled_result = request.callback_topic is None and decision.outcome.verdict is not None
        self._run(
            "mark_delivered",
            [self._record(request.queue_id), *map(self._key, ("open", "totals", "dead")), self._over(request.queue_id)],
            request.queue_id,
            _ms(self._timing.retention(decision)),
            int(polled_result),
            "stored" if request.callback_topic is None else "published",
            _ms(self._timing.restorable_until(request)),
            _when_other(request.once_delivered(), request),
        )

    def put_off(self, queue_ids: Sequence[str], wait_seconds: float) -> None:
        if queue_ids:
            self._run("put_off", [self._key("open")], _ms(wait_seconds), *queue_ids)

    def postpone(
        self, queue_id: str, *, attempted: bool, refusal: str | None = None, wait_seconds: float | None = None
    ) -> bool:
        waits = self._timing.delivery_retry if wait_seconds is None else (wait_seconds,)
        became = self._run(
            "postpone",
            [self._record(queue_id), self._key("open"), self._key("dead")],
            queue_id,
            int(attempted),
            refusal or "",
            _ms(self._timing.dead_letter_after),
            *map(_ms, waits),
        )
        return bool(became == "dead")

    def note_poisoned(self, queue_id: str, reason: str) -> None:
        self._run("note_poisoned", [self._record(queue_id), self._key("dead")], queue_id, reason)

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        try:
            lists = [self._client.zrange(self._key(name), 0, limit - 1) for name in ("quarantine", "dead")]
        except RedisError as error:
            raise _unavailable(error) from error
        return [letter for ids in lists for queue_id in ids if (letter := self.dead_letter(str(queue_id)))][:limit]

    def dead_letter(self, queue_id: str) -> DeadLetter | None:
        try:
            since, aside_since = (self._client.zscore(self._key(name), queue_id) for name in ("dead", "quarantine"))
        except RedisError as error:
            raise _unavailable(error) from error
        if since is None and aside_since is None:
            return None
        try:
            return self._letter(queue_id, since, aside_since)
        except RecordUnreadable as error:
            return DeadLetter(queue_id, f"quarantined: {error.reason}", _datetime(int(aside_since or since or 0)))

    def _letter(self, queue_id: str, since: float | None, aside_since: float | None) -> DeadLetter | None:
        names = ("state", "request", "outcome", "reason", "fault", "refused", "attempts", "lapses")
        state, request, outcome, reason, fault, refused, attempts, lapses = self._fields(queue_id, *names)
        if state is None and request is None and aside_since is None:
            return None
        return DeadLetter(
            queue_id=queue_id,
            reason=str(reason) if aside_since is None else f"quarantined: {fault}",
            buried=_datetime(int(since or aside_since or 0)),
            request=read_or_none(QueuedRequest, request),
            outcome=read_or_none(Outcome, outcome),
            refused_since=_datetime(_count(refused)) if refused else None,
            attempts=_count(attempts),
            lapses=_count(lapses),
        )

    def reopen(self, queue_id: str) -> bool:
        keys = [self._record(queue_id), *map(self._key, ("open", "dead", "quarantine"))]
        return bool(self._run("reopen", keys, queue_id))

    def drop(self, queue_id: str) -> bool:
        keys = [self._record(queue_id), *map(self._key, ("dead", "totals", "quarantine"))]
        return bool(self._run("drop", keys, queue_id, _ms(self._timing.record_retention)))

    def sweep(self, *, queue_is_empty: bool) -> list[Due]:
        timing = self._timing
        found, faults, epoch = self._run(
            "sweep",
            [*map(self._key, ("open", "waiting", "sweep", "memory-full", "quarantine", "totals", "epoch"))],
            self._record(""),
            timing.sweep_batch,
            _ms(timing.lease),
            _ms(timing.delivery_window),
            _ms(timing.redispatch_after),
            _ms(timing.settle),
            timing.overtaken_by,
            int(queue_is_empty),
            _ms(timing.longest_redispatch),
            timing.memory_share,
            MEMORY_NOTE_SECONDS,
            timing.memory_bytes,
            uuid4().hex,
            self._epoch,
        )
        if self._epoch not in {"", epoch}:
            log.error("ledger_was_replaced", before=self._epoch, now=epoch)
        self._epoch = epoch
        for queue_id, fault in _pairs(faults):
            if fault:
                log.error("record_quarantined", queue_id=queue_id, reason=fault)
            else:
                log.error("accepted_request_lost", queue_id=queue_id)
        given_up = [Due(queue_id, Action.GIVE_UP) for queue_id, fault in _pairs(faults) if fault]
        return [*(Due(queue_id, Action(action)) for action, queue_id in _pairs(found)), *given_up]

    def view(self, queue_id: str) -> RequestView | None:
        found = self._run("view", [self._record(queue_id), self._key("waiting"), self._key("pace")], queue_id)
        if found is None:
            return None
        *record, pace = found
        return _stored(*record).view(float(pace), self._timing)

    def figures(self) -> LedgerFigures:
        try:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.zcard(self._key("open"))
            pipeline.zcard(self._key("waiting"))
            pipeline.zcard(self._key("dead"))
            pipeline.zcard(self._key("quarantine"))
            pipeline.hgetall(self._key("totals"))
            opened, waiting, dead, quarantined, totals = pipeline.execute()
        except RedisError as error:
            raise _unavailable(error) from error
        counts = {name: _count(count) for name, count in totals.items()}
        return LedgerFigures(opened, waiting, dead, counts, quarantined)

    def ping(self) -> None:
        """Raise LedgerUnavailable unless Redis answers."""
        try:
            self._client.ping()
        except RedisError as error:
            raise _unavailable(error) from error

    def check_accepts(self) -> None:
        """Raise LedgerUnavailable unless Redis takes writes."""
        self._run_safely("check_accepts", [self._key("check"), self._key("open")])

    def close(self) -> None:
        """Give back the connections."""
        self._client.close()


def _claim(state: ClaimState, stored: list[Any]) -> Claim:
    if state is ClaimState.LEFT:
        return Claim(state)
    request = read(QueuedRequest, stored[0], "request")
    if state is ClaimState.DECIDED:
        return Claim(state, request, outcome=read(Outcome, stored[1], "outcome"))
    if state in {ClaimState.EXPIRED, ClaimState.POISONED}:
        return Claim(state, request, progress=_progress(stored[1]))
    texts = read(ComparisonTexts, stored[1], "texts")
    return Claim(state, request, texts=texts, seconds_left=int(stored[2]) / 1000, progress=_progress(stored[3]))


def _progress(stored: str | None) -> CallProgress:
    """Nothing unless it has been suspended before, or was asked for at once."""
    return read(CallProgress, stored or "{}", "progress")


def _stored(
    request: str, state: str, kind: str, outcome: str, deadline: int, delivered: int, position: int
) -> StoredRequest:
    try:
        known_state, known_kind = RecordState(state), OutcomeKind(kind) if kind else None
    except ValueError:
        raise RecordUnreadable("its state is one that a newer version knows", is_newer=True) from None
    return StoredRequest(
        request=read(QueuedRequest, request, "request"),
        state=known_state,
        kind=known_kind,
        outcome=read(Outcome, outcome, "outcome") if outcome else None,
        deadline=_datetime(deadline),
        delivered=_datetime(delivered) if delivered else None,
        position=position or None,
    )


def _when_other(new: QueuedRequest, old: QueuedRequest) -> str:
    return "" if new == old else new.model_dump_json()


def _pairs(flat: list[str]) -> Iterable[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _count(stored: str | None) -> int:
    """0 for what is no number: it is only shown."""
    return int(stored) if stored and stored.isdecimal() else 0


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def _unavailable(error: RedisError) -> ServiceError:
    if fault := damage(error):
        return RecordUnreadable(fault)
    # The class name says enough; a Redis message may carry an address.
    unavailable = LedgerUnavailable(f"The ledger did not answer ({type(error).__name__}).", retry_after_seconds=5)
    if isinstance(error, NotServing):
        unavailable.reason = error.code.lower()
    elif isinstance(error, TooFewCopies):
        unavailable.reason = "too-few-copies"
    elif isinstance(error, ResponseError):
        unavailable.reason = "out-of-memory" if isinstance(error, OutOfMemoryError) else "refused"
    return unavailable
