"""Admission control in Redis: one Lua script, and so one round trip, for each operation (lua/admission/*.lua).

Keys, after the prefix and `admission:`; all of them expire:

    breaker:<provider>            hash: failures in a row, until when it is open, the probe and its good results;
                                  an hour after it could be probed
    slots:<provider>              sorted set: the calls that run, by the end of their lease; a lease
    line:<provider>, due:<provider>
                                  sorted sets: who waits for a slot, by ticket and by when to be back; a minute
    ticket:<provider>:<call id>   when this call first asked for a slot; PLACE_KEPT_SECONDS after it was last seen
    pace:<provider>:<model>       hash: the accounts of requests and tokens, the vendor's wish to be left alone; until
                                  the accounts are full again
    held:<provider>               sorted set: the models that the vendor wants left alone, by until when; until then
"""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contracts.enums import LLMProviderType
from llm_provider.adapters.redis_client import load_scripts
from llm_provider.admission import (
    LATENESS_SECONDS,
    PLACE_KEPT_SECONDS,
    Admission,
    BreakerPolicy,
    BreakerState,
    BreakerView,
    CallHealth,
    Obstacle,
)
from llm_provider.config import VendorSettings
from llm_provider.errors import AdmissionUnavailable
from llm_provider.internal_models import ComparisonTarget

_SCRIPTS = Path(__file__).parent / "lua" / "admission"

# Patience without end, in a number that Lua can count with: a year.
_LONGEST_SECONDS = 31_536_000.0
# What settle.lua is told about a call whose admission this process does not know of.
_UNKNOWN_EPOCH = "?"


@dataclass(frozen=True)
class _Place:
    """What an admitted call holds; `epoch` is the breaker's, so that results from before it opened can be told."""

    provider: LLMProviderType
    epoch: str
    has_slot: bool
    is_probe: bool


class RedisAdmission:
    """AdmissionProtocol over one Redis; `limits` gives a provider's settings, `chance` spreads those who wait."""

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str,
        breaker: BreakerPolicy,
        limits: Callable[[LLMProviderType], VendorSettings],
        lease_seconds: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._prefix = prefix
        self._policy = breaker
        self._limits = limits
        self._lease = lease_seconds
        self._chance = chance
        self._held: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._scripts = load_scripts(client, _SCRIPTS)

    def _run(self, name: str, keys: list[str], *args: str | float) -> Any:
        try:
            return self._scripts[name](keys=keys, args=list(args))
        except RedisError as error:
            # The class name says enough; a Redis message may carry an address.
            raise AdmissionUnavailable(f"Redis did not answer ({type(error).__name__}).") from error

    def _key(self, name: str, *parts: str) -> str:
        return ":".join((f"{self._prefix}admission", name, *parts))

    def _line_keys(self, provider: LLMProviderType, call_id: str) -> list[str]:
        return [
            *(self._key(name, provider) for name in ("slots", "line", "due")),
            self._key("ticket", provider, call_id),
        ]

    def ask(
        self, target: ComparisonTarget, call_id: str, *, tokens: int, has_turn: bool, patience_seconds: float
    ) -> Admission:
        provider, slots = target.provider, self._slots(target.provider)
        keys = [self._key("breaker", provider), self._key("pace", provider, target.model)]
        obstacle, wait_ms, turn, is_probe, epoch = self._run(
            "ask",
            [*keys, *self._line_keys(provider, call_id)],
            call_id,
            _ms(self._lease),
            slots,
            *self._rates(target),
            tokens,
            int(has_turn),
            _ms(patience_seconds),
            self._chance(),
            _ms(LATENESS_SECONDS),
            _ms(PLACE_KEPT_SECONDS),
        )
        if obstacle:
            return Admission(Obstacle(obstacle), wait_ms / 1000, has_turn=bool(turn))
        with self._lock:
            self._held[call_id] = _Place(provider, epoch, has_slot=slots > 0, is_probe=bool(is_probe))
        return Admission(has_turn=True, is_probe=bool(is_probe))

    def _slots(self, provider: LLMProviderType) -> int:
        return self._limits(provider).max_concurrent_calls or 0

    def _rates(self, target: ComparisonTarget) -> tuple[int, int]:
        limit = self._limits(target.provider).rate_limit(target.model)
        return limit.requests_per_minute or 0, limit.tokens_per_minute or 0

    def settle(
        self,
        target: ComparisonTarget,
        call_id: str,
        *,
        health: CallHealth,
        is_probe: bool = False,
        tokens_beyond_estimate: int = 0,
        hold_seconds: float = 0.0,
    ) -> None:
        provider, place = target.provider, self._no_longer_held(call_id)
        self._run(
            "settle",
            [
                self._key("breaker", provider),
                self._key("pace", provider, target.model),
                self._key("slots", provider),
                self._key("held", provider),
            ],
            call_id,
            health,
            place.epoch if place else _UNKNOWN_EPOCH,
            int(is_probe),
            self._policy.failures,
            _ms(self._policy.open_seconds),
            self._policy.successes,
            *self._rates(target),
            tokens_beyond_estimate,
            _ms(hold_seconds),
            int(self._slots(provider) > 0),
            target.model,
        )

    def _no_longer_held(self, call_id: str) -> _Place | None:
        """Before Redis is told: should it not listen, the place lapses by itself."""
        with self._lock:
            return self._held.pop(call_id, None)

    def leave(self, target: ComparisonTarget, call_id: str) -> None:
        self._no_longer_held(call_id)
        self._give_up(target.provider, call_id)

    def _give_up(self, provider: LLMProviderType, call_id: str) -> None:
        self._run("leave", [self._key("breaker", provider), *self._line_keys(provider, call_id)], call_id)

    def renew(self) -> None:
        with self._lock:
            held = {call_id: place for call_id, place in self._held.items() if place.has_slot or place.is_probe}
        if not held:
            return
        keys = [self._key(name, place.provider) for place in held.values() for name in ("breaker", "slots")]
        places = [arg for call_id, place in held.items() for arg in (call_id, int(place.has_slot))]
        self._run("renew", keys, _ms(self._lease), *places)
        # A call that was settled meanwhile may just have got its place back.
        with self._lock:
            settled = held.keys() - self._held.keys()
        for call_id in settled:
            self._give_up(held[call_id].provider, call_id)

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        state, failures, left_ms = self._run("breaker", [self._key("breaker", provider)])
        return BreakerView(BreakerState(state), failures, left_ms / 1000 if state == BreakerState.OPEN else None)

    def held_models(self, provider: LLMProviderType) -> Mapping[str, float]:
        found = self._run("held", [self._key("held", provider)])
        return {model: left_ms / 1000 for model, left_ms in zip(found[::2], found[1::2], strict=True)}

    def release(self, provider: LLMProviderType) -> None:
        paces = [self._key("pace", provider, model) for model in self.held_models(provider)]
        self._run("release", [self._key("breaker", provider), self._key("held", provider), *paces])


def _ms(seconds: float) -> int:
    return round(min(seconds, _LONGEST_SECONDS) * 1000)
