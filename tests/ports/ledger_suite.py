"""A ledger on a stage where time can pass, and a storm of random steps over it: for test_ledger.py."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from redis import Redis

from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.errors import ProviderOverloaded
from llm_provider.internal_models import Bill, CallProgress, FailedCall
from llm_provider.ledger import Action, Claim, ClaimState, Decision, Due, LedgerProtocol
from llm_provider.queue_models import Outcome, QueuedRequest
from tests.unit.builders import Clock, a_request, a_timing, a_verdict_for, an_error_for, some_texts

# Long enough that a busy machine does not reach it by accident, short enough to wait for.
SHORT = 0.2
Result = TypeVar("Result")

# All of its fields differ from what a request without progress has.
SOME_PROGRESS = CallProgress(
    failures=2,
    turned_away=1,
    has_turn=True,
    is_late=True,
    bill=Bill(cost_usd=0.25),
    last_failure=FailedCall.of(ProviderOverloaded("no", retry_after_seconds=17, details={"http_status": 503})),
)

# Milliseconds are the finest that Redis is asked for.
TICK = 0.005


class Server(Protocol):
    """A Redis that answers."""

    @property
    def url(self) -> str: ...


@dataclass
class Stage:
    """A ledger with the way its time passes; two ledgers on one stage share what is stored."""

    new: Callable[..., LedgerProtocol]
    wait: Callable[[float], None]
    ledger: LedgerProtocol = field(init=False)

    def open(self, **timing: Any) -> LedgerProtocol:
        self.ledger = self.new(a_timing(**timing))
        return self.ledger

    def accept(self, **changes: Any) -> QueuedRequest:
        request = a_request(**changes)
        self.ledger.accept(request, some_texts())
        return request

    def running(self, holder: str = "first", **changes: Any) -> QueuedRequest:
        request = self.accept(**changes)
        assert self.ledger.claim(request.queue_id, holder).state is ClaimState.CLAIMED
        return request

    def suspended(self, wait_seconds: float = 60.0, **changes: Any) -> QueuedRequest:
        request = self.running("first", **changes)
        assert self.ledger.suspend(request.queue_id, "first", wait_seconds=wait_seconds, progress=SOME_PROGRESS)
        return request

    def decided(self, **changes: Any) -> Decision:
        request = self.running(**changes)
        decision = self.ledger.commit(request.queue_id, a_verdict_for(request))
        assert decision is not None
        return decision

    def delivered(self, **changes: Any) -> Decision:
        decision = self.decided(**changes)
        self.ledger.mark_delivered(decision)
        return decision

    def sweep(self, *, queue_is_empty: bool = False) -> list[Due]:
        return self.ledger.sweep(queue_is_empty=queue_is_empty)

    def sweep_until_due(self) -> list[Due]:
        """What the first sweep that finds something takes; some worker goes on sweeping, as one always does."""
        for _ in range(100):
            self.wait(SHORT / 4)
            if due := self.sweep():
                return due
        raise AssertionError("Nothing became due.")


def memory_stage() -> Stage:
    clock = Clock()
    return Stage(lambda timing: MemoryLedger(timing, clock), lambda seconds: clock.advance(seconds + TICK))


def redis_stage(client: Redis, prefix: str) -> Stage:
    return Stage(
        lambda timing: RedisLedger(client, prefix=prefix, timing=timing), lambda seconds: time.sleep(seconds + TICK)
    )


def action_of(due: list[Due], queue_id: str) -> list[Action]:
    return [item.action for item in due if item.queue_id == queue_id]


def ledger_outcome(ledger: LedgerProtocol, request: QueuedRequest) -> Outcome:
    view = ledger.view(request.queue_id)
    assert view is not None
    assert view.outcome is not None
    return view.outcome


def at_once(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Results of so many threads that begin together."""
    gate = threading.Barrier(count)

    def begin(number: int) -> Result:
        gate.wait(10)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@dataclass
class Known:
    """What the outside knows of one accepted request."""

    request: QueuedRequest
    first: Outcome | None = None
    delivered: bool = False
    holder: str = ""
    claimed_at: float = 0.0
    progress: CallProgress = field(default_factory=CallProgress)
    due: float = float("-inf")

    @property
    def is_kept_elsewhere(self) -> bool:
        """Whether the result store has the result since its delivery."""
        return self.request.callback_topic is None and self.first is not None and self.first.verdict is not None


