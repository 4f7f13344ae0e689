"""An installation of real processes: a gunicorn, Celery workers, and whoever talks to them.

A process plays the container of a pytest-celery node, so that its clusters and setup work without a container engine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psutil
from pytest_celery import CeleryTestWorker

from scripts.local_servers import HOST, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 40.0
STOP_SECONDS = 20.0

# Whatever is left behind is taken up within seconds, so that a test need not wait longer.
QUICK_SETTINGS = {
    "LEASE_SECONDS": "2",
    "SWEEP_INTERVAL_SECONDS": "0.3",
    "REDISPATCH_AFTER_SECONDS": "2",
    "DELIVERY_RETRY_SECONDS": "0.3,0.6,1",
    "KAFKA_DELIVERY_TIMEOUT_SECONDS": "3",
    "KAFKA_MAX_BLOCK_SECONDS": "2",
    "WEB_PROCESSES": "1",
    "WEB_THREADS": "8",
    "WORKER_CONCURRENCY": "20",
    "OPENAI_API_KEY": "sk-of-a-local-server",
    # A provider that fails is asked once more, and not given up for what a test makes it do.
    "PROVIDER_RETRY_SECONDS": "0.2",
    "BREAKER_FAILURES": "1000",
}
LEASE_SECONDS = 2.0

# No log may ever hold it.
SECRET = "zebra-secret-zebra"


class LocalProcess:
    """One process in a session of its own; everything it prints goes to one log, over restarts too."""

    celeryconfig: dict[str, str] = {}  # noqa: RUF012 - A node's container has it; only servers say something here.

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], log: Path, prompt: str = ""
    ) -> None:
        self.name = self.id = name
        self.ready_prompt = prompt
        self._command = list(command)
        self._environment = environment
        self._log = log
        self._logged = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    @property
    def children(self) -> list[psutil.Process]:
        """What it has forked, at present."""
        return list(psutil.Process(self.pid).children(recursive=True))

    def start(self) -> None:
        """Start, and return before it is ready: several may come up side by side."""
        self._logged = len(self.logs())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> bool:
        """Wait until it answers; fails with its log when it ends or takes too long."""
        wait_until(lambda: self.status != "running" or self.answers(), START_SECONDS)
        assert self.status == "running", f"{self.name} ended at its start:\n{self.logs()}"
        assert self.answers(), f"{self.name} did not get ready:\n{self.logs()}"
        return True

    def answers(self) -> bool:
        return self.ready_prompt in self.logs()[self._logged :]

    def logs(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal and wait for the end; SIGKILL goes to the children, too, as with a machine that dies."""
        number = _number(signal)
        if number == _KILL:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)
        self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    def restart(self, timeout: float = STOP_SECONDS) -> None:
        if self.status == "running":
            self.kill("SIGTERM")
        self.start()
        self.ready()

    def reload(self) -> None:
        """A process has no state beside its own that could be stale."""

    def teardown(self) -> None:
        """End it with whatever it has forked; idempotent."""
        if self.status != "running":
            return
        os.kill(self.pid, signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.kill()


_KILL = signal.SIGKILL


def _number(given: str | int) -> int:
    return signal.Signals[given] if isinstance(given, str) else given


class WorkerProcess(LocalProcess):
    """`celery -A <app> worker`, with the names that a node of pytest-celery asks for."""

    worker_queue = staticmethod(lambda: "comparisons")
    log_level = staticmethod(lambda: "INFO")
    version = staticmethod(lambda: "as installed")

    def worker_name(self) -> str:
        return self.name


class ServerNode:
    """A Redis server as the container of a pytest-celery node."""

    def __init__(self, url: str) -> None:
        self.name = self.id = "redis"
        self.status = "running"
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self) -> bool:
        return True

    def teardown(self) -> None:
        """Whoever started the server stops it."""


