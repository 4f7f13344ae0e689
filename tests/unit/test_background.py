"""A periodic thread goes on whatever its work does, and ends when it is told to."""

import threading
import time

from structlog.testing import capture_logs

from llm_provider.background import PeriodicThread
from llm_provider.errors import LedgerUnavailable
from tests.unit.builders import SECRET

FAST, NEVER = 0.001, 3600.0
PATIENCE = 10.0


class Work:
    """Does what it is told each time, and can be waited for; the last thing it is told goes on."""

    def __init__(self, *turns: bool | Exception) -> None:
        self._turns = list(turns)
        self.done = 0
        self._condition = threading.Condition()

    def __call__(self) -> bool:
        with self._condition:
            turn = self._turns[min(self.done, len(self._turns) - 1)]
            self.done += 1
            self._condition.notify_all()
        if isinstance(turn, Exception):
            raise turn
        return turn

    def is_done(self, times: int) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self.done >= times, PATIENCE)


def test_the_work_is_done_again_and_again() -> None:
    """Once per interval."""
    work = Work(False)
    thread = PeriodicThread("periodic", work, FAST)
    thread.start()
    assert work.is_done(5)
    thread.stop()


def test_nothing_is_done_before_the_first_interval_has_passed() -> None:
    """A process that only starts and stops leaves everything as it was."""
    work = Work(True)
    thread = PeriodicThread("periodic", work, NEVER)
    thread.start()
    thread.stop()
    assert work.done == 0


def test_more_work_does_not_wait_for_the_next_interval() -> None:
    """It goes on at once while the work says that there is more."""
    work = Work(True, True, True, False)
    thread = PeriodicThread("periodic", work, 0.3)
    started = time.monotonic()
    thread.start()
    assert work.is_done(4)
    took = time.monotonic() - started
    thread.stop()
    assert took < 4 * 0.3


def test_no_exception_ends_it() -> None:
    """Neither an outage nor a defect; the defect's text, which may quote a prompt, is not logged."""
    work = Work(LedgerUnavailable("The ledger did not answer."), ValueError(SECRET), False)
    thread = PeriodicThread("periodic", work, FAST)
    with capture_logs() as logs:
        thread.start()
        assert work.is_done(4)
        thread.stop()
    assert [(line["event"], line["error"], line["thread"]) for line in logs] == [
        ("background_work_failed", "The ledger did not answer.", "periodic"),
        ("background_work_broke", "ValueError", "periodic"),
    ]
    assert SECRET not in repr(logs)


def test_it_stops_while_there_is_more_work() -> None:
    """And stopping twice, or before the start, is nothing special."""
    work = Work(True)
    thread = PeriodicThread("periodic", work, FAST)
    thread.start()
    assert work.is_done(2)
    thread.stop()
    done = work.done
    thread.stop()
    PeriodicThread("never started", work, FAST).stop()
    time.sleep(0.02)
    assert work.done == done
