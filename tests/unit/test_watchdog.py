"""When an event loop that does not turn ends its process, and when it does not."""

from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from llm_provider.errors import LedgerUnavailable
from llm_provider.watchdog import LoopWatchdog

STALL, GRACE = 60.0, 120.0


@dataclass
class Stage:
    """A worker's surroundings; a look is taken every 5 s."""

    now: float = 0.0
    empty: bool = False
    away: bool = False
    idle: bool = True
    ended_at: float | None = None
    watchdog: LoopWatchdog = field(init=False)

    def __post_init__(self) -> None:
        self.watchdog = LoopWatchdog(
            self,
            stall_seconds=STALL,
            grace_seconds=GRACE,
            is_idle=lambda: self.idle,
            end=self.end,
            now=lambda: self.now,
        )

    def end(self) -> None:
        self.ended_at = self.ended_at or self.now

    def dispatch(self, queue_id: str, *, first: bool = False) -> None: ...

    def queue_is_empty(self) -> bool:
        if self.away:
            raise LedgerUnavailable("away")
        return self.empty

    def pass_time(self, seconds: float, *, turns: bool = False) -> None:
        for _ in range(int(seconds / 5)):
            self.now += 5
            if turns:
                self.watchdog.turned()
            self.watchdog.look()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_loop_that_turns_is_left_alone(stage: Stage) -> None:
    """Messages may wait for ever while all threads are busy."""
    stage.pass_time(1000, turns=True)
    assert stage.ended_at is None


def test_a_loop_that_stands_still_while_messages_wait_ends_the_process(stage: Stage) -> None:
    """A minute after the first look that saw it, with one line."""
    with capture_logs() as logged:
        stage.pass_time(80)
    assert stage.ended_at is not None
    assert STALL <= stage.ended_at <= STALL + 15
    assert [line["event"] for line in logged] == ["event_loop_stands_still"]


@pytest.mark.parametrize("excuse", ["empty", "away"])
def test_without_messages_or_redis_nobody_can_tell(stage: Stage, excuse: str) -> None:
    """Celery itself waits inside the loop for a Redis that is away; the minute begins when messages wait."""
    setattr(stage, excuse, True)
    stage.pass_time(600)
    setattr(stage, excuse, False)
    stage.pass_time(50)
    assert stage.ended_at is None
    stage.pass_time(30)
    assert stage.ended_at is not None


def test_a_loop_that_looks_for_a_redis_that_serves_is_left_alone(stage: Stage) -> None:
    """A replica, say, tells how many messages wait, and gives none; Celery tries again inside the loop."""
    stage.watchdog.connected(False)
    stage.pass_time(1000)
    assert stage.ended_at is None
    stage.watchdog.connected(True)
    stage.pass_time(100)
    assert stage.ended_at is not None


def test_calls_in_flight_may_end_first_but_not_for_ever(stage: Stage) -> None:
    """They would be paid twice; a call that never ends must not keep the process."""
    stage.idle = False
    stage.pass_time(150)
    assert stage.ended_at is None
    stage.pass_time(60)
    assert stage.ended_at is not None
