"""This process's side of admission control: it asks while it can, and lets calls go on while it cannot."""

import threading

from contracts.enums import LLMProviderType
from llm_provider.admission import (
    Admission,
    BreakerState,
    BreakerView,
    CallAsk,
    CallHealth,
    CallReport,
    Obstacle,
    ProviderLoad,
)
from llm_provider.gatekeeper import BLIND_SECONDS, Gatekeeper
from llm_provider.internal_models import ComparisonTarget
from scripts.local_servers import wait_until
from tests.unit.api.service import captured_logs
from tests.unit.builders import Bell, Clock, ScriptedAdmission

TARGET = ComparisonTarget(provider=LLMProviderType.OPENAI, model="gpt")
OPEN = Admission(Obstacle.CIRCUIT_OPEN, wait_seconds=9)


class Stage:
    """A gatekeeper before an admission control that a test may take away."""

    def __init__(self, lease_seconds: float = 60) -> None:
        self.clock = Clock()
        self.admission = ScriptedAdmission()
        self.bell = Bell()
        self.gatekeeper = Gatekeeper(self.admission, self.bell, lease_seconds, self.clock)

    def ask(self, *, has_turn: bool = False, is_late: bool = False, can_sleep: bool = False) -> Admission:
        return self.gatekeeper.ask(
            CallAsk(TARGET, "call", 7, 3, has_turn=has_turn, is_late=is_late, can_sleep=can_sleep)
        )


def test_what_is_asked_and_told_is_passed_on() -> None:
    """Word for word."""
    stage = Stage()
    stage.admission.answers = [OPEN]
    stage.admission.view = BreakerView(BreakerState.OPEN, 3, 9)

    assert stage.ask(has_turn=True, can_sleep=True) == OPEN
    stage.admission.is_granting = True
    report = CallReport(CallHealth.BAD, is_probe=True, tokens_beyond_estimate=5, hold_seconds=17, turned_away=True)
    assert stage.gatekeeper.settle(TARGET, "call", report)
    stage.gatekeeper.leave(TARGET, "call")

    assert stage.admission.asked == [
        {
            "target": TARGET,
            "call_id": "call",
            "tokens": 7,
            "patience_seconds": 3,
            "has_turn": True,
            "is_late": False,
            "can_sleep": True,
        }
    ]
    assert stage.admission.settled == [
        {
            "health": CallHealth.BAD,
            "is_probe": True,
            "tokens_beyond_estimate": 5,
            "hold_seconds": 17,
            "turned_away": True,
        }
    ]
    assert stage.admission.left == ["call"]
    assert stage.gatekeeper.breaker(LLMProviderType.OPENAI) == stage.admission.view
    stage.admission.at_provider = ProviderLoad(running=2, waiting=3, held_models={"gpt": 17.0})
    assert stage.gatekeeper.load(LLMProviderType.OPENAI) == stage.admission.at_provider
    assert stage.gatekeeper.release(LLMProviderType.OPENAI)
    assert stage.admission.released == [LLMProviderType.OPENAI]


def test_without_redis_everything_is_admitted() -> None:
    """A turn that was reserved is not lost by it, and no circuit is open as far as anybody knows."""
    stage = Stage()
    stage.admission.is_away = True

    assert stage.ask(has_turn=True, is_late=True) == Admission(has_turn=True, is_late=True)
    stage.clock.advance(2 * BLIND_SECONDS)
    assert not stage.gatekeeper.settle(TARGET, "call", CallReport())
    stage.clock.advance(2 * BLIND_SECONDS)
    stage.gatekeeper.leave(TARGET, "call")
    stage.clock.advance(2 * BLIND_SECONDS)
    assert stage.gatekeeper.breaker(LLMProviderType.OPENAI) == BreakerView(BreakerState.UNKNOWN)
    stage.clock.advance(2 * BLIND_SECONDS)
    assert stage.gatekeeper.load(LLMProviderType.OPENAI) == ProviderLoad()
    stage.clock.advance(2 * BLIND_SECONDS)
    stage.gatekeeper.invite_next(LLMProviderType.OPENAI)
    assert stage.bell.woken == []
    stage.clock.advance(2 * BLIND_SECONDS)
    assert not stage.gatekeeper.release(LLMProviderType.OPENAI)


def test_who_could_not_ask_leaves_it_for_a_moment() -> None:
    """Otherwise every call would wait for a Redis that hangs; after the moment it is asked again."""
    stage = Stage()
    stage.admission.answers = [OPEN]
    stage.admission.is_away = True
    stage.ask()
    stage.admission.is_away = False

    stage.clock.advance(BLIND_SECONDS / 2)
    assert stage.ask() == Admission()
    stage.clock.advance(BLIND_SECONDS)
    assert stage.ask() == OPEN


def test_what_cannot_be_told_is_not_held_any_longer() -> None:
    """Renewed for ever, a place or a probe would be lost until the process ends."""
    stage = Stage()
    stage.admission.is_away = True
    stage.ask()
    stage.admission.is_away = False

    stage.gatekeeper.settle(TARGET, "settled", CallReport())
    stage.gatekeeper.leave(TARGET, "left")

    assert (stage.admission.settled, stage.admission.left) == ([], [])
    assert stage.admission.forgotten == ["settled", "left"]


def test_whoever_may_come_now_is_woken() -> None:
    """Each operation that makes room tells for whom."""
    stage = Stage(lease_seconds=0.04)
    stage.admission.invited = ("next",)
    stage.admission.answers = [Admission(invited=("asked",))]
    stage.ask()
    stage.gatekeeper.stop()
    stage.bell.woken.clear()
    stage.admission.answers = [Admission(invited=("asked",))]

    stage.ask()
    stage.gatekeeper.settle(TARGET, "call", CallReport())
    stage.gatekeeper.leave(TARGET, "call")
    stage.gatekeeper.invite_next(LLMProviderType.OPENAI)

    assert stage.bell.woken == ["asked", "next", "next", "next"]


def test_who_is_over_leaves_the_line_for_the_next() -> None:
    """It was revoked, or told that its deadline has passed, and would keep the others waiting for ever."""
    stage = Stage()
    stage.bell.over = ("revoked",)
    stage.admission.answers = [Admission(invited=("revoked", "alive"))]
    stage.admission.invited = ("next",)

    stage.ask()

    assert stage.admission.left == ["revoked"]
    assert stage.bell.woken == ["revoked", "alive", "next"]


def test_an_outage_is_told_once_by_many_threads() -> None:
    """Of a hundred that wait for it one is enough."""
    stage = Stage()
    stage.admission.is_away = True
    with captured_logs() as logged:
        together = threading.Barrier(20)

        def ask() -> None:
            together.wait()
            stage.ask()

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 1 <= logged.getvalue().count("calls_go_on_without_limits") <= 3


def test_places_are_renewed_from_the_first_call_on() -> None:
    """By a thread that a process starts with its first call, long after any fork; and through outages."""
    stage = Stage(lease_seconds=0.04)
    stage.admission.is_away = True
    stage.ask()
    stage.admission.is_away = False
    stage.clock.advance(BLIND_SECONDS)

    assert wait_until(lambda: stage.admission.renewals > 2, 5)
    stage.gatekeeper.stop()
    renewals = stage.admission.renewals
    assert not wait_until(lambda: stage.admission.renewals > renewals, 0.1)


def test_a_gatekeeper_that_never_asked_can_be_stopped() -> None:
    """A worker may end before its first call."""
    Stage().gatekeeper.stop()
