"""The two admission controls side by side: the same questions at the same moments get the same answers.

The one in memory is what unit tests trust, and a second form of Lua that is not simple. Redis's clock is a key here, so
that time passes for both alike.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from llm_provider.adapters import redis_admission
from llm_provider.adapters.memory_admission import MemoryAdmission
from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.admission import AdmissionProtocol, BreakerPolicy, CallAsk, CallHealth, CallReport
from llm_provider.config import VendorSettings
from llm_provider.internal_models import ComparisonTarget
from tests.ports.admission_stage import OPENAI, SAME_PROVIDER
from tests.unit.builders import Clock

STEPS = 150
SEEDS = range(25)
LIMITS: list[dict[str, Any]] = [
    {},
    {"max_concurrent_calls": 1},
    {"max_concurrent_calls": 3},
    {"max_concurrent_calls": 12},
    {"requests_per_minute": 120},
    {"requests_per_minute": 120, "tokens_per_minute": 60_000, "max_concurrent_calls": 2},
]
POLICY = BreakerPolicy(failures=3, open_seconds=5.0, successes=2)
PAUSES = (0.001, 0.01, 0.05, 0.3, 0.3, 1.0, 1.0, 4.0, 12.0)
PATIENCES = (20.0, 200.0)
HEALTHS = [CallHealth.GOOD] * 5 + [CallHealth.BAD] * 2 + [CallHealth.UNKNOWN]
PROVIDER = OPENAI.provider


class Pair:
    """Both of them, and what their callers know."""

    def __init__(self, client: Redis, prefix: str, rng: random.Random) -> None:
        self.rng, self.clock = rng, Clock()
        self._client, self._clock_key = client, f"{prefix}clock"
        vendor = VendorSettings.model_construct(**rng.choice(LIMITS))
        terms: dict[str, Any] = {"limits": lambda _: vendor, "lease_seconds": 20.0, "chance": lambda: 0.5}
        self.memory = MemoryAdmission(breaker_policy=POLICY, clock=self.clock, **terms)
        self.redis = RedisAdmission(client, prefix=prefix, breaker=POLICY, **terms)
        self.targets: dict[str, ComparisonTarget] = {}
        self.turns: dict[str, tuple[bool, bool]] = {}
        self.running: dict[str, bool] = {}
        self.waiting: set[str] = set()

    def pass_time(self) -> None:
        # Never twice the same, so that nothing ends in the very moment in which it is asked for.
        self.clock.advance(self.rng.choice(PAUSES) * (1 + 0.3 * self.rng.random()))
        self._client.set(self._clock_key, repr(self.clock() * 1000))

    def both(self, ask: Callable[[AdmissionProtocol], Any]) -> Any:
        """The answer of one, when it is that of the other."""
        in_memory, in_redis = ask(self.memory), ask(self.redis)
        assert plain(in_memory) == pytest.approx(plain(in_redis), abs=0.005, rel=0.001)
        return in_memory

    def ask(self) -> None:
        is_new = not self.waiting or self.rng.random() < 0.5
        call_id = f"call-{len(self.targets)}" if is_new else self.rng.choice(sorted(self.waiting))
        target = self.targets.setdefault(call_id, self.rng.choice([OPENAI, SAME_PROVIDER]))
        has_turn, is_late = self.turns.get(call_id, (False, False))
        can_sleep = hash_free(call_id) % 10 < 7
        patience = self.rng.choice(PATIENCES)
        question = CallAsk(target, call_id, 300, patience, has_turn=has_turn, is_late=is_late, can_sleep=can_sleep)
        told = self.both(lambda admission: admission.ask(question))
        self.turns[call_id] = (told.has_turn, told.is_late)
        if told.obstacle is None:
            self.running[call_id] = told.is_probe
            self.waiting.discard(call_id)
        else:
            self.waiting.add(call_id)

    def settle(self) -> None:
        call_id = self.rng.choice(sorted(self.running))
        is_refused = self.rng.random() < 0.25
        report = CallReport(
            CallHealth.UNKNOWN if is_refused else self.rng.choice(HEALTHS),
            is_probe=self.running.pop(call_id),
            tokens_beyond_estimate=self.rng.choice([0, 100, -50]),
            hold_seconds=self.rng.choice([0.0, 0.0, 2.5]) if is_refused else 0.0,
            turned_away=is_refused,
        )
        self.turns.pop(call_id)
        self.both(lambda admission: admission.settle(self.targets[call_id], call_id, report))
        if is_refused:
            self.waiting.add(call_id)

    def leave(self) -> None:
        call_id = self.rng.choice(sorted(self.waiting))
        self.waiting.discard(call_id)
        self.both(lambda admission: admission.leave(self.targets[call_id], call_id))

    def step(self) -> None:
        self.pass_time()
        choice = self.rng.random()
        if choice < 0.5:
            self.ask()
        elif choice < 0.8 and self.running:
            self.settle()
        elif choice < 0.85 and self.waiting:
            self.leave()
        elif choice < 0.95:
            self.both(lambda admission: sorted(admission.invite_next(PROVIDER)))
        elif choice < 0.98:
            self.both(lambda admission: [*admission.renew()])
        else:
            self.both(lambda admission: admission.release(PROVIDER))
        self.both(lambda admission: admission.load(PROVIDER))
        self.both(lambda admission: admission.breaker(PROVIDER))


def hash_free(name: str) -> int:
    """The number in a call's id: hash() differs from one run to the next."""
    return int(name.removeprefix("call-"))


def plain(answer: Any) -> Any:
    """Numbers by the names of their places; whatever is not a number becomes part of a name."""
    fields = vars(answer) if hasattr(answer, "__dict__") else {"answer": answer}
    numbers: dict[str, float] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            numbers |= {f"{name} of {key}": float(number) for key, number in value.items()}
        elif isinstance(value, float):
            numbers[name] = value
        else:
            numbers[f"{name}: {value if not isinstance(value, tuple) else [*value]}"] = 0.0
    return numbers


@pytest.fixture
def on_a_clock_of_ours(tmp_path: Path, key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts as they are, but for the one function that says what time it is."""
    scripts = tmp_path / "admission"
    shutil.copytree(redis_admission.SCRIPTS, scripts)
    prelude = (scripts / "prelude.lua").read_text()
    before, begun, rest = prelude.partition("local function now_ms()\n")
    _, ended, after = rest.partition("\nend\n")
    assert begun
    assert ended
    clock = f"local function now_ms() return tonumber(redis.call('GET', '{key_prefix}clock')) end\n"
    (scripts / "prelude.lua").write_text(before + clock + after)
    monkeypatch.setattr(redis_admission, "SCRIPTS", scripts)


@pytest.mark.usefixtures("on_a_clock_of_ours")
@pytest.mark.parametrize("seed", SEEDS)
def test_both_say_the_same(redis_client: Redis, key_prefix: str, seed: int) -> None:
    """Whatever is asked in whatever order, under whatever limits."""
    pair = Pair(redis_client, key_prefix, random.Random(seed))
    for _ in range(STEPS):
        pair.step()
