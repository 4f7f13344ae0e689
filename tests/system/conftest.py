"""The service as an operator runs it: lines of the Procfile, settings in the environment, a Redis and a Kafka."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Protocol
from uuid import uuid4

import pytest

from scripts.local_servers import HOST, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 40
STOP_SECONDS = 20
NOBODY_LISTENS = f"http://{HOST}:1/v1"


class Redis(Protocol):
    """What the whole run's Redis fixture gives."""

    @property
    def url(self) -> str: ...


class Kafka(Protocol):
    """What the whole run's Kafka fixture gives."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True)
class Service:
    """Where the running service is found; the web process at `queueing_port` answers nothing at once."""

    port: int
    queueing_port: int
    redis_url: str
    key_prefix: str
    kafka_servers: str


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis, kafka: Kafka) -> Iterator[Service]:
    """Two web processes and a worker with the mock provider; openai is configured, but nobody listens there."""
    prefix = f"system-{uuid4().hex}:"
    running = Service(free_port(), free_port(), redis_server.url, prefix, kafka.bootstrap_servers)
    settings = {
        "LLM_PROVIDER_REDIS_URL": running.redis_url,
        "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS": running.kafka_servers,
        "LLM_PROVIDER_KEY_PREFIX": running.key_prefix,
        "LLM_PROVIDER_WEB_PROCESSES": "1",
        "LLM_PROVIDER_OPENAI_API_KEY": "sk-nobody",
        "LLM_PROVIDER_OPENAI_BASE_URL": NOBODY_LISTENS,
        # It is asked once more, and its circuit stays closed, so that each test sees the provider's own error.
        "LLM_PROVIDER_PROVIDER_RETRY_SECONDS": "0.1",
        "LLM_PROVIDER_BREAKER_FAILURES": "1000",
    }
    logs = tmp_path_factory.mktemp("system")
    with ExitStack() as processes:
        processes.enter_context(run("worker", settings, logs / "worker.log"))
        processes.enter_context(run("web", settings | {"PORT": str(running.port)}, logs / "web.log"))
        queueing = {"PORT": str(running.queueing_port), "LLM_PROVIDER_SYNC_RESPONSES": "false"}
        processes.enter_context(run("web", settings | queueing, logs / "queueing-web.log"))
        ports = (running.port, running.queueing_port)
        assert wait_until(lambda: all(map(is_healthy, ports)), START_SECONDS), all_of(logs)
        yield running
    assert not (alarms := [line for line in all_of(logs).splitlines() if is_alarming(line)]), "\n".join(alarms)


@contextmanager
def run(name: str, settings: dict[str, str], log: Path) -> Iterator[None]:
    """One line of the Procfile, as a process manager starts and stops it; it ends in order."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["/bin/sh", "-c", lines[name]],
            cwd=ROOT,
            env=os.environ | {"PATH": path} | settings,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
        process.send_signal(SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, SIGKILL)
        process.wait()


def is_healthy(port: int) -> bool:
    with closing(http.client.HTTPConnection(HOST, port, timeout=2)) as connection, suppress(OSError):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    return False


def all_of(logs: Path) -> str:
    return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs.iterdir())


def is_alarming(line: str) -> bool:
    """Whether a line of a log is an error: nothing in these tests is one."""
    try:
        return json.loads(line).get("level") in {"error", "critical"}
    except ValueError:
        return "Traceback" in line
