"""What was asked, what came of it, and what must not have happened: pure, from the records of a storm.

Times are readings of time.monotonic().
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from scripts.storms.schedule import Fault, FaultKind

ACCEPTED = 202
NO_ANSWER = 0

# A call whose worker died this long after its answer may have been answered in vain: the commit comes after it. While
# Redis is away it waits for that, and is then tried twice a second.
COMMIT_SECONDS = 1.0
COMMIT_RETRY_SECONDS = 2.0
# The kill is noted just before or after the signal, and a request may still have been on its way.
SLACK_SECONDS = 0.5
# What a worker that stood still was about to send is sent at once when it goes on.
GO_ON_SECONDS = 1.5
# What a post may take while clients are slow that have nothing to do with it.
HELD_UP_SECONDS = 5.0


@dataclass(frozen=True)
class Asked:
    """One post, and its answer: `status` is NO_ANSWER when none came, `queue_id` empty unless it was accepted."""

    number: int
    topic: str
    correlation_id: str
    status: int = NO_ANSWER
    queue_id: str = ""
    answered_at: float = 0.0
    seconds: float = 0.0

    @property
    def begun_at(self) -> float:
        return self.answered_at - self.seconds


@dataclass(frozen=True)
class Arrival:
    """One record on a topic, `number` from the request's metadata; unreadable ones have number -1."""

    topic: str
    key: str
    value: bytes
    at: float
    number: int = -1
    queue_id: str = ""
    event_id: str = ""
    correlation_id: str = ""
    error_code: str = ""


@dataclass(frozen=True)
class ProviderCall:
    """One call the provider received; `ended` is None when it never was answered nor given up."""

    number: int
    worker: str
    begun: float
    ended: float | None
    how: str

    @property
    def was_refused(self) -> bool:
        """Answered with an error status, so that nothing was billed and it is made again."""
        return self.how.isdigit()


@dataclass(frozen=True)
class Repetitions:
    """Provider calls beyond a request's first, by what explains them."""

    after_refusals: list[ProviderCall] = field(default_factory=list)
    after_kills: list[ProviderCall] = field(default_factory=list)
    after_pauses: list[ProviderCall] = field(default_factory=list)
    unexplained: list[ProviderCall] = field(default_factory=list)


@dataclass(frozen=True)
class Kill:
    """A kill -9 of a worker, or of one of its processes."""

    worker: str
    at: float

    def may_have_ended(self, call: ProviderCall, stored_by: float) -> bool:
        """Whether the call was in flight at that worker, or its answer not yet stored."""
        return call.worker == self.worker and call.begun - SLACK_SECONDS <= self.at <= stored_by


@dataclass(frozen=True)
class Pause:
    """A worker that stood still for longer than a lease, and went on."""

    worker: str
    at: float
    until: float

    def may_explain(self, earlier: ProviderCall, later: ProviderCall, stored_by: float) -> bool:
        """Whether the first call was in flight there, or the second is one that it had begun and now sent."""
        held = earlier.worker == self.worker and earlier.begun - SLACK_SECONDS <= self.until and self.at <= stored_by
        went_on = later.worker == self.worker and 0.0 <= later.begun - self.until + SLACK_SECONDS <= GO_ON_SECONDS
        return later.begun >= self.at and (held or went_on)


