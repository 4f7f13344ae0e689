"""The sweeper brings what is due one step further, and nothing holds it up for long."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.memory_queue import MemoryDispatcher
from llm_provider.courier import Courier
from llm_provider.errors import LedgerUnavailable
from llm_provider.ledger import Action, Due
from llm_provider.sweeper import Sweeper
from scripts.local_servers import wait_until
from tests.unit.builders import SECRET, Clock, Worker, a_request, a_timing, a_verdict_for, read, some_texts


@dataclass
class DueLedger(MemoryLedger):
    """A ledger in which just this is due, in batches, and which notes what it was told of the queue."""

    batches: list[list[Due]] = field(default_factory=list)
    told_empty: list[bool] = field(default_factory=list)
    put_offs: list[tuple[list[str], float]] = field(default_factory=list)

    def put_off(self, queue_ids: Sequence[str], wait_seconds: float) -> None:
        self.put_offs.append((list(queue_ids), wait_seconds))

    def sweep(self, *, queue_is_empty: bool) -> list[Due]:
        self.told_empty.append(queue_is_empty)
        return self.batches.pop(0) if self.batches else []


@dataclass
class Journal:
    """A dispatcher and a deliverer that write down what they are asked; `broken` maps an id to what it raises."""

    lines: list[str] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    empty: bool = False
    broker_away_for: float | None = None
    wakings: int = 0

    def seconds_to_leave_deliveries(self) -> float | None:
        return self.broker_away_for

    def queue_is_empty(self) -> bool:
        return self.empty

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        self._note(f"dispatch {'first' if first else 'in turn'}", queue_id)

    def deliver_due(self, queue_id: str) -> None:
        self._note("deliver", queue_id)

    def give_up(self, queue_id: str) -> None:
        self._note("give up", queue_id)

    def expire(self, queue_id: str) -> None:
        self._note("expire", queue_id)

    def wake_next(self) -> None:
        self.wakings += 1

    def _note(self, what: str, queue_id: str) -> None:
        self.lines.append(f"{what} {queue_id}")
        if queue_id in self.broken:
            raise self.broken[queue_id]


def sweeper(ledger: MemoryLedger, journal: Journal, batch: int = 200) -> Sweeper:
    return Sweeper(ledger, journal, journal, journal, interval_seconds=60.0, batch=batch)


def swept(sweeper: Sweeper) -> bool:
    """One sweep, and what the courier's thread does after it."""
    more = sweeper.sweep()
    sweeper.courier.work()
    return more


def test_each_action_goes_where_it_belongs_and_messages_go_first() -> None:
    """A delivery may have to wait for Kafka; what only needs a message does not wait with it."""
    due = [Due("a", Action.DELIVER), Due("b", Action.EXPIRE), Due("c", Action.DISPATCH), Due("d", Action.DELIVER)]
    journal = Journal()
    swept(sweeper(DueLedger(a_timing(), batches=[due]), journal))
    assert journal.lines == ["dispatch first c", "deliver a", "expire b", "deliver d"]


def test_while_the_broker_is_away_its_outcomes_are_put_off_together() -> None:
    """A long outage of Kafka must not keep the sweepers busy, and holds no lost message or deadline back."""
    due = [Due("a", Action.DELIVER), Due("b", Action.EXPIRE), Due("c", Action.DISPATCH), Due("d", Action.DELIVER)]
    ledger, journal = DueLedger(a_timing(), batches=[due]), Journal(broker_away_for=7.5)
    swept(sweeper(ledger, journal))
    assert journal.lines == ["dispatch first c", "expire b"]
    assert ledger.put_offs == [(["a", "d"], 7.5)]


@pytest.mark.parametrize("empty", [True, False])
def test_the_queue_is_asked_once_a_sweep(empty: bool) -> None:
    """The ledger judges lost messages by the answer."""
    ledger = DueLedger(a_timing())
    sweeper(ledger, Journal(empty=empty)).sweep()
    assert ledger.told_empty == [empty]


def test_a_full_batch_asks_for_another_sweep_at_once() -> None:
    """There may be more; a batch that was not full was all."""
    due = [Due("a", Action.DELIVER), Due("b", Action.DELIVER)]
    dispatches = [Due(item.queue_id, Action.DISPATCH) for item in due]
    full = sweeper(DueLedger(a_timing(), batches=[dispatches, due[:1]]), Journal(), batch=2)
    assert [swept(full), swept(full), swept(full)] == [True, False, False]


def test_deliveries_wait_for_nobody_and_nobody_waits_for_them() -> None:
    """While the courier is at Kafka the sweeper goes its rounds: its note keeps leases judged everywhere."""
    first, second = [Due("a", Action.DELIVER)], [Due("b", Action.DELIVER), Due("c", Action.DISPATCH)]
    ledger, journal = DueLedger(a_timing(), batches=[first, second]), Journal()
    busy = sweeper(ledger, journal, batch=1)
    assert [busy.sweep(), busy.sweep()] == [False, False]
    assert journal.lines == ["dispatch first c"]
    assert ledger.put_offs == [(["b"], 1.0)]
    busy.courier.work()
    assert journal.lines == ["dispatch first c", "deliver a"]
    assert busy.courier.is_free()


