"""The ledger in Redis: one hash per request, two indexes, and a Lua script for each step (lua/*.lua)."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from llm_provider.adapters.redis_client import CLOCK_KEY, load_scripts
from llm_provider.adapters.redis_connection import NotServing
from llm_provider.adapters.redis_safety import SafeSteps, Safety, TooFewCopies
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

_SCRIPTS = Path(__file__).parent / "lua"

# What accept.lua answers beside 1, accepted.
_FULL, _MEMORY_FULL, _TAKEN_BACK = 0, 2, 3
MEMORY_NOTE_SECONDS = 5
# Longer than a command may lie in a socket's buffer.
TAKEN_BACK_SECONDS = 600
_ACKNOWLEDGED_BY_REDIS = Safety()


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

    def commit(self, queue_id: str, outcome: Outcome) -> Decision | None:
        verdict, *stored = self._run_safely(
            "commit",
            [self._record(queue_id), *map(self._key, ("open", "waiting", "pace", "totals"))],
            queue_id,
            outcome.model_dump_json(),
            outcome.kind,
            _ms(self._timing.delivery_window),
        )
        if verdict == "gone":
            return None
        request = QueuedRequest.model_validate_json(stored[0])
        if verdict == "stored":
            return Decision(request, outcome)
        return Decision(request, Outcome.model_validate_json(stored[1]), mine=False)

    def decided(self, queue_id: str) -> Decision | None:
        # What is read here is published: another process may have stored it, and not waited for its copies yet.
        try:
            stored = self._safe.execute("HMGET", self._record(queue_id), "state", "request", "outcome")
        except RedisError as error:
            raise _unavailable(error) from error
        state, request, outcome = stored
        if state != "decided" or request is None or outcome is None:
            return None
        return Decision(QueuedRequest.model_validate_json(request), Outcome.model_validate_json(outcome))

    def pending(self, queue_id: str) -> CallProgress | None:
        state, outcome, progress = self._fields(queue_id, "state", "outcome", "progress")
        if state is None or outcome is not None or state == "delivered":
            return None
        return _progress(progress)

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
            [self._record(request.queue_id), *map(self._key, ("open", "totals", "dead"))],
            request.queue_id,
            _ms(self._timing.retention(decision)),
            int(polled_result),
            "stored" if request.callback_topic is None else "published",
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
            ids = self._client.zrange(self._key("dead"), 0, limit - 1)
        except RedisError as error:
            raise _unavailable(error) from error
        return [letter for queue_id in ids if (letter := self.dead_letter(str(queue_id)))]

    def dead_letter(self, queue_id: str) -> DeadLetter | None:
        try:
            if self._client.zscore(self._key("dead"), queue_id) is None:
                return None
        except RedisError as error:
            raise _unavailable(error) from error
        names = ("request", "outcome", "reason", "buried", "refused", "attempts", "lapses")
        request, outcome, reason, buried, refused, attempts, lapses = self._fields(queue_id, *names)
        if request is None:
            return None
        return DeadLetter(
            request=QueuedRequest.model_validate_json(request),
            outcome=Outcome.model_validate_json(outcome) if outcome else None,
            reason=reason,
            buried=_datetime(int(buried)),
            refused_since=_datetime(int(refused)) if refused else None,
            attempts=int(attempts or 0),
            lapses=int(lapses or 0),
        )

    def reopen(self, queue_id: str) -> bool:
        keys = [self._record(queue_id), *map(self._key, ("open", "dead"))]
        return bool(self._run("reopen", keys, queue_id))

    def drop(self, queue_id: str) -> bool:
        keys = [self._record(queue_id), self._key("dead"), self._key("totals")]
        return bool(self._run("drop", keys, queue_id, _ms(self._timing.record_retention)))

    def sweep(self, *, queue_is_empty: bool) -> list[Due]:
        timing = self._timing
        found = self._run(
            "sweep",
            [*map(self._key, ("open", "waiting", "sweep", "memory-full"))],
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
        )
        return [Due(queue_id, Action(action)) for action, queue_id in zip(found[::2], found[1::2], strict=True)]

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
            pipeline.hgetall(self._key("totals"))
            opened, waiting, dead, totals = pipeline.execute()
        except RedisError as error:
            raise _unavailable(error) from error
        return LedgerFigures(opened, waiting, dead, {name: int(count) for name, count in totals.items()})

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
    request = QueuedRequest.model_validate_json(stored[0])
    if state is ClaimState.DECIDED:
        return Claim(state, request, outcome=Outcome.model_validate_json(stored[1]))
    if state in {ClaimState.EXPIRED, ClaimState.POISONED}:
        return Claim(state, request, progress=_progress(stored[1]))
    texts = ComparisonTexts.model_validate_json(stored[1])
    return Claim(state, request, texts, seconds_left=int(stored[2]) / 1000, progress=_progress(stored[3]))


def _progress(stored: str | None) -> CallProgress:
    """Nothing unless it has been suspended before, or was asked for at once."""
    return CallProgress.model_validate_json(stored or "{}")


def _stored(
    request: str, state: str, kind: str, outcome: str, deadline: int, delivered: int, position: int
) -> StoredRequest:
    return StoredRequest(
        request=QueuedRequest.model_validate_json(request),
        state=RecordState(state),
        kind=OutcomeKind(kind) if kind else None,
        outcome=Outcome.model_validate_json(outcome) if outcome else None,
        deadline=_datetime(deadline),
        delivered=_datetime(delivered) if delivered else None,
        position=position or None,
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def _unavailable(error: RedisError) -> LedgerUnavailable:
    # The class name says enough; a Redis message may carry an address.
    unavailable = LedgerUnavailable(f"The ledger did not answer ({type(error).__name__}).", retry_after_seconds=5)
    if isinstance(error, NotServing):
        unavailable.reason = error.code.lower()
    elif isinstance(error, TooFewCopies):
        unavailable.reason = "too-few-copies"
    elif isinstance(error, ResponseError):
        unavailable.reason = "out-of-memory" if isinstance(error, OutOfMemoryError) else "refused"
    return unavailable
