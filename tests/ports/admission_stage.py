"""Admission control on a stage where time can pass and several processes act: for test_admission.py."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis import Redis

from contracts.enums import LLMProviderType
from llm_provider.adapters.memory_admission import MemoryAdmission, MemoryAdmissionState
from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.admission import (
    INVITATION_SECONDS,
    Admission,
    AdmissionProtocol,
    BreakerPolicy,
    BreakerView,
    CallAsk,
    CallHealth,
    CallReport,
)
from llm_provider.config import VendorSettings
from llm_provider.internal_models import ComparisonTarget
from tests.unit.builders import Clock

OPENAI = ComparisonTarget(provider=LLMProviderType.OPENAI, model="gpt-one")
SAME_PROVIDER = ComparisonTarget(provider=LLMProviderType.OPENAI, model="vendor/gpt:two")
ANTHROPIC = ComparisonTarget(provider=LLMProviderType.ANTHROPIC, model="claude")

# Long enough that a busy machine does not reach it by accident, short enough to wait for.
SHORT = 0.4
POLICY = BreakerPolicy(failures=3, open_seconds=SHORT, successes=2)
# Nobody waits that long; only its being asked for matters.
LONG = 600.0
GOOD, BAD, UNKNOWN = CallHealth.GOOD, CallHealth.BAD, CallHealth.UNKNOWN


@dataclass(frozen=True)
class Terms:
    """What a process is configured with."""

    policy: BreakerPolicy = POLICY
    lease_seconds: float = LONG
    chance: float = 0.5
    vendor: VendorSettings = field(default_factory=VendorSettings.model_construct)


@dataclass
class Process:
    """One process's admission control; each `call` is a caller of its own."""

    admission: AdmissionProtocol
    ids: Callable[[], str]

    def ask(self, call_id: str | None = None, target: ComparisonTarget = OPENAI, **about: Any) -> Admission:
        defaults = {"tokens": 1000, "patience_seconds": LONG}
        return self.admission.ask(CallAsk(target, call_id or self.ids(), **{**defaults, **about}))

    def settle(self, call_id: str, health: CallHealth, target: ComparisonTarget = OPENAI, **about: Any) -> list[str]:
        return [*self.admission.settle(target, call_id, CallReport(health, **about)).invited]

    def call(self, health: CallHealth, target: ComparisonTarget = OPENAI, **about: Any) -> Admission:
        """A call that is made at once, and what it told; `about` goes to settle."""
        call_id = self.ids()
        admission = self.ask(call_id, target)
        assert admission.obstacle is None, admission
        self.settle(call_id, health, target, is_probe=admission.is_probe, **about)
        return admission

    def begin(self, target: ComparisonTarget = OPENAI) -> str:
        """A call that is admitted and goes on."""
        call_id = self.ids()
        assert self.ask(call_id, target).obstacle is None
        return call_id

    def break_circuit(self, target: ComparisonTarget = OPENAI) -> None:
        for _ in range(POLICY.failures):
            self.call(BAD, target)

    def break_circuit_by_others(self, target: ComparisonTarget = OPENAI) -> None:
        """By calls that went on without admission."""
        for _ in range(POLICY.failures):
            self.settle(self.ids(), BAD, target)

    @property
    def view(self) -> BreakerView:
        return self.admission.breaker(OPENAI.provider)


@dataclass
class Stage:
    """Makes processes that share everything but their memory, and lets time pass for them."""

    make: Callable[[Terms], AdmissionProtocol]
    wait: Callable[[float], None]
    _numbers: "count[int]" = field(default_factory=count)

    def process(self, **terms: Any) -> Process:
        """`terms` are those of Terms, or a vendor's settings."""
        own = {name: terms.pop(name) for name in ("policy", "lease_seconds", "chance") if name in terms}
        vendor = VendorSettings.model_construct(**terms)
        return Process(self.make(Terms(**own, vendor=vendor)), lambda: f"call-{next(self._numbers)}")

    def grant(self, process: Process, call_id: str) -> None:
        """Ask until the call may be made."""
        while process.ask(call_id, has_turn=True, is_late=True).obstacle:
            self.wait(0.05)

    def end_invitations(self) -> None:
        """Let the time pass for which places are kept."""
        self.wait(INVITATION_SECONDS)

    def half_open(self, **terms: Any) -> Process:
        process = self.process(**terms)
        process.break_circuit()
        self.wait(SHORT)
        return process


def memory_stage() -> Stage:
    clock, state = Clock(), MemoryAdmissionState()

    def make(terms: Terms) -> AdmissionProtocol:
        return MemoryAdmission(
            breaker_policy=terms.policy,
            limits=lambda _: terms.vendor,
            lease_seconds=terms.lease_seconds,
            chance=lambda: terms.chance,
            clock=clock,
            state=state,
        )

    return Stage(make, clock.advance)


def redis_stage(client: Redis, prefix: str) -> Stage:
    def make(terms: Terms) -> AdmissionProtocol:
        return RedisAdmission(
            client,
            prefix=prefix,
            breaker=terms.policy,
            limits=lambda _: terms.vendor,
            lease_seconds=terms.lease_seconds,
            chance=lambda: terms.chance,
        )

    return Stage(make, lambda seconds: time.sleep(seconds + 0.005))
