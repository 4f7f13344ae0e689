"""One storm: start everything, let it blow, wait for what is owed, look around, stop everything."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from scripts.local_servers import HOST, REPOSITORY, KafkaBroker, free_port
from scripts.programs import Interrupts, procfile
from scripts.storms import leftovers
from scripts.storms.account import ACCEPTED, Account, ProviderCall, Records
from scripts.storms.breaker import PROVIDER, WEB, Breaker, Parts
from scripts.storms.client import TOPICS, Callers
from scripts.storms.consumer import Consumer
from scripts.storms.fleet import Fleet, Line
from scripts.storms.redis_part import RedisPart
from scripts.storms.schedule import Fault, Weather, plan
from scripts.storms.screen import Screen

START_SECONDS = 60.0
STOP_SECONDS = 15.0
DRAIN_SECONDS = 120.0  # From the last post and the last fault to the last event.
SETTLE_SECONDS = 3.0  # In which a second copy of an event, or a second call, would still show.
WATCH_SECONDS = 0.2
# Celery takes `-P prefork` for its own default, which the service's setting overrides; this other name it believes.
PREFORK, PREFORK_CHILDREN = "processes", 4


class StormError(Exception):
    """The storm could not take place: a sentence."""


@dataclass(frozen=True)
class Forecast:
    """What a storm is like; the same forecast has the same faults at the same times."""

    seed: int = 1
    requests: int = 2000
    rate: float = 16.0
    latency_ms: float = 1000.0
    provider_timeout: float = 20.0
    breaker_open: float = 5.0
    weather: Weather = field(default_factory=Weather)

    def faults(self) -> list[Fault]:
        """They end while requests still come, so that each one's recovery is seen."""
        return plan(self.seed, self.requests / self.rate, self.weather)


@dataclass(frozen=True)
class Aftermath:
    """What there is to tell."""

    account: Account
    begin: float