@dataclass(frozen=True)
class Broken:
    """A fault as it happened."""

    fault: Fault
    name: str
    began: float
    ended: float
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Account:
    """Everything that was recorded, and the sums of it."""

    asked: Sequence[Asked]
    arrivals: Sequence[Arrival]
    calls: Sequence[ProviderCall] = ()
    kills: Sequence[Kill] = ()
    broken: Sequence[Broken] = ()
    pauses: Sequence[Pause] = ()
    silences: Sequence[float] = ()
    deaths: Sequence[str] = ()
    undocumented_keys: Sequence[str] = ()
    open_at_end: int = 0

    @cached_property
    def accepted(self) -> dict[str, Asked]:
        return {one.queue_id: one for one in self.asked if one.status == ACCEPTED}

    @cached_property
    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.asked)

    @cached_property
    def events(self) -> dict[str, list[Arrival]]:
        """Queue id to its arrivals, in their order."""
        found: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in self.arrivals:
            found[arrival.queue_id].append(arrival)
        return dict(found)

    @property
    def lost(self) -> list[str]:
        return [queue_id for queue_id in self.accepted if queue_id not in self.events]

    @property
    def differing(self) -> list[str]:
        """Queue ids whose copies of the event are not all the same bytes."""
        return [queue_id for queue_id, copies in self.events.items() if len({copy.value for copy in copies}) > 1]

    @property
    def duplicates(self) -> int:
        """Copies beyond the first, same or not."""
        return len(self.arrivals) - len(self.events)

    @property
    def ambiguous_ids(self) -> list[str]:
        """Event ids under which there are different events."""
        values = {arrival.value: arrival.event_id for arrival in self.arrivals if arrival.event_id}
        return [event_id for event_id, count in Counter(values.values()).items() if count > 1]

    def accepted_after(self, status: int) -> int:
        """Requests whose post got this instead of a 202, and that were accepted all the same: their event came."""
        posts = {one.number for one in self.asked if one.status == status}
        return len([queue_id for queue_id, copies in self.events.items() if copies[0].number in posts])

    @property
    def held_up(self) -> list[Asked]:
        """Posts that waited because clients were slow that have nothing to do with them."""
        slow = [one for one in self.broken if one.fault.kind is FaultKind.WEB_SLOW_CLIENTS]
        late = [one for one in self.asked if one.seconds > HELD_UP_SECONDS]
        return [post for post in late if any(one.began <= post.begun_at <= one.ended for one in slow)]

    @property
    def misdirected(self) -> list[Arrival]:
        """Events on a wrong topic, under a wrong key, of a request nobody made, or that cannot be read."""
        by_number = {one.number: one for one in self.asked}
        return [arrival for arrival in self.arrivals if not _belongs(arrival, by_number.get(arrival.number))]

    @property
    def errors(self) -> Counter[str]:
        return Counter(copies[0].error_code for copies in self.events.values() if copies[0].error_code)

    @cached_property
    def repetitions(self) -> Repetitions:
        """What a refusal, or a worker that was killed or stood still, explains, and the rest."""
        found = Repetitions()
        for earlier, later in self._successive_calls():
            if earlier.was_refused:
                found.after_refusals.append(later)
            else:
                self._explain(earlier, later, found).append(later)
        return found

    def _explain(self, earlier: ProviderCall, later: ProviderCall, found: Repetitions) -> list[ProviderCall]:
        stored_by = self._stored_by(earlier)
        if any(kill.may_have_ended(earlier, stored_by) for kill in self.kills):
            return found.after_kills
        if any(pause.may_explain(earlier, later, stored_by) for pause in self.pauses):
            return found.after_pauses
        return found.unexplained

    def _stored_by(self, call: ProviderCall) -> float:
        """When the outcome of a call was stored at the latest, had its worker lived."""
        if call.ended is None:
            return math.inf
        stored_by = call.ended + COMMIT_SECONDS
        for one in sorted(self.broken, key=lambda one: one.began):
            if one.fault.kind.part == "redis" and one.began <= stored_by and call.ended <= one.ended:
                stored_by = max(stored_by, one.ended + COMMIT_RETRY_SECONDS)
        return stored_by

    def _successive_calls(self) -> Iterable[tuple[ProviderCall, ProviderCall]]:
        by_number: dict[int, list[ProviderCall]] = defaultdict(list)
        for call in sorted(self.calls, key=lambda call: call.begun):
            by_number[call.number].append(call)
        for calls in by_number.values():
            yield from pairwise(calls)

    def seconds_to_recover(self, ended: float) -> float | None:
        """From then until every request accepted before had its event; None when one has none."""
        waiting = [one.queue_id for one in self.accepted.values() if one.answered_at <= ended]
        if any(queue_id not in self.events for queue_id in waiting):
            return None
        last = max((self.events[queue_id][0].at for queue_id in waiting), default=ended)
        return max(0.0, last - ended)

    def slowest_post(self, began: float, ended: float) -> float:
        """Seconds the slowest of the posts took that were waiting at some time between these two."""
        waiting = [one for one in self.asked if one.answered_at >= began and one.begun_at <= ended]
        return max((one.seconds for one in waiting), default=0.0)

    @property
    def faults_of_the_service(self) -> list[str]:
        """Each broken promise, in a sentence; empty when all is well."""
        unexplained = [str(call.number) for call in self.repetitions.unexplained]
        return [
            *_counted(self.lost, "accepted and never answered by an event"),
            *_counted(self.differing, "answered by copies of an event that differ"),
            *_counted(self.ambiguous_ids, "the id of different events"),
            *_counted([f"{one.topic} {one.queue_id}" for one in self.misdirected], "on a wrong topic or key"),
            *_counted(unexplained, "asked of the provider again without a reason"),
            *_counted([str(one.number) for one in self.held_up], "held up by slow clients"),
            *([f"/healthz was silent {len(self.silences)} times while clients were slow"] if self.silences else []),
            *_counted(self.deaths, "ended by itself"),
            *_counted(self.undocumented_keys, "a key without expiry that is not documented"),
            *([f"{self.open_at_end} requests are still open in the ledger"] if self.open_at_end else []),
        ]


@dataclass
class Records:
    """What the parts of a storm write down while it goes on; each list has one kind of writer."""

    asked: list[Asked] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)  # When /healthz was asked and gave no answer.
    deaths: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def missing(self) -> int:
        """Accepted requests without an event so far."""
        accepted = {one.queue_id for one in list(self.asked) if one.status == ACCEPTED}
        return len(accepted - {one.queue_id for one in list(self.arrivals)})


def _belongs(arrival: Arrival, asked: Asked | None) -> bool:
    if asked is None or not arrival.event_id:
        return False
    right_request = asked.queue_id in {"", arrival.queue_id}
    right_key = arrival.key == arrival.correlation_id == asked.correlation_id
    return right_request and right_key and arrival.topic == asked.topic


def _counted(what: Collection[str], sentence: str) -> list[str]:
    shown = ", ".join(list(what)[:5]) + (", ..." if len(what) > 5 else "")
    return [f"{len(what)} {sentence}: {shown}"] if what else []