def test_what_the_courier_cannot_begin_in_time_is_left_to_a_later_sweep() -> None:
    """Somebody else may have taken it by then."""
    clock, journal = Clock(), Journal()

    class SlowJournal(Journal):
        def deliver_due(self, queue_id: str) -> None:
            journal.deliver_due(queue_id)
            clock.advance(3)

    courier = Courier(SlowJournal(), patience_seconds=5, clock=clock)
    courier.take([Due(queue_id, Action.DELIVER) for queue_id in "abcd"])
    courier.work()
    assert journal.lines == ["deliver a", "deliver b"]
    assert courier.is_free()


def test_without_redis_the_courier_leaves_the_rest() -> None:
    """Each of the others would only wait for it, too."""
    journal = Journal(broken={"a": LedgerUnavailable("away")})
    courier = Courier(journal, patience_seconds=5)
    courier.take([Due("a", Action.DELIVER), Due("b", Action.DELIVER)])
    with pytest.raises(LedgerUnavailable):
        courier.work()
    assert courier.is_free()
    assert journal.lines == ["deliver a"]


@pytest.mark.parametrize("action", list(Action))
def test_one_request_that_breaks_holds_nobody_else_back(action: Action) -> None:
    """A record nobody can read, say: it is due again and again, and always beside the same neighbours."""
    due = [Due(queue_id, action) for queue_id in ("a", "broken", "c")]
    journal = Journal(broken={"broken": ValueError(f"cannot read {SECRET}")})
    with capture_logs() as logs:
        swept(sweeper(DueLedger(a_timing(), batches=[due]), journal))
    assert [line.split()[-1] for line in journal.lines] == ["a", "broken", "c"]
    assert [line["queue_id"] for line in logs if line["log_level"] == "error"] == ["broken"]
    assert SECRET not in repr(logs)


def test_a_sweep_ends_when_redis_goes_away() -> None:
    """Each of the others would only wait for it, too; what was taken comes back when its time has passed."""
    due = [Due("a", Action.DISPATCH), Due("b", Action.DISPATCH)]
    journal = Journal(broken={"a": LedgerUnavailable("The queue did not answer.")})
    with pytest.raises(LedgerUnavailable):
        sweeper(DueLedger(a_timing(), batches=[due]), journal).sweep()
    assert journal.lines == ["dispatch first a"]


def test_the_started_sweeper_sweeps_until_it_is_stopped() -> None:
    """It needs nobody to call it."""
    ledger = DueLedger(a_timing(), batches=[[Due("a", Action.EXPIRE)]])
    journal = Journal()
    running = Sweeper(ledger, journal, journal, journal, interval_seconds=0.001, batch=1)
    running.start()
    assert wait_until(lambda: len(ledger.told_empty) >= 3 and bool(journal.lines), 10)
    running.stop()
    rounds = len(ledger.told_empty)
    assert journal.lines == ["expire a"]
    time.sleep(0.02)
    assert len(ledger.told_empty) == rounds


def test_each_sweep_wakes_who_may_be_called() -> None:
    """A place that lapsed, or a circuit that closed, tells nobody by itself."""
    journal = Journal()
    running = sweeper(DueLedger(a_timing()), journal)
    swept(running)
    swept(running)
    assert journal.wakings == 2


def test_whatever_a_crash_leaves_is_put_right() -> None:
    """Never dispatched, died while running, died before the delivery: each ends with its one event."""
    worker = Worker(ledger=MemoryLedger(a_timing(lease=10.0, settle=2.0, redispatch_after=10.0)))
    queue = MemoryDispatcher()
    running = Sweeper(worker.ledger, queue, worker.processor, worker.caller, interval_seconds=60.0, batch=200)
    undispatched, died, undelivered = worker.accept(), worker.accept(), worker.accept()
    worker.ledger.claim(died.queue_id, "dead")
    worker.ledger.commit(undelivered.queue_id, a_verdict_for(undelivered))
    for _ in range(80):
        worker.clock.advance(1.0)
        swept(running)
        while queue.messages:
            worker.run(a_request(queue_id=queue.messages.pop(0)))
    told = sorted(read(record).data.request_id for record in worker.records)
    assert told == sorted(request.queue_id for request in (undispatched, died, undelivered))
    assert worker.ledger.figures().open == 0


def test_an_expired_request_is_told_though_no_message_of_it_ever_arrives() -> None:
    """The sweeper alone decides and delivers that."""
    worker, queue = Worker(), MemoryDispatcher(messages=["something else"])
    request = a_request(deadline_seconds=5.0)
    worker.ledger.accept(request, some_texts())
    worker.clock.advance(6)
    swept(Sweeper(worker.ledger, queue, worker.processor, worker.caller, interval_seconds=60.0, batch=200))
    assert len(worker.records) == 1
    assert queue.messages == ["something else"]
