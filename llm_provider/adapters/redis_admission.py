"""Admission control in Redis: one Lua script, and so one round trip, for each operation (lua/admission/*.lua).

Keys, after the prefix and `admission:`; all of them expire:

    breaker:<provider>            hash: failures in a row, until when it is open, the probe and its good results;
                                  an hour after it could be probed
    slots:<provider>              sorted set: the calls that run, by the end of their lease; a lease
    line:<provider>               sorted set: who waits for the circuit or for a place, by ticket
    due:<provider>, asleep:<provider>
                                  sorted sets: who is awake and until when it is expected back, and who is to be
                                  invited and until when; a minute longer than the last of them waits
    invited:<provider>            sorted set: for whom a place is kept, by until when; until then
    unheard:<provider>            while those who are invited do not come; ten seconds
    ticket:<provider>:<call id>   when this call first asked; ten minutes longer than it waits
    flow:<provider>               hash: how many have been invited in this second after the circuit closed; ten minutes
    pace:<provider>:<model>       hash: the accounts of requests and tokens, the vendor's wish to be left alone, and
                                  what its refusals taught; until all that tells nothing any more
    paced:<provider>:<model>      sorted set: who sleeps for what was learned, by ticket; and
    models:<provider>             set: of which models there are some; a minute longer than the last of them waits
    held:<provider>, slowed:<provider>
                                  sorted set and hash: of which models that is, for whoever looks; as long as it is
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contracts.enums import LLMProviderType
from llm_provider import admission as constants
from llm_provider.adapters.redis_client import CLOCK_KEY, load_scripts
from llm_provider.admission import (
    Admission,
    BreakerPolicy,
    BreakerState,
    BreakerView,
    CallAsk,
    CallReport,
    Obstacle,
    ProviderLoad,
    Settled,
)
from llm_provider.config import VendorSettings
from llm_provider.errors import AdmissionUnavailable
from llm_provider.internal_models import ComparisonTarget

SCRIPTS = Path(__file__).parent / "lua" / "admission"

# Patience without end, in a number that Lua can count with: a year.
_LONGEST_SECONDS = 31_536_000.0
_MS_IN_LUA = (
    "LATENESS",
    "TICKET_KEPT",
    "INVITATION",
    "UNHEARD_KEPT",
    "FLOW_KEPT",
    "LEARNED_WAIT",
    "LOOK_AGAIN",
    "LOOK_AGAIN_EACH",
    "SLOW_KEPT",
    "CAUGHT_UP",
    "INVITED_AHEAD",
    "AWAKE",
    "LEAST_INTERVAL",
    "GRANTING",
)
_AS_IN_PYTHON = (
    "FIRST_INVITED",
    "MOST_INVITED",
    "FIRST_RATE",
    "DOUBLED_AFTER_SECONDS",
    "BACK_OFF",
    "CALLS_TO_RECOVER",
    "LEAST_RECOVERY_SECONDS",
    "SLOWEST_RATE",
    "FASTEST_RATE",
)
_CONSTANTS = {
    **{f"{name}_MS": vars(constants)[f"{name}_SECONDS"] * 1000 for name in _MS_IN_LUA},
    **{name: vars(constants)[name] for name in _AS_IN_PYTHON},
}
# What is said of single models, for whoever looks.
_SEEN = ("held", "slowed")
# What settle.lua is told about a call whose admission this process does not know of.
_UNKNOWN_EPOCH = "?"


@dataclass(frozen=True)
class _Place:
    """What an admitted call holds; `epoch` is the breaker's, so that results from before it opened can be told.

    `admitted_at` is a time of Redis's.
    """

    target: ComparisonTarget
    epoch: str
    admitted_at: str
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
        self._scripts = load_scripts(client, SCRIPTS, {**_CONSTANTS, "CLOCK": prefix + CLOCK_KEY})

    def _run(self, name: str, keys: list[str], *args: str | float) -> Any:
        try:
            return self._scripts[name](keys=keys, args=list(args))
        except RedisError as error:
            # The class name says enough; a Redis message may carry an address.
            raise AdmissionUnavailable(f"Redis did not answer ({type(error).__name__}).") from error

    def _key(self, name: str, *parts: str) -> str:
        return ":".join((f"{self._prefix}admission", name, *parts))

    def _provider_keys(self, provider: LLMProviderType) -> list[str]:
        """As prelude.lua expects them."""
        names = ("breaker", "slots", "line", "due", "asleep", "invited", "flow", "unheard")
        return [self._key(name, provider) for name in names]

    def ask(self, ask: CallAsk) -> Admission:
        provider, slots = ask.target.provider, self._slots(ask.target.provider)
        pace, paced = (self._key(name, provider, ask.target.model) for name in ("pace", "paced"))
        models, slowed = (self._key(name, provider) for name in ("models", "slowed"))
        obstacle, wait_ms, turn, is_probe, epoch, now, sleeps, *invited = self._run(
            "ask",
            [*self._provider_keys(provider), pace, self._ticket(provider, ask.call_id), paced, models, slowed],
            ask.call_id,
            _ms(self._lease),
            slots,
            *self._rates(ask.target),
            ask.tokens,
            int(ask.has_turn) + int(ask.is_late),
            _ms(ask.patience_seconds),
            self._chance(),
            int(ask.can_sleep),
            ask.target.model,
        )
        if obstacle:
            return Admission(
                Obstacle(obstacle),
                wait_ms / 1000,
                has_turn=turn > 0,
                is_late=turn > 1,
                sleeps=bool(sleeps),
                invited=tuple(invited),
            )
        with self._lock:
            self._held[ask.call_id] = _Place(ask.target, epoch, now, has_slot=slots > 0, is_probe=bool(is_probe))
        return Admission(has_turn=True, is_probe=bool(is_probe), invited=tuple(invited))

    def _ticket(self, provider: LLMProviderType, call_id: str) -> str:
        return self._key("ticket", provider, call_id)

    def _slots(self, provider: LLMProviderType) -> int:
        return self._limits(provider).max_concurrent_calls or 0

    def _rates(self, target: ComparisonTarget) -> tuple[int, int]:
        limit = self._limits(target.provider).rate_limit(target.model)
        return limit.requests_per_minute or 0, limit.tokens_per_minute or 0

    def settle(self, target: ComparisonTarget, call_id: str, report: CallReport) -> Settled:
        provider, place = target.provider, self._no_longer_held(call_id)
        pace, paced = (self._key(name, provider, target.model) for name in ("pace", "paced"))
        seen = [self._key(name, provider) for name in _SEEN]
        is_granting, *invited = self._run(
            "settle",
            [*self._provider_keys(provider), pace, *seen, self._ticket(provider, call_id), paced],
            call_id,
            report.health,
            place.epoch if place else _UNKNOWN_EPOCH,
            int(report.is_probe),
            self._policy.failures,
            _ms(self._policy.open_seconds),
            self._policy.successes,
            *self._rates(target),
            report.tokens_beyond_estimate,
            _ms(report.hold_seconds),
            self._slots(provider),
            target.model,
            int(report.turned_away),
            place.admitted_at if place else 0,
        )
        return Settled(tuple(invited), bool(is_granting))

    def _no_longer_held(self, call_id: str) -> _Place | None:
        """Before Redis is told: should it not listen, the place lapses by itself."""
        with self._lock:
            return self._held.pop(call_id, None)

    def forget(self, call_id: str) -> None:
        self._no_longer_held(call_id)

    def leave(self, target: ComparisonTarget, call_id: str) -> Sequence[str]:
        self._no_longer_held(call_id)
        return self._give_up(target, call_id)

    def _give_up(self, target: ComparisonTarget, call_id: str) -> list[str]:
        provider = target.provider
        keys = [self._ticket(provider, call_id), self._key("paced", provider, target.model)]
        invited: list[str] = self._run("leave", [*self._provider_keys(provider), *keys], call_id, self._slots(provider))
        return invited

    def invite_next(self, provider: LLMProviderType) -> Sequence[str]:
        keys = [*self._provider_keys(provider), self._key("models", provider)]
        prefixes = [self._key(name, provider, "") for name in ("pace", "paced")]
        invited: list[str] = self._run("invite_next", keys, self._slots(provider), *prefixes)
        return invited

    def renew(self) -> Sequence[str]:
        with self._lock:
            held = {call_id: place for call_id, place in self._held.items() if place.has_slot or place.is_probe}
        if not held:
            return ()
        keys = [self._key(name, place.target.provider) for place in held.values() for name in ("breaker", "slots")]
        places = [arg for call_id, place in held.items() for arg in (call_id, int(place.has_slot))]
        self._run("renew", keys, _ms(self._lease), *places)
        # A call that was settled meanwhile may just have got its place back.
        with self._lock:
            settled = held.keys() - self._held.keys()
        return [invited for call_id in settled for invited in self._give_up(held[call_id].target, call_id)]

    def breaker(self, provider: LLMProviderType) -> BreakerView:
        state, failures, left_ms = self._run("breaker", [self._key("breaker", provider)])
        return BreakerView(BreakerState(state), failures, left_ms / 1000 if state == BreakerState.OPEN else None)

    def load(self, provider: LLMProviderType) -> ProviderLoad:
        running, waiting, held, slowed = self._run(
            "load", [self._key(name, provider) for name in ("slots", "asleep", *_SEEN)]
        )
        return ProviderLoad(running, waiting, _seconds_by_model(held), _seconds_by_model(slowed))

    def release(self, provider: LLMProviderType) -> None:
        load = self.load(provider)
        paces = [self._key("pace", provider, model) for model in {*load.held_models, *load.slowed_models}]
        self._run("release", [*(self._key(name, provider) for name in ("breaker", "flow", *_SEEN)), *paces])


def _seconds_by_model(flat: list[Any]) -> dict[str, float]:
    return {model: float(ms) / 1000 for model, ms in zip(flat[::2], flat[1::2], strict=True)}


def _ms(seconds: float) -> int:
    return round(min(seconds, _LONGEST_SECONDS) * 1000)
