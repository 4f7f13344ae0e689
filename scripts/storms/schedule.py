"""What breaks when: a pure function of the seed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

CALM_SECONDS = 3.0  # At the beginning, so that there is something in flight to break.
OVERLAP_SHARE = 0.5  # Of the faults: they begin while another part is still broken.

# Seconds a part needs to come back, on a busy machine, once the fault itself is over; a kind may need more. A primary
# that was killed is a replica only after the Sentinel has seen it for ten seconds.
RETURN_SECONDS = {"worker": 3.0, "web": 3.0, "kafka": 7.0, "redis": 1.0, "provider": 0.0, "redis-failover": 14.0}


class FaultKind(StrEnum):
    """What is done to which part; the part is what stands before the first hyphen."""

    WORKER_KILL = "worker-kill"  # kill -9 of all its processes.
    WORKER_MAIN_KILL = "worker-main-kill"  # Of a prefork worker's main process alone.
    WORKER_CHILD_KILL = "worker-child-kill"  # Of one of its children.
    WORKER_ROLLOUT = "worker-rollout"  # SIGTERM, wait for its end, start it again.
    WORKER_PAUSE = "worker-pause"  # SIGSTOP for longer than a lease: it lives, and others take its requests over.
    WEB_KILL = "web-kill"
    WEB_MASTER_KILL = "web-master-kill"
    WEB_CHILD_KILL = "web-child-kill"
    WEB_ROLLOUT = "web-rollout"
    WEB_SLOW_CLIENTS = "web-slow-clients"  # Connections that send nothing, halves or drops, or do not read.
    KAFKA_RESTART = "kafka-restart"
    KAFKA_KILL = "kafka-kill"
    KAFKA_FREEZE = "kafka-freeze"  # Longer than the delivery timeout.
    REDIS_RESTART = "redis-restart"
    REDIS_KILL = "redis-kill"
    REDIS_FREEZE = "redis-freeze"
    REDIS_CUT = "redis-cut"  # CLIENT KILL of all connections.
    REDIS_CUT_PUBSUB = "redis-cut-pubsub"  # Of those alone by which workers hear of commands.
    REDIS_READONLY = "redis-readonly"  # REPLICAOF, as in a switchover: every write is refused.
    REDIS_DISK_FULL = "redis-disk-full"  # The append-only file cannot grow: every write is refused.
    REDIS_FAILOVER = "redis-failover"  # kill -9 of a primary that has replicas and a Sentinel.
    PROVIDER_429 = "provider-429"  # With Retry-After.
    PROVIDER_500 = "provider-500"
    PROVIDER_HANG = "provider-hang"  # No answer at all.
    PROVIDER_CUT = "provider-cut"  # Half a body.
    PROVIDER_INVALID = "provider-invalid"  # JSON that is none.

    @property
    def part(self) -> str:
        return self.value.partition("-")[0]


ALL_KINDS = tuple(FaultKind)
# A single Redis has nobody to fail over to.
USUAL_KINDS = tuple(kind for kind in ALL_KINDS if kind is not FaultKind.REDIS_FAILOVER)

# Seconds that a part stays broken, at least and at most; the delivery timeout is 8 s, a lease 10 s.
SECONDS: dict[FaultKind, tuple[float, float]] = {
    FaultKind.WORKER_KILL: (0.0, 5.0),
    FaultKind.WORKER_MAIN_KILL: (0.0, 5.0),
    FaultKind.WORKER_CHILD_KILL: (0.0, 0.0),
    FaultKind.WORKER_ROLLOUT: (0.0, 0.0),
    FaultKind.WORKER_PAUSE: (12.0, 16.0),
    FaultKind.WEB_KILL: (0.0, 3.0),
    FaultKind.WEB_MASTER_KILL: (0.0, 3.0),
    FaultKind.WEB_CHILD_KILL: (0.0, 0.0),
    FaultKind.WEB_ROLLOUT: (0.0, 0.0),
    FaultKind.WEB_SLOW_CLIENTS: (4.0, 10.0),
    FaultKind.KAFKA_RESTART: (0.0, 12.0),
    FaultKind.KAFKA_KILL: (0.0, 12.0),
    FaultKind.KAFKA_FREEZE: (9.0, 16.0),
    FaultKind.REDIS_RESTART: (0.2, 6.0),
    FaultKind.REDIS_KILL: (0.2, 6.0),
    FaultKind.REDIS_FREEZE: (2.0, 8.0),
    FaultKind.REDIS_CUT: (0.0, 0.0),
    FaultKind.REDIS_CUT_PUBSUB: (0.0, 0.0),
    FaultKind.REDIS_READONLY: (2.0, 6.0),
    FaultKind.REDIS_DISK_FULL: (2.0, 6.0),
    FaultKind.REDIS_FAILOVER: (2.0, 6.0),
    FaultKind.PROVIDER_429: (4.0, 10.0),
    FaultKind.PROVIDER_500: (4.0, 10.0),
    FaultKind.PROVIDER_HANG: (4.0, 10.0),
    FaultKind.PROVIDER_CUT: (4.0, 10.0),
    FaultKind.PROVIDER_INVALID: (4.0, 10.0),
}

PREFORK_ONLY = frozenset({FaultKind.WORKER_MAIN_KILL, FaultKind.WORKER_CHILD_KILL})
# To kill a primary is a failover. What lives on beside its successor is not promised anything, as long as fewer copies
# are waited for than there are replicas: a Sentinel takes a primary that is frozen, whose disk is full, or that starts
# again for dead.
SINGLE_ONLY = frozenset(
    {FaultKind.REDIS_KILL, FaultKind.REDIS_RESTART, FaultKind.REDIS_FREEZE, FaultKind.REDIS_DISK_FULL}
)
# Only Linux limits the files of a process that runs already.
LINUX_ONLY = frozenset({FaultKind.REDIS_DISK_FULL})


@dataclass(frozen=True)
class Fault:
    """One fault as planned; times in seconds since the first request, `target` a worker's index."""

    number: int
    kind: FaultKind
    at: float
    seconds: float
    target: int = 0

    @property
    def until(self) -> float:
        """When the part is back."""
        return self.at + self.seconds + RETURN_SECONDS.get(self.kind, RETURN_SECONDS[self.kind.part])