class WebProcess(LocalProcess):
    """gunicorn on a port of its own, spoken to over connections of the test's own."""

    def __init__(self, name: str, app: str, environment: dict[str, str], log: Path) -> None:
        self.url = f"http://{HOST}:{(port := free_port())}"
        config = ["--config", "python:llm_provider.gunicorn_config", "--bind", f"{HOST}:{port}"]
        super().__init__(name, [sys.executable, "-m", "gunicorn", *config, app], environment, log)

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def post(self, body: dict[str, Any], **headers: str) -> httpx2.Response:
        return httpx2.post(f"{self.url}/api/v1/comparison", json=body, headers=headers, timeout=30)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", timeout=10)

    def status_of(self, queue_id: str) -> dict[str, Any]:
        answer = self.get(f"/api/v1/status/{queue_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@dataclass(frozen=True)
class Sent:
    """A request that was posted: the ids tell its event (by key) and its calls (in the provider's counts)."""

    correlation_id: UUID
    topic: str | None
    queue_id: str = ""

    @property
    def key(self) -> str:
        return str(self.correlation_id)


def comparison(correlation_id: UUID, topic: str | None, **fields: Any) -> dict[str, Any]:
    """A body that the provider's server counts under its correlation id."""
    return {
        "user_prompt": f"Which essay is better? id={correlation_id} {SECRET}",
        "essay_a": f"One side says this. {SECRET}",
        "essay_b": f"The other side says that. {SECRET}",
        "callback_topic": topic,
        "correlation_id": str(correlation_id),
        "llm_config_overrides": {"provider_override": "openai"},
        "metadata": {"essay": "4711"},
        **fields,
    }


@dataclass
class Installation:
    """Processes with the same settings, Redis keys and topics; what they logged is checked at the end."""

    directory: Path
    settings: dict[str, str]
    topic: str
    processes: list[LocalProcess] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)

    def worker(
        self, *options: str, fault: str | None = None, app: str = "celery_app", **settings: str
    ) -> CeleryTestWorker:
        """Start a worker; `ready()` waits for it. Options are Celery's, settings those of the service."""
        name = f"worker{len(self.processes)}"
        app = "tests.integration.faulty_worker" if fault else app
        celery = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO"]
        environment = self._environment(fault, settings)
        process = WorkerProcess(name, [*celery, "-n", f"{name}@%h", *options], environment, self._log(name), "ready.")
        self._start(process)
        return CeleryTestWorker(process, app=None)

    def pair(self, fault: str | None = None, **settings: str) -> list[CeleryTestWorker]:
        """Start two workers alike: of a fault the first to reach it dies, and the other one lives on."""
        return [self.worker(fault=fault, **settings) for _ in range(2)]

    def web(self, fault: str | None = None, **settings: str) -> WebProcess:
        """Start a web process; `ready()` waits for it."""
        app = "tests.integration.faulty_web:app" if fault else "llm_provider.wsgi:app"
        name = f"web{len(self.processes)}"
        process = WebProcess(name, app, self._environment(fault, settings), self._log(name))
        self._start(process)
        return process

    def send(self, web: WebProcess, topic: str | None = "", **fields: Any) -> Sent:
        """Post one request that is to be answered 202; without a topic given, its outcome goes to `self.topic`."""
        sent = self.try_to_send(web, topic, **fields)
        assert sent.queue_id, "the request was not accepted"
        return sent

    def try_to_send(self, web: WebProcess, topic: str | None = "", **fields: Any) -> Sent:
        """Post one request; without a queue id when the ledger is away, which is the one excuse."""
        correlation_id, wanted = uuid4(), self.topic if topic == "" else topic
        answer = web.post(comparison(correlation_id, wanted, **fields), Prefer="respond-async")
        assert answer.status_code in {202, 503}, answer.text
        return Sent(correlation_id, wanted, answer.json().get("queue_id", ""))

    def expect(self, *patterns: str) -> None:
        """Lines of a log that match one of these are what this test brings about, and no fault."""
        self.expected.extend(patterns)

    def teardown(self) -> None:
        """End all processes, the newest first; what they logged unexpectedly fails the test."""
        for process in reversed(self.processes):
            process.teardown()
        self.check_logs()

    def abandon(self) -> None:
        """The same for a test that has had its say: nobody waits for a shutdown in order."""
        for process in self.processes:
            if process.status == "running":
                process.kill()
        self.check_logs()

    def check_logs(self) -> None:
        """Fail when something was logged since the last check that no test expects."""
        complaints = [f"{process.name}: {line}" for process in self.processes for line in self._complaints(process)]
        assert not complaints, "Logged, and not expected by this test:\n" + "\n".join(complaints)

    def _start(self, process: LocalProcess) -> None:
        self.processes.append(process)
        process.start()

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _environment(self, fault: str | None, settings: dict[str, str]) -> dict[str, str]:
        given = {f"LLM_PROVIDER_{name}": value for name, value in {**self.settings, **settings}.items()}
        if fault is None:
            return given
        return given | {"FAULT_POINT": fault, "FAULT_MARKER": str(self.directory / f"{fault} was reached")}

    def _complaints(self, process: LocalProcess) -> Iterable[str]:
        logs = process.logs()
        new, self.read[process.name] = logs[self.read.get(process.name, 0) :], len(logs)
        for line in new.splitlines():
            told = SECRET in line or is_alarming(line)
            if told and not any(re.search(pattern, line) for pattern in self.expected):
                yield line


def is_alarming(line: str) -> bool:
    """Whether a line of a log is an error or shows a traceback."""
    try:
        entry = json.loads(line)
    except ValueError:
        return "Traceback (most recent call last)" in line or "Error" in line
    return entry.get("level") in {"error", "critical"} or "exception" in entry or "Traceback" in line


def all_ready(*nodes: LocalProcess | CeleryTestWorker) -> None:
    """Wait for processes that come up side by side."""
    for node in nodes:
        node.ready()


def eventually(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until the condition holds; the seconds it took. Fails with `what` when it took too long."""
    started = time.monotonic()
    assert wait_until(lambda: bool(condition()), seconds), f"not within {seconds:g} s: {what}"
    return time.monotonic() - started
