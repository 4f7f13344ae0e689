"""One run of a benchmark: start a chain afresh, warm it up, load it, count, and stop it."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from redis import Redis

from llm_provider.config import PREFIX
from scripts.bench_clients import Arrival, Post, Posted, request_body
from scripts.bench_figures import Run
from scripts.bench_provider import CALLS, OPEN
from scripts.local_servers import HOST, free_port
from scripts.programs import Address, Interrupts, Program, procfile, stop

TOPIC = "bench.results"
WEB_PROCESSES, WEB_THREADS = 2, 16
CONNECTIONS = WEB_PROCESSES * WEB_THREADS
WARM_UP = 40  # Requests in each of the two parts of a run that nothing else is measured in.
START_SECONDS = 60.0
QUIET_SECONDS = 30.0  # Without an event for so long, what has not come is lost.
SAMPLE_SECONDS = 0.5


class BenchError(Exception):
    """The benchmark cannot go on; a sentence."""


@dataclass(frozen=True)
class Chain:
    """How to start what is measured; addresses and numbers come from the environment, the same for all."""

    name: str
    web: str
    worker: str


SERVICE = Chain("service", procfile()["web"], procfile()["worker"])
BARE = Chain(
    "bare chain",
    "exec gunicorn --worker-class gthread --workers $LLM_PROVIDER_WEB_PROCESSES --threads $LLM_PROVIDER_WEB_THREADS"
    " --keep-alive 75 --no-control-socket --bind $HOST:$PORT scripts.bench_bare_chain:app",
    "exec celery -A scripts.bench_bare_chain:celery worker --loglevel INFO",
)


@dataclass(frozen=True)
class Case:
    """How long the provider takes, how many calls a worker makes at once, and the requests of each run."""

    key: str
    name: str
    provider_ms: int
    concurrency: int
    requests: int
    singles: int


@dataclass(frozen=True)
class Place:
    """What is there during the whole benchmark: the servers, and what stands for provider, caller and consumer."""

    environment: dict[str, str]
    redis: Redis
    interrupts: Interrupts
    logs: Path
    provider_port: int
    counts: "SynchronizedArray[Any]"  # The provider's, in shared memory.
    orders: Connection
    arrivals: Connection


def measure(place: Place, chain: Chain, case: Case, show: Callable[[int], None]) -> Run:
    """One run; `show` is told how many events are there."""
    trial = Trial(place, chain, case)
    place.redis.flushall()
    with ExitStack() as stack:
        stack.callback(stop, trial.programs)
        trial.warm_up()
        trial.one_at_a_time()
        trial.under_load(show)
    return trial.finished()


@dataclass
class Trial:
    """A chain while it is measured."""

    place: Place
    chain: Chain
    case: Case
    port: int = field(default_factory=free_port)
    programs: list[Program] = field(default_factory=list)
    awaited: set[str] = field(default_factory=set)
    arrived: list[Arrival] = field(default_factory=list)
    unexpected: int = 0
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.run = Run(self.chain.name, self.case.name)

    def warm_up(self) -> None:
        """The web process alone first: the scripts that run while there is no worker are its own."""
        self._start("web", self.chain.web)
        self._wait_until(lambda: Address(self.port).answers("/healthz"), "web")
        # Redis may not know the scripts yet; then the first call is made twice.
        self._post(WARM_UP)
        before = scripts_run(self.place.redis)
        self._post(WARM_UP)
        self.run.web_scripts = (scripts_run(self.place.redis) - before) / WARM_UP
        worker = self._start("worker", self.chain.worker)
        self._wait_until(lambda: worker.says("ready."), "worker")
        self._receive_all()

    def one_at_a_time(self) -> None:
        """The next request only when the last one's event is here."""
        self.arrived.clear()
        for _ in range(self.case.singles):
            self._post(1)
            self._receive_all()
        self.run.unloaded_ms = [arrival.milliseconds for arrival in self.arrived]

    def under_load(self, show: Callable[[int], None]) -> None:
        """As many requests as the web process takes, all at once."""
        self.arrived.clear()
        memory = Memory(self)

        def watch() -> None:
            memory.sample()
            show(len(self.arrived))

        before = Reading.of(self)
        self._order(self.case.requests)
        self._receive_all(watch)
        posted = self._posted(self.case.requests)
        self._note(posted, Reading.of(self) - before)
        self.run.in_flight, self.run.in_flight_kb = memory.most, memory.kb_per_call

    def finished(self) -> Run:
        if self.unexpected:
            self.run.troubles.append(f"{self.unexpected} events came twice")
        return self.run

    def _note(self, posted: Posted, spent: "Reading") -> None:
        run, count = self.run, self.case.requests
        run.accepted_per_second = posted.accepted / (posted.ended_ns - posted.started_ns) * 1e9
        last = max((arrival.arrived_ns for arrival in self.arrived), default=posted.ended_ns)
        run.end_to_end_per_second = len(self.arrived) / (last - posted.started_ns) * 1e9
        run.loaded_ms = [arrival.milliseconds for arrival in self.arrived if arrival.answered_ns]
        run.web_cpu_ms = spent.web_cpu / count * 1000
        run.worker_cpu_ms = spent.worker_cpu / count * 1000
        run.redis_cpu_ms = spent.redis_cpu / count * 1000
        run.others_share = spent.others_share
        run.messages = spent.messages / count
        run.worker_scripts = spent.scripts / count - run.web_scripts
        if len(run.loaded_ms) != len(self.arrived):
            run.troubles.append(f"{len(self.arrived) - len(run.loaded_ms)} events told of an error")
        if spent.calls != count:
            run.troubles.append(f"{count} requests made {spent.calls} calls to the provider")

    def _start(self, name: str, command: str) -> Program:
        logs = self.place.logs / f"{self.chain.name} {self.case.key}".replace(" ", "-")
        logs.mkdir(exist_ok=True)
        with self.place.interrupts.held():
            program = Program.start(name, command, self._environment(), logs)
            self.programs.append(program)
        return program

    def _environment(self) -> dict[str, str]:
        return self.place.environment | {
            "PORT": str(self.port),
            "LLM_PROVIDER_OPENAI_API_KEY": "local",
            "LLM_PROVIDER_OPENAI_BASE_URL": f"http://{HOST}:{self.place.provider_port}/{self.case.provider_ms}/v1",
            "LLM_PROVIDER_WEB_PROCESSES": str(WEB_PROCESSES),
            "LLM_PROVIDER_WEB_THREADS": str(WEB_THREADS),
            "LLM_PROVIDER_WORKER_CONCURRENCY": str(self.case.concurrency),
        }

    def _check(self) -> None:
        for program in self.programs:
            program.check()

    def _wait_until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self._check()
            if time.monotonic() > deadline:
                raise BenchError(f"The {what} of the {self.chain.name} was not ready in time; see {self.place.logs}.")
            time.sleep(0.02)

    def _post(self, count: int) -> None:
        self._order(count)
        self._posted(count)

    def _order(self, count: int) -> None:
        keys = [str(uuid4()) for _ in range(count)]
        self.awaited.update(keys)
        bodies = [request_body(key, TOPIC) for key in keys]
        self.place.orders.send(Post(self.port, bodies, min(count, CONNECTIONS)))

    def _posted(self, count: int) -> Posted:
        orders = self.place.orders
        self._wait_until(lambda: orders.poll(0.1), "client")
        report: Posted = orders.recv()
        if report.accepted != count:
            self.run.troubles.append(f"of {count} requests these were answered, by status: {dict(report.statuses)}")
        return report

    def _receive_all(self, watch: Callable[[], None] = lambda: None) -> None:
        """Until every event is here; when none comes for long, what is missing is lost."""
        last = time.monotonic()
        while self.awaited and time.monotonic() - last < QUIET_SECONDS + self.case.provider_ms / 1000:
            if self.place.arrivals.poll(0.1):
                self._take(self.place.arrivals.recv())
                last = time.monotonic()
            else:
                self._check()
            watch()
        if self.awaited:
            self.run.troubles.append(f"{len(self.awaited)} events did not come")
            self.awaited.clear()

    def _take(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.unexpected += arrival.key not in self.awaited
            self.awaited.discard(arrival.key)
        self.arrived += arrivals


@dataclass(frozen=True)
class Reading:
    """Counters of all processes at one moment; CPU in seconds."""

    at: float
    machine_cpu: float
    our_cpu: float
    web_cpu: float
    worker_cpu: float
    redis_cpu: float
    scripts: int
    messages: int
    calls: int

    @classmethod
    def of(cls, trial: Trial) -> "Reading":
        web, worker = trial.programs
        redis = trial.place.redis.info("cpu")
        machine = psutil.cpu_times()
        return cls(
            at=time.monotonic(),
            machine_cpu=machine.user + machine.nice + machine.system,
            our_cpu=cpu_seconds(os.getpid()),
            web_cpu=cpu_seconds(web.process.pid),
            worker_cpu=cpu_seconds(worker.process.pid),
            redis_cpu=redis["used_cpu_user"] + redis["used_cpu_sys"],
            scripts=scripts_run(trial.place.redis),
            messages=commands_run(trial.place.redis, "lpush", "rpush"),
            calls=trial.place.counts[CALLS],
        )

    @property
    def others_share(self) -> float:
        """The percentage of the machine's CPU that went to programs that are none of ours."""
        cores: int = psutil.cpu_count()
        return 100 * (self.machine_cpu - self.our_cpu) / (self.at * cores)

    def __sub__(self, before: "Reading") -> "Reading":
        return Reading(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


def scripts_run(redis: Redis) -> int:
    return commands_run(redis, "evalsha", "eval", "fcall")


def commands_run(redis: Redis, *names: str) -> int:
    """How often one of these Redis commands was run so far, by whomever."""
    commands = redis.info("commandstats")
    return sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


def processes(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all that it started, and those of them that have ended."""
    return float(sum(sum(process.cpu_times()[:4]) for process in processes(pid)))


class Memory:
    """What is held beyond the idle state, at the moment of the most calls in flight.

    The processes' part is divided by the calls in flight, and Redis's by the open requests, most of which wait.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._idle_processes, self._idle_redis = self._processes(), self._redis()
        self._next = 0.0
        self.most = 0
        self.kb_per_call = float("nan")

    def sample(self) -> None:
        if not self._is_time():
            return
        in_flight = self._trial.place.counts[OPEN]
        if in_flight > self.most:
            processes, redis = self._processes() - self._idle_processes, self._redis() - self._idle_redis
            self.most = in_flight
            self.kb_per_call = (processes / in_flight + redis / len(self._trial.awaited)) / 1024
        self._next = time.monotonic() + SAMPLE_SECONDS

    def _is_time(self) -> bool:
        # A provider that answers at once never has enough calls in flight to judge by, and until the last request is
        # accepted nobody knows how many are open.
        all_accepted = self._trial.case.provider_ms and self._trial.place.orders.poll()
        return bool(all_accepted and self._trial.awaited and time.monotonic() > self._next)

    def _processes(self) -> int:
        return sum(_held(process) for program in self._trial.programs for process in processes(program.process.pid))

    def _redis(self) -> int:
        return int(self._trial.place.redis.info("memory")["used_memory"])


def _held(process: psutil.Process) -> int:
    """Its share of what is shared included, where the system knows it (Linux); else its own memory alone."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.uss))


def plain_environment() -> dict[str, str]:
    """Ours without any setting of the service's, and with our Python's programs first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return kept | {"PATH": path, "HOST": HOST, "PYTHONUNBUFFERED": "1"}