@dataclass(frozen=True)
class Crew:
    """The workers there are: `threads` of the recommended pool, then `prefork` ones."""

    threads: int = 2
    prefork: int = 1

    def target(self, kind: FaultKind, draw: Random) -> int:
        """Which worker a fault hits."""
        first = self.threads if kind in PREFORK_ONLY else 0
        return draw.randrange(first, self.threads + self.prefork)


@dataclass(frozen=True)
class Weather:
    """What a schedule is drawn from; `gap` is the mean time in seconds from the end of a fault to the next one."""

    kinds: Sequence[FaultKind] = USUAL_KINDS
    gap: float = 3.0
    overlap: float = OVERLAP_SHARE
    crew: Crew = field(default_factory=Crew)

    @property
    def fails_over(self) -> bool:
        """Whether Redis is a primary with replicas and a Sentinel; what breaks a Redis then breaks the primary."""
        return FaultKind.REDIS_FAILOVER in self.kinds

    @property
    def possible(self) -> list[FaultKind]:
        return [kind for kind in self.kinds if self._is_possible(kind)]

    def _is_possible(self, kind: FaultKind) -> bool:
        if kind in PREFORK_ONLY:
            return self.crew.prefork > 0
        if self.fails_over and kind in SINGLE_ONLY:
            return False
        return kind not in LINUX_ONLY or sys.platform == "linux"


def plan(seed: int, seconds: float, weather: Weather) -> list[Fault]:
    """Faults that all end before `seconds` have passed; one part is never broken twice at a time.

    Each kind comes once before any comes again.
    """
    draw = Random(seed)  # noqa: S311 It has to be repeatable.
    bag: list[FaultKind] = []
    faults: list[Fault] = []
    while weather.possible:
        bag = bag or draw.sample(weather.possible, len(weather.possible))
        fault = _next(bag.pop(), faults, draw, weather)
        if fault.until > seconds:
            break
        faults.append(fault)
    return faults


def _next(kind: FaultKind, earlier: Sequence[Fault], draw: Random, weather: Weather) -> Fault:
    # Every number is drawn whether it is used or not, so that one choice does not shift all that follow.
    seconds, pause = draw.uniform(*SECONDS[kind]), draw.uniform(weather.gap / 2, weather.gap * 1.5)
    overlaps, depth = draw.random() < weather.overlap, draw.random()
    target = weather.crew.target(kind, draw) if kind.part == "worker" else 0
    at = _start(kind.part, earlier, pause, depth if overlaps else None)
    return Fault(len(earlier), kind, at, seconds, target)


def _start(part: str, earlier: Sequence[Fault], pause: float, depth: float | None) -> float:
    """After all that is broken, or that `depth` into the last fault; on the same part always after it."""
    if not earlier:
        return CALM_SECONDS
    last = earlier[-1]
    all_back = max(fault.until for fault in earlier) + pause
    begin = all_back if depth is None else last.at + depth * (last.until - last.at)
    part_back = max((fault.until + pause for fault in earlier if fault.kind.part == part), default=0.0)
    return max(begin, part_back)
