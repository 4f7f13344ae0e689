"""The whole chain on real parts, to look at: `make demo`; KEEP=1 keeps it running until Ctrl-C.

Starts a Redis and a Kafka where none is configured, then what the Procfile names, compares essays in the
three ways a client may ask (called back, at once, by polling), and stops all it started.
"""

import http.client
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from uuid import UUID, uuid4

if __name__ == "__main__":
    # Until there is something to clean up, Ctrl-C may end us at once, and without a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Run as a script, Python would look for our modules in scripts/ only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError
from redis import Redis, RedisError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.consumer import Event, results
from scripts.local_servers import (
    KafkaBroker,
    LocalServer,
    RedisServer,
    ServerError,
    configured_elsewhere,
    free_port,
    kafka_jars,
    kafka_jars_path,
    local_servers,
    without_password,
)

ROOT = Path(__file__).resolve().parent.parent
ESSAYS = ROOT / "examples" / "essays"
LOGS = ROOT / ".local" / "demo"
LOGS_KEPT = 5  # Runs whose logs are kept.
LOOPBACK = "127.0.0.1"

CALLBACKS, SYNCHRONOUS, POLLED = 12, 4, 2
MOCK_LATENCY_MS = 400  # So that the stages can be told apart; a real model takes longer.

START_SECONDS = 60.0  # A cold machine with two busy cores needs some of it, a warm one 3.
ANSWER_SECONDS = 30.0  # From the last request to the last answer; they take half a second.
STOP_SECONDS = 8.0  # What a program may take to stop before it is killed.
POLL_SECONDS = 0.05

How = Literal["callback", "at once", "polled"]