class Storm:
    """Draws steps at random, some of them twice and some of them never, and checks what must hold after each."""

    LEASE = 0.03

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.draw = stage, random.Random(seed)
        self.ledger = stage.open(
            lease=self.LEASE,
            redispatch_after=0.01,
            longest_redispatch=0.03,
            delivery_window=0.01,
            delivery_retry=(0.005, 0.01),
            settle=0.005,
            deadline_margin=0.01,
            overtaken_by=3,
        )
        self.all: dict[str, Known] = {}
        self.now = stage.ledger.clock if isinstance(stage.ledger, MemoryLedger) else time.monotonic

    def accept(self) -> None:
        request = self.stage.accept(
            callback_topic=self.draw.choice([None, "a", "b"]), deadline_seconds=self.draw.choice([0.02, 0.1, 60.0])
        )
        self.all[request.queue_id] = Known(request)

    def claim(self, known: Known) -> None:
        holder, before = f"holder-{self.draw.random()}", self.now()
        claim = self.ledger.claim(known.request.queue_id, holder)
        after = self.now()
        if claim.state is ClaimState.CLAIMED:
            assert known.first is None
            assert not known.holder or after - known.claimed_at >= self.LEASE - 0.002, "two live holders"
            self.taken(known, claim, holder, before)
        elif claim.state is ClaimState.EXPIRED:
            assert known.first is None
        elif claim.state is ClaimState.DECIDED:
            assert (claim.outcome, known.delivered) == (known.first, False)

    def taken(self, known: Known, claim: Claim, holder: str, before: float) -> None:
        assert self.now() >= known.due - 0.002, "claimed before its wait ended"
        assert claim.progress == known.progress
        known.holder, known.claimed_at = holder, before

    def renew(self, known: Known) -> None:
        before = self.now()
        self.ledger.renew({known.holder: known.request.queue_id})
        claim = self.ledger.claim(known.request.queue_id, "nobody")
        if claim.state is ClaimState.CLAIMED:
            self.taken(known, claim, "nobody", before)

    def suspend(self, known: Known) -> None:
        wait, progress = self.draw.choice([0.0, 0.02, 60.0]), CallProgress(failures=self.draw.randrange(1, 9))
        before = self.now()
        # With a long wait it is the deadline, and nothing else, that brings a request back.
        wait = wait if known.request.deadline_seconds < 1 else min(wait, 0.02)
        if self.ledger.suspend(known.request.queue_id, known.holder, wait_seconds=wait, progress=progress):
            assert known.first is None
            known.holder, known.progress, known.due = "", progress, before + wait

    def commit(self, known: Known) -> None:
        succeeds = self.draw.random() < 0.5
        outcome = a_verdict_for(known.request) if succeeds else an_error_for(known.request)
        decision = self.ledger.commit(known.request.queue_id, outcome)
        known.first = known.first or outcome
        if decision is not None:
            assert decision.outcome == known.first
            assert decision.mine is (decision.outcome is outcome)

    def deliver(self, known: Known) -> None:
        decision = self.ledger.decided(known.request.queue_id)
        assert (decision is None) is (known.first is None or known.delivered)
        if decision is not None:
            assert decision.outcome == known.first
            self.ledger.mark_delivered(decision)
            known.delivered = True

    def postpone(self, known: Known) -> None:
        self.ledger.postpone(known.request.queue_id, attempted=self.draw.random() < 0.5)

    def step(self) -> None:
        steps = [self.claim, self.claim, self.renew, self.suspend, self.commit, self.deliver, self.postpone]
        what = self.draw.random()
        if what < 0.15 or not self.all:
            self.accept()
        elif what < 0.25:
            self.stage.wait(self.draw.choice([0.0, 0.005, 0.02]))
        elif what < 0.35:
            # What it took is lost with the process that swept.
            self.stage.sweep(queue_is_empty=self.draw.random() < 0.5)
        else:
            self.draw.choice(steps)(self.draw.choice(list(self.all.values())))
        assert self.ledger.figures().open == sum(not known.delivered for known in self.all.values())

    def sweep_until_all_is_delivered(self) -> None:
        """From here on an honest worker, whose every message arrives, brings all to their end."""
        for _ in range(400):
            for due in self.stage.sweep(queue_is_empty=True):
                known = self.all[due.queue_id]
                if due.action is Action.DISPATCH:
                    self.claim(known)
                if due.action is not Action.DELIVER and self.ledger.pending(due.queue_id):
                    self.commit(known)
                self.deliver(known)
            if not self.ledger.figures().open:
                return
            self.stage.wait(0.005)
        raise AssertionError(f"{self.ledger.figures().open} requests are looked at by nobody.")
