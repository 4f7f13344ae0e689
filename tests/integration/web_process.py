"""A web process as the Procfile starts it, on a free port."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from scripts.local_servers import HOST, free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0

ESSAY = "An essay, marked essay-4712, that must never be seen in a log."


def procfile_line(name: str) -> str:
    """The command of one line of the Procfile."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def environment(settings: dict[str, str]) -> dict[str, str]:
    """What a process manager hands over: the environment's bin on the PATH, and these settings."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | settings


def comparison(**fields: Any) -> dict[str, Any]:
    """A body for the mock provider."""
    texts = {"user_prompt": "Which is better?", "essay_a": ESSAY, "essay_b": "Another essay."}
    return texts | {"llm_config_overrides": {"provider_override": "mock"}} | fields


class WebProcess:
    """gunicorn and its children; `stop` ends them and nothing else."""

    def __init__(self, directory: Path, settings: dict[str, str], stderr: int = subprocess.STDOUT) -> None:
        self._port = free_port()
        self.log = directory / f"web-{self._port}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", procfile_line("web")],
                cwd=ROOT,
                env=environment(settings | {"HOST": HOST, "PORT": str(self._port)}),
                stdout=log,
                stderr=stderr,
                start_new_session=True,
            )
        # One client for all: making one costs more time than some tests allow.
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=0)
        self._client = httpx2.Client(base_url=self.url, limits=limits, timeout=20.0)
        self._wait_until_it_answers()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def children(self) -> list[int]:
        """The process ids of gunicorn's workers."""
        return [child.pid for child in psutil.Process(self._process.pid).children()]

    def post(self, **fields: Any) -> httpx2.Response:
        """Post a comparison on a connection of its own."""
        return self._client.post("/api/v1/comparison", json=comparison(**fields))

    def get(self, path: str) -> httpx2.Response:
        return self._client.get(path)

    @property
    def connections(self) -> int:
        """How many callers are connected to it."""
        established = [
            each
            for child in self.children
            for each in psutil.Process(child).net_connections()
            if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == self._port
        ]
        return len(established)

    def terminate(self) -> None:
        """Ask it to end, and return at once."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """Its exit code; raises TimeoutExpired while it still runs."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """End it, the hard way if it must be; idempotent."""
        self._client.close()
        if self._process.poll() is not None:
            return
        self.terminate()
        try:
            self.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self.wait(5)

    def _wait_until_it_answers(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up and self._process.poll() is None:
            try:
                self.get("/healthz")
            except httpx2.TransportError:
                time.sleep(0.1)
            else:
                return
        self.stop()
        raise AssertionError(f"gunicorn did not start: {self.log.read_text()[-2000:]}")