class DemoError(Exception):
    """The demo failed: a sentence for whoever runs it, and where there is one, the log that tells more."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log else ""


# Signals


class Interrupted(KeyboardInterrupt):
    """Somebody asked us to stop, by Ctrl-C or by a signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Raises Interrupted once, and never between starting something and noting that it must be stopped."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: int | None = None
        self._over = False

    def install(self) -> None:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._received)

    def _received(self, signum: int, _frame: FrameType | None) -> None:
        if self._over:
            return
        if self._held:
            self._waiting = signum
            return
        self._over = True
        raise Interrupted(signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            self._received(self._waiting, None)

    def ignore(self) -> None:
        """From here on we only clean up: that is short, and must not be cut off half way."""
        self._over = True


# The programs of the Procfile


def procfile(path: Path = ROOT / "Procfile") -> dict[str, str]:
    """Name to command line."""
    lines = (line.partition(":") for line in path.read_text().splitlines() if line.strip() and line[0] != "#")
    return {name.strip(): command.strip() for name, _, command in lines}


@dataclass(frozen=True)
class Program:
    """A line of the Procfile, in a session of its own so that all it starts can be stopped with it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: str, environment: Mapping[str, str], logs: Path) -> "Program":
        log = logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, process, log)

    def check(self) -> None:
        if self.process.poll() is not None:
            raise DemoError(f"{self.name} ended by itself with exit code {self.process.returncode}.", self.log)

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def signal(self, signum: int) -> None:
        # The group may have members left when its first process has ended.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)


def stop(programs: list[Program], seconds: float = STOP_SECONDS) -> None:
    """Ask all of them at once, and kill whatever has not ended in time."""
    for program in programs:
        program.signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for program in programs:
        with suppress(subprocess.TimeoutExpired):
            program.process.wait(max(0.0, deadline - time.monotonic()))
        program.signal(signal.SIGKILL)
        program.process.wait()


# HTTP


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]

    def expect(self, status: int, what: str) -> "Answer":
        if self.status != status:
            detail = self.body.get("detail") or self.body
            raise DemoError(f"{what} was answered {self.status} instead of {status}: {detail}")
        return self


@dataclass(frozen=True)
class Address:
    """A port on loopback that speaks HTTP; no proxy that the environment names is in the way."""

    port: int

    def __str__(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=ANSWER_SECONDS)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return Answer(response.status, _json_object(response.read()))
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        try:
            return self.ask("GET", path).status == 200
        except (OSError, http.client.HTTPException):
            return False


def _json_object(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        parsed = json.loads(content)
        if isinstance(parsed, dict):
            return parsed
    return {"detail": content.decode(errors="replace")[:200]}


# The comparisons


@dataclass
class Comparison:
    """One request of the demo, and what became of it."""

    essays: tuple[Path, Path]
    how: How
    topic: str | None = None
    queue_id: str = ""
    winner: str = ""
    confidence: float | None = None
    provider: str = ""
    answer_ms: float | None = None  # From acceptance to answer.
    event_ms: float | None = None  # From the answer to the event's arrival here.
    problem: str = "no answer"  # Empty once all is well.

    @property
    def names(self) -> str:
        return " : ".join(map(number, self.essays))

    def body(self) -> dict[str, object]:
        essay_a, essay_b = (essay.read_text() for essay in self.essays)
        prompt = (ESSAYS / "assignment.md").read_text() + "\nWhich of the two essays is better?"
        return {
            "user_prompt": prompt,
            "essay_a": essay_a,
            "essay_b": essay_b,
            "callback_topic": self.topic,
            "metadata": {"essays": [essay.stem for essay in self.essays]},
        }

    def answered(self, answer: Mapping[str, Any], answer_ms: float) -> None:
        """Note a verdict: it stands under the same names in an event and in an answer on HTTP."""
        self.winner = number(self.essays[("Essay A", "Essay B").index(answer["winner"])])
        self.confidence, self.provider, self.answer_ms = answer["confidence"], answer["provider"], answer_ms
        self.problem = ""

    def arrived(self, topic: str, event: Event) -> None:
        now, result = datetime.now(UTC), event.data
        if result.error_detail:
            self.problem = f"failed with {result.error_detail.error_code}: {result.error_detail.message}"
        elif topic != self.topic:
            self.problem = f"came on {topic} instead of {self.topic}"
        else:
            self.event_ms = (now - result.completed_at).total_seconds() * 1000
            asked_for = (result.completed_at - result.requested_at).total_seconds() * 1000
            self.answered(result.model_dump(mode="json"), asked_for)

    def line(self) -> str:
        if self.problem:
            return f"{self.how:9} essays {self.names}  {self.problem}"
        return f"{self.how:9} essays {self.names}  {self.winner} wins, confidence {self.confidence:.1f}"


def number(essay: Path) -> str:
    return essay.stem.removeprefix("essay-")


def comparisons(topics: list[str]) -> list[Comparison]:
    """Different pairs of essays, drawn evenly, in changing order."""
    counts: dict[How, int] = {"callback": CALLBACKS, "at once": SYNCHRONOUS, "polled": POLLED}
    ways = [how for how, count in counts.items() for _ in range(count)]
    pairs = list(combinations(sorted(ESSAYS.glob("essay-*.md")), 2))
    drawn = pairs[:: len(pairs) // len(ways)]
    return [
        Comparison(
            pair if index % 2 else pair[::-1],
            how,
            topics[index % len(topics)] if how == "callback" else None,
        )
        for index, (pair, how) in enumerate(zip(drawn, ways, strict=False))
    ]


def post(api: Address, comparison: Comparison, status: int, **headers: str) -> Answer:
    return api.ask("POST", "/api/v1/comparison", comparison.body(), **headers).expect(status, "the request")


def ask_for_callback(api: Address, comparison: Comparison) -> None:
    comparison.queue_id = str(post(api, comparison, 202).body["queue_id"])
    comparison.problem = "accepted, but its event did not arrive"


def ask_at_once(api: Address, comparison: Comparison) -> None:
    begin = time.monotonic()
    answer = post(api, comparison, 200)
    comparison.answered(answer.body, (time.monotonic() - begin) * 1000)


def ask_and_poll(api: Address, comparison: Comparison) -> None:
    queue_id = str(post(api, comparison, 202, Prefer="respond-async").body["queue_id"])
    begin = time.monotonic()
    while not result_available(api, queue_id):
        if time.monotonic() - begin > ANSWER_SECONDS:
            raise DemoError(f"request {queue_id} was accepted, but its result did not come")
        time.sleep(POLL_SECONDS)
    answer = api.ask("GET", f"/api/v1/results/{queue_id}").expect(200, "the result")
    comparison.answered(answer.body, (time.monotonic() - begin) * 1000)


def result_available(api: Address, queue_id: str) -> bool:
    status = api.ask("GET", f"/api/v1/status/{queue_id}").expect(200, "the question for the status").body
    if status["status"] in ("failed", "expired"):
        raise DemoError(f"{status['status']}: {status.get('error_message')}")
    return bool(status["result_available"])


ASK: dict[How, Callable[[Address, Comparison], None]] = {
    "callback": ask_for_callback,
    "at once": ask_at_once,
    "polled": ask_and_poll,
}


# What is shown


Show = Callable[[Comparison], None]


class Screen:
    """A progress display on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = 120
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Say what begins, then how long it took, so that nobody looks at silence."""
        begin = time.monotonic()
        self.console.print(f"{text} ... ", end="", markup=False, soft_wrap=True)
        self.console.file.flush()
        outcome = "failed"
        try:
            yield
            outcome = f"{time.monotonic() - begin:.1f} s"
        finally:
            self.say(outcome)

    @contextmanager
    def awaiting(self, total: int) -> Iterator[Show]:
        """What to call with each answer; one that comes when nobody waits any more is not shown."""
        task = self.progress.add_task("answers", total=total)
        waiting = threading.Event()
        waiting.set()

        def show(comparison: Comparison) -> None:
            if waiting.is_set():
                self.say(comparison.line())
                self.progress.advance(task)

        try:
            with self.progress:
                yield show
        finally:
            waiting.clear()

    def table(self, asked: list[Comparison]) -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for title in ("essays", "asked", "winner", "confidence", "provider"):
            table.add_column(title, no_wrap=True)
        for title in ("accept to\nanswer, ms", "answer to\nevent, ms"):
            table.add_column(title, justify="right")
        for one in asked:
            row = [one.names, one.how, one.winner or "missing", _number(one.confidence, 1), one.provider]
            table.add_row(*row, _number(one.answer_ms), _number(one.event_ms))
        self.console.print(table)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def verdict(asked: list[Comparison]) -> str:
    """One line when all is well; otherwise a DemoError that names what is missing."""
    problems = [f"essays {one.names} ({one.how}): {one.problem}" for one in asked if one.problem]
    if problems:
        raise DemoError(f"{len(problems)} of {len(asked)} comparisons went wrong:\n  " + "\n  ".join(problems))
    events = [one.event_ms for one in asked if one.event_ms is not None]
    topics = {one.topic for one in asked if one.topic}
    ways = Counter(one.how for one in asked)
    return (
        f"All {len(asked)} comparisons answered: {len(events)} as events on {len(topics)} topics "
        f"(median {statistics.median(events):.0f} ms after the answer), "
        f"{ways['at once']} at once, {ways['polled']} by polling."
    )


# The run


@dataclass(frozen=True)
class Demo:
    """What a run has to hand: where it shows, what stops with it, who may interrupt it, where it logs."""

    screen: Screen
    stack: ExitStack
    interrupts: Interrupts
    logs: Path
    name: str  # Also the prefix of its topics and Redis keys, so that no run sees another's leftovers.
    programs: list[Program] = field(default_factory=list)
    servers: list[LocalServer] = field(default_factory=list)

    @property
    def topics(self) -> list[str]:
        return [f"{self.name}.class-7a", f"{self.name}.class-7b"]

    def start(self, program: str, environment: Mapping[str, str], *arguments: str) -> Program:
        command = " ".join([procfile()[program], *arguments])
        with self.interrupts.held():
            started = Program.start(program, command, environment, self.logs)
            self.programs.append(started)
        return started

    def check(self) -> None:
        for program in self.programs:
            program.check()
        for server in self.servers:
            if server.pid is None:
                raise DemoError(f"{server.name} ended by itself.", server.log)

    def wait_until(self, ready: Callable[[], bool], what: str, log: Path | None = None) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what} was not ready within {START_SECONDS:.0f} s.", log)
            time.sleep(POLL_SECONDS)


def run(demo: Demo) -> None:
    begin = time.monotonic()
    environment = {**os.environ, **servers(demo), **settings(demo)}
    demo.stack.callback(tidy, demo, environment)
    demo.stack.callback(stop, demo.programs)
    create_topics(demo, environment)
    api, flower = start_programs(demo, environment)
    consumer = subscribe(demo, environment)
    demo.screen.say(f"The API listens on {api}, flower on {flower}; logs are in {demo.logs.relative_to(ROOT)}.")
    warm_up(demo, api, consumer)
    asked = comparisons(demo.topics)
    compare(demo, api, consumer, asked)
    demo.screen.table(asked)
    demo.screen.say(f"{verdict(asked)} {time.monotonic() - begin:.1f} s.")
    if os.environ.get("KEEP") == "1":
        keep(demo, api, environment)


def servers(demo: Demo) -> dict[str, str]:
    """The addresses of Redis and Kafka: the user's, else those that `scripts/services up` left, else ours."""
    return {server.variable: address_of(demo, server) for server in local_servers()}


def address_of(demo: Demo, server: LocalServer) -> str:
    if theirs := configured_elsewhere(server):
        if not server.answers_at(theirs):
            raise DemoError(f"{server.variable} is set to {without_password(theirs)}; nothing answers there.")
        demo.screen.say(f"{server.name}: yours, at {without_password(theirs)}")
        return theirs
    if server.ready():
        demo.screen.say(f"{server.name}: runs already, at {server.address}")
        return server.address
    return start_server(demo, type(server))


def start_server(demo: Demo, kind: type[LocalServer]) -> str:
    """One of our own, so that two runs at once do not stop each other's."""
    if kind is KafkaBroker and not kafka_jars_path().is_dir():
        with demo.screen.step("Fetching Kafka (44 MB, once)"):
            kafka_jars()
    with demo.screen.step(f"Starting {kind.name}"):
        server = kind(demo.logs / kind.name.lower())
        demo.stack.callback(server.stop)
        server.start()
    demo.servers.append(server)
    return server.address


def settings(demo: Demo) -> dict[str, str]:
    """What the demo sets besides the servers; HOST and PORT too, which some shells set to something of theirs."""
    return {
        "HOST": LOOPBACK,
        "PORT": str(free_port()),
        "FLOWER_HOST": LOOPBACK,
        "FLOWER_PORT": str(free_port()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "LLM_PROVIDER_KEY_PREFIX": f"{demo.name}:",
        "LLM_PROVIDER_DEFAULT_PROVIDER": "mock",
        "LLM_PROVIDER_MOCK_ENABLED": "true",
        "LLM_PROVIDER_MOCK_ERROR_RATE": "0",
        "LLM_PROVIDER_MOCK_LATENCY_MS": str(MOCK_LATENCY_MS),
        "LLM_PROVIDER_SYNC_RESPONSES": "true",
        "LLM_PROVIDER_ALLOWED_CALLBACK_TOPICS": "*",
    }


def create_topics(demo: Demo, environment: Mapping[str, str]) -> None:
    """The release line creates the service's own topics, and those whose names follow: here our callers'."""
    with demo.screen.step("Creating topics"):
        release = demo.start("release", environment, *demo.topics)
        with suppress(subprocess.TimeoutExpired):
            release.process.wait(START_SECONDS)
        if release.process.returncode != 0:
            raise DemoError("The release line of the Procfile failed.", release.log)
        demo.programs.remove(release)


def brokers(environment: Mapping[str, str]) -> list[str]:
    return environment[KafkaBroker.variable].split(",")


def tidy(demo: Demo, environment: Mapping[str, str]) -> None:
    """Take the run's topics and keys off servers that stay; those may also be gone by now."""
    ours = {server.variable for server in demo.servers}
    if KafkaBroker.variable not in ours:
        delete_topics(demo, environment)
    if RedisServer.variable not in ours:
        delete_keys(demo, environment)


def delete_topics(demo: Demo, environment: Mapping[str, str]) -> None:
    with suppress(KafkaError):
        kafka = KafkaAdminClient(bootstrap_servers=brokers(environment), bootstrap_timeout_ms=5000)
        with closing(kafka):
            kafka.delete_topics(demo.topics)


def delete_keys(demo: Demo, environment: Mapping[str, str]) -> None:
    address = environment[RedisServer.variable]
    with suppress(RedisError), Redis.from_url(address, socket_timeout=5) as redis:
        for key in redis.scan_iter(match=f"{demo.name}:*", count=1000):
            redis.delete(key)


def subscribe(demo: Demo, environment: Mapping[str, str]) -> KafkaConsumer:
    consumer = KafkaConsumer(
        *demo.topics,
        bootstrap_servers=brokers(environment),
        group_id=demo.name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    demo.stack.callback(consumer.close, timeout_ms=2000)

    def joined() -> bool:
        consumer.poll(timeout_ms=50)
        return bool(consumer.assignment())

    # An event that comes earlier would wait, and its time of arrival say nothing.
    demo.wait_until(joined, "the consumer")
    return consumer


def start_programs(demo: Demo, environment: Mapping[str, str]) -> tuple[Address, Address]:
    api, flower = Address(int(environment["PORT"])), Address(int(environment["FLOWER_PORT"]))
    with demo.screen.step("Starting web, worker and flower"):
        for name in ("web", "worker", "flower"):
            demo.start(name, environment)
        web, worker, monitor = demo.programs
        demo.wait_until(lambda: api.answers("/healthz"), "web", web.log)
        demo.wait_until(lambda: worker.says("ready."), "worker", worker.log)
        demo.wait_until(lambda: flower.answers("/healthcheck"), "flower", monitor.log)
    return api, flower


def warm_up(demo: Demo, api: Address, consumer: KafkaConsumer) -> None:
    """The first event on a topic opens connections; the times shown are those of a service that runs already."""
    with demo.screen.step("Sending a first event to each topic"):
        first = comparisons(demo.topics)[: len(demo.topics)]
        for one in first:
            ask_for_callback(api, one)
        collect(demo, consumer, {one.queue_id: one for one in first}, show=lambda _: None)
        verdict(first)


def compare(demo: Demo, api: Address, consumer: KafkaConsumer, asked: list[Comparison]) -> None:
    """Ask all at the same time; events are awaited here, the other answers each in a thread of its own."""
    callbacks = [one for one in asked if one.how == "callback"]
    demo.screen.say(f"Comparing {len(asked)} pairs of essays, {len(callbacks)} of them answered by an event ...")
    with demo.screen.awaiting(len(asked)) as show:
        others = [in_background(api, one, show) for one in asked if one.how != "callback"]
        for one in callbacks:
            ask(api, one)
        collect(demo, consumer, {one.queue_id: one for one in callbacks if one.queue_id}, show)
        for thread in others:
            thread.join(ANSWER_SECONDS)


def ask(api: Address, comparison: Comparison) -> None:
    try:
        ASK[comparison.how](api, comparison)
    except DemoError as error:
        comparison.problem = str(error)
    except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
        comparison.problem = f"{type(error).__name__}: {error}"


def in_background(api: Address, comparison: Comparison, show: Show) -> threading.Thread:
    def ask_and_show() -> None:
        ask(api, comparison)
        show(comparison)

    # A daemon, so that a request without an answer cannot keep us from ending.
    thread = threading.Thread(target=ask_and_show, daemon=True)
    thread.start()
    return thread


def collect(demo: Demo, consumer: KafkaConsumer, awaited: dict[str, Comparison], show: Show) -> None:
    """Until every event is here, or time is up; `awaited` goes by queue id."""
    handled: set[UUID] = set()
    deadline = time.monotonic() + ANSWER_SECONDS
    while awaited and time.monotonic() < deadline:
        for topic, event in results(consumer, handled, wait_ms=250):
            comparison = awaited.pop(event.data.request_id, None)
            if comparison:
                comparison.arrived(topic, event)
                show(comparison)
        demo.check()


def keep(demo: Demo, api: Address, environment: Mapping[str, str]) -> None:
    body = {
        "user_prompt": "Which essay is better?",
        "essay_a": "Sleep is good.",
        "essay_b": "I think so, because ...",
    }
    called_back = json.dumps(body | {"callback_topic": demo.topics[0]})
    kafka = ",".join(brokers(environment))
    demo.screen.say(
        f"""
Still running, until Ctrl-C. An answer at once:
  curl -s {api}/api/v1/comparison -H 'Content-Type: application/json' -d '{json.dumps(body)}'
An answer as an event, and a consumer to see it:
  curl -s {api}/api/v1/comparison -H 'Content-Type: application/json' -d '{called_back}'
  KAFKA_BOOTSTRAP_SERVERS={kafka} {sys.executable} examples/consumer.py {demo.topics[0]}
"""
    )
    with suppress(Interrupted):  # The way this is meant to end.
        while True:
            demo.check()
            time.sleep(0.5)


def guarded(run_it: Callable[[Demo], None]) -> int:
    """Run, clean up whatever happens, and say what happened in words; the exit code."""
    # What kafka-python would tell us is told by us, or by the servers' logs.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    screen, interrupts = Screen(), Interrupts()
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    logs = new_logs(name)
    try:
        with ExitStack() as stack:
            demo = Demo(screen, stack, interrupts, logs, name)
            try:
                interrupts.install()
                run_it(demo)
            finally:
                interrupts.ignore()
                screen.say("Stopping what was started ...")
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (DemoError, ServerError) as error:
        report(screen, error)
    except Exception as error:
        (logs / "demo.log").write_text(traceback.format_exc())
        report(screen, DemoError(f"{type(error).__name__}: {error} (the trace is in {logs / 'demo.log'})"))
    else:
        return 0
    return 1


def new_logs(name: str) -> Path:
    """A directory for this run; the oldest go, so that demos do not fill the disk."""
    LOGS.mkdir(parents=True, exist_ok=True)
    earlier = sorted((directory for directory in LOGS.iterdir() if directory.is_dir()), reverse=True)
    for directory in earlier[LOGS_KEPT - 1 :]:
        shutil.rmtree(directory, ignore_errors=True)
    (LOGS / name).mkdir()
    return LOGS / name


def report(screen: Screen, error: DemoError | ServerError) -> None:
    screen.say(f"The demo failed. {error}")
    if isinstance(error, DemoError) and error.log:
        screen.say(f"The last lines of {error.log.relative_to(ROOT)}:")
        screen.say(error.tail())


if __name__ == "__main__":
    sys.exit(guarded(run))