@dataclass
class Storm:
    """A storm from its beginning to its end."""

    forecast: Forecast
    screen: Screen
    interrupts: Interrupts
    logs: Path
    stack: ExitStack
    records: Records = field(default_factory=Records)

    def run(self) -> Aftermath:
        parts = self._start()
        consumer = Consumer(self.records, parts.kafka.bootstrap_servers, TOPICS)
        self.stack.callback(consumer.stop)
        consumer.start()
        faults = self.forecast.faults()
        self.screen.say(f"{self.forecast.requests:,} requests at {self.forecast.rate:g}/s, {len(faults)} faults.")
        with self.screen.storm(self.forecast.requests):
            begin = time.monotonic()
            self._blow(parts, faults)
        return Aftermath(self._look_around(parts), begin)

    def _start(self) -> Parts:
        redis = RedisPart(self.logs / "redis", self.forecast.weather.fails_over)
        kafka = KafkaBroker(self.logs / "kafka")
        for server in (redis, kafka):
            self._start_server(server)
        environment = self._environment(redis, kafka)
        fleet = Fleet(environment, self.logs, self.interrupts)
        self.stack.callback(fleet.stop, STOP_SECONDS)
        parts = Parts(fleet, redis, kafka, [], int(environment["PORT"]), free_port(), self.forecast.latency_ms)
        self._create_topics(environment)
        self._start_processes(parts)
        return parts

    def _start_server(self, server: RedisPart | KafkaBroker) -> None:
        self.screen.say(f"Starting {server.name} ...")
        self.stack.callback(server.stop)
        server.start()

    def _environment(self, redis: RedisPart, kafka: KafkaBroker) -> dict[str, str]:
        """What the service is told: addresses, and a shorter patience with and for the provider; else its defaults."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("LLM_PROVIDER_")}
        return {
            **own,
            **redis.settings,
            kafka.variable: kafka.address,
            "HOST": HOST,
            "PORT": str(free_port()),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)]),
            "PYTHONUNBUFFERED": "1",
            "LLM_PROVIDER_OPENAI_API_KEY": "storm",
            "LLM_PROVIDER_PROVIDER_TIMEOUT_SECONDS": f"{self.forecast.provider_timeout:g}",
            "LLM_PROVIDER_BREAKER_OPEN_SECONDS": f"{self.forecast.breaker_open:g}",
        }

    def _create_topics(self, environment: Mapping[str, str]) -> None:
        command = " ".join([procfile()["release"], *TOPICS])
        with (self.logs / "release.log").open("wb") as log:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=REPOSITORY,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=START_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise StormError(f"The release line of the Procfile failed; see {log.name}.")

    def _start_processes(self, parts: Parts) -> None:
        self.screen.say("Starting the provider, the web process and the workers ...")
        fleet, crew = parts.fleet, self.forecast.weather.crew
        fleet.add(PROVIDER, Line(f"exec python -m scripts.storms.provider {parts.provider_port}", {}))
        fleet.add(WEB, Line(procfile()["web"], _calls(parts, WEB)))
        for number in range(crew.threads + crew.prefork):
            pool = "" if number < crew.threads else f" -P {PREFORK} -c {PREFORK_CHILDREN}"
            name = f"worker-{number + 1}"
            parts.workers.append(name)
            fleet.add(name, Line(f"{procfile()['worker']} -n {name}@%h{pool}", _calls(parts, name)))
        self._wait_until(fleet, lambda: _answers(parts.provider_port, "/calls"), PROVIDER)
        parts.behave()
        self._wait_until(fleet, lambda: _answers(parts.web_port, "/healthz"), WEB)
        for name in parts.workers:
            self._wait_until(fleet, lambda name=name: fleet.says(name, "ready."), name)  # type: ignore[misc]

    def _wait_until(self, fleet: Fleet, ready: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if not fleet.lives(name) or time.monotonic() > deadline:
                raise StormError(f"{name} did not start:\n{fleet.last_lines(name)}")
            time.sleep(0.05)

    def _blow(self, parts: Parts, faults: list[Fault]) -> None:
        breaker = Breaker(parts, self.records, self.screen.say)
        callers = Callers(self.records, parts.web_port, self.forecast.requests, self.forecast.rate)
        self.stack.callback(breaker.stop)
        self.stack.callback(callers.stop)
        callers.start()
        breaker.start(faults)
        while not (callers.is_done and breaker.is_done):
            self._watch(parts, breaker)
        self._drain(parts, breaker)

    def _drain(self, parts: Parts, breaker: Breaker) -> None:
        self.screen.say("The storm is over; waiting for what is still owed ...")
        begin = time.monotonic()
        while self._owes(parts) and time.monotonic() - begin < DRAIN_SECONDS:
            self._watch(parts, breaker)
        self.screen.say(f"Waited {time.monotonic() - begin:.1f} s.")
        settled = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < settled:
            self._watch(parts, breaker)

    def _owes(self, parts: Parts) -> bool:
        """Whether an event is missing, or the ledger has something open: posts without an answer too."""
        if self.records.missing():
            return True
        with Redis.from_url(parts.redis.primary.url) as redis:
            return leftovers.open_requests(redis) > 0

    def _watch(self, parts: Parts, breaker: Breaker) -> None:
        time.sleep(WATCH_SECONDS)
        for death in parts.fleet.deaths():
            self._note_death(death)
        watched = [*(("redis", server) for server in parts.redis.servers), ("kafka", parts.kafka)]
        for part, server in watched:
            # What is broken between the two looks is no death.
            if part not in breaker.broken_parts and server.pid is None and part not in breaker.broken_parts:
                raise StormError(f"{server.name} ended by itself; see {server.log}.")
        asked = list(self.records.asked)
        accepted = sum(one.status == ACCEPTED for one in asked)
        self.screen.show(len(asked), accepted, len({one.queue_id for one in list(self.records.arrivals)}))

    def _note_death(self, death: str) -> None:
        self.records.deaths.append(death)
        self.screen.say(f"DIED: {death}")

    def _look_around(self, parts: Parts) -> Account:
        with Redis.from_url(parts.redis.primary.url, decode_responses=True) as redis:
            keys = leftovers.undocumented(leftovers.lasting_keys(redis))
            still_open = leftovers.open_requests(redis)
        records, calls = self.records, _get(parts.provider_port, "/calls", seconds=10)
        # Whoever wants to know why one was made finds it here.
        (self.logs / "calls.json").write_bytes(calls)
        return Account(
            asked=records.asked,
            arrivals=records.arrivals,
            calls=[ProviderCall(*row) for row in json.loads(calls)],
            kills=records.kills,
            pauses=records.pauses,
            broken=records.broken,
            silences=records.silences,
            deaths=[death.splitlines()[0] for death in records.deaths],
            undocumented_keys=keys,
            open_at_end=still_open,
        )


def _calls(parts: Parts, name: str) -> dict[str, str]:
    """Each worker calls the provider under its own name, so that a call tells whose it was."""
    return {"LLM_PROVIDER_OPENAI_BASE_URL": f"http://{HOST}:{parts.provider_port}/{name}/v1"}


def _answers(port: int, path: str) -> bool:
    try:
        _get(port, path, seconds=1)
    except OSError:
        return False
    return True


def _get(port: int, path: str, seconds: float) -> bytes:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=seconds) as answer:
        return bytes(answer.read())
