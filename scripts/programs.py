"""The programs of the Procfile, run from here: started, asked over HTTP, and stopped whatever interrupts us."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.local_servers import HOST, REPOSITORY

ANSWER_SECONDS = 30.0  # What a program may take to answer; it takes half a second.
STOP_SECONDS = 8.0  # What a program may take to stop before it is killed.


class ProgramError(Exception):
    """A program failed: a sentence for whoever runs it, and where there is one, the log that tells more."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log else ""


# Starting and stopping


def procfile(path: Path = REPOSITORY / "Procfile") -> dict[str, str]:
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
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, process, log)

    def check(self) -> None:
        if self.process.poll() is not None:
            raise ProgramError(f"{self.name} ended by itself with exit code {self.process.returncode}.", self.log)

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


# HTTP


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]

    def expect(self, status: int, what: str) -> "Answer":
        if self.status != status:
            detail = self.body.get("detail") or self.body
            raise ProgramError(f"{what} was answered {self.status} instead of {status}: {detail}")
        return self


@dataclass(frozen=True)
class Address:
    """A port on loopback that speaks HTTP; no proxy that the environment names is in the way."""

    port: int

    def __str__(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_SECONDS)
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
