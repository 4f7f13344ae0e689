"""This process's side of admission control: it asks while it can, and lets calls go on while it cannot."""

from contracts.enums import LLMProviderType
from llm_provider.admission import Admission, BreakerState, BreakerView, CallHealth, Obstacle
from llm_provider.gatekeeper import BLIND_SECONDS, CallReport, Gatekeeper
from llm_provider.internal_models import ComparisonTarget
from scripts.local_servers import wait_until
from tests.unit.builders import Clock, ScriptedAdmission

TARGET = ComparisonTarget(provider=LLMProviderType.OPENAI, model="gpt")
OPEN = Admission(Obstacle.CIRCUIT_OPEN, wait_seconds=9)


class Stage:
    """A gatekeeper before an admission control that a test may take away."""

    def __init__(self, lease_seconds: float = 60) -> None:
        self.clock = Clock()
        self.admission = ScriptedAdmission()
        self.gatekeeper = Gatekeeper(self.admission, lease_seconds, self.clock)

    def ask(self, *, has_turn: bool = False) -> Admission:
        return self.gatekeeper.ask(TARGET, "call", tokens=7, has_turn=has_turn, patience_seconds=3)


def test_what_is_asked_and_told_is_passed_on() -> None:
    """Word for word."""
    stage = Stage()
    stage.admission.answers = [OPEN]
    stage.admission.view = BreakerView(BreakerState.OPEN, 3, 9)

    assert stage.ask(has_turn=True) == OPEN
    stage.gatekeeper.settle(TARGET, "call", Admission(is_probe=True), CallReport(CallHealth.BAD, 5, 17))
    stage.gatekeeper.leave(TARGET, "call")

    assert stage.admission.asked == [
        {"target": TARGET, "call_id": "call", "tokens": 7, "has_turn": True, "patience_seconds": 3}
    ]
    assert stage.admission.settled == [
        {"health": CallHealth.BAD, "is_probe": True, "tokens_beyond_estimate": 5, "hold_seconds": 17}
    ]
    assert stage.admission.left == ["call"]
    assert stage.gatekeeper.breaker(LLMProviderType.OPENAI) == stage.admission.view
    stage.admission.held = {"gpt": 17.0}
    assert stage.gatekeeper.held_models(LLMProviderType.OPENAI) == {"gpt": 17.0}
    assert stage.gatekeeper.release(LLMProviderType.OPENAI)
    assert stage.admission.released == [LLMProviderType.OPENAI]


def test_without_redis_everything_is_admitted() -> None:
    """A turn that was reserved is not lost by it, and no circuit is open as far as anybody knows."""
    stage = Stage()
    stage.admission.is_away = True

    assert stage.ask(has_turn=True) == Admission(has_turn=True)
    stage.clock.advance(2 * BLIND_SECONDS)
    stage.gatekeeper.settle(TARGET, "call", Admission(), CallReport())
    stage.clock.advance(2 * BLIND_SECONDS)
    stage.gatekeeper.leave(TARGET, "call")
    stage.clock.advance(2 * BLIND_SECONDS)
    assert stage.gatekeeper.breaker(LLMProviderType.OPENAI) == BreakerView()
    stage.clock.advance(2 * BLIND_SECONDS)
    assert stage.gatekeeper.held_models(LLMProviderType.OPENAI) == {}
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
