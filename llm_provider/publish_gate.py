"""Which topics can be published to at present, as this process last saw it.

After a failed publish no handler tries that topic: a worker thread must not wait for what has just failed. The
sweeper alone probes, with a back-off, until one event has gone through.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_provider.errors import BrokerUnavailable, EventRefused, PublishError

FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 5.0

# What waits is looked at again after a quarter of the outage so far: soon after a short one, seldom in a long one.
LOOK_AFTER_SHARE = 0.25
SHORTEST_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 10.0

# Stands for every topic: the broker itself is away.
_ALL = "*"


@dataclass
class _Closed:
    error: PublishError
    since: float
    failures: int
    probe_at: float


class PublishGate:
    """One gate per topic and one for all; every process starts with all of them open."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._closed: dict[str, _Closed] = {}
        self._lock = threading.Lock()

    def is_open(self, topic: str) -> bool:
        """Whether a handler may publish to the topic."""
        return _ALL not in self._closed and topic not in self._closed

    def may_probe(self, topic: str) -> bool:
        """Whether the sweeper may publish: the gate is open, or its next probe is due, which this call takes."""
        with self._lock:
            closed = self._closed_for(topic)
            if any(gate.probe_at > self._clock() for gate in closed):
                return False
            for gate in closed:
                gate.probe_at = self._clock() + _backoff(gate.failures)
            return True

    def broker_is_left_alone(self) -> bool:
        """Whether no topic may be published to now, not even as a probe."""
        closed = self._closed.get(_ALL)
        return closed is not None and closed.probe_at > self._clock()

    def seconds_until_next_look(self, topic: str = _ALL) -> float:
        """How long what waits for the topic is left alone."""
        with self._lock:
            since = min((gate.since for gate in self._closed_for(topic)), default=self._clock())
        wait = (self._clock() - since) * LOOK_AFTER_SHARE
        return min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, wait))

    def refusal(self, topic: str) -> str | None:
        """Why Kafka refuses the topic, when that is what closed its gate."""
        closed = self._closed.get(topic)
        return closed.error.message if closed and closed.error.is_refusal and _ALL not in self._closed else None

    def failed(self, topic: str, error: PublishError) -> None:
        """Close the gate an error stands for; one refused event says nothing about its topic."""
        if isinstance(error, EventRefused):
            return
        name = _ALL if isinstance(error, BrokerUnavailable) else topic
        with self._lock:
            known = self._closed.get(name)
            failures = known.failures + 1 if known else 0
            since = known.since if known else self._clock()
            self._closed[name] = _Closed(error, since, failures, self._clock() + _backoff(failures))

    def succeeded(self, topic: str) -> None:
        """An acknowledged event opens its topic, and shows that the broker is there."""
        with self._lock:
            self._closed.pop(topic, None)
            self._closed.pop(_ALL, None)

    def _closed_for(self, topic: str) -> list[_Closed]:
        return [self._closed[name] for name in {_ALL, topic} if name in self._closed]


def _backoff(failures: int) -> float:
    return min(LONGEST_PROBE_SECONDS, FIRST_PROBE_SECONDS * 2.0 ** min(failures, 10))
