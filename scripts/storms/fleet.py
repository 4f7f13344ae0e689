"""The processes of a storm: each in a session of its own, watched, and started again by whoever ended it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.local_servers import REPOSITORY
from scripts.programs import Interrupts

LAST_LINES = 15


@dataclass(frozen=True)
class Line:
    """How a process is started: its command, run by sh, and what its environment has beside the others'."""

    command: str
    environment: Mapping[str, str]


class StormOver(Exception):
    """The storm is being stopped: nothing more is started."""


class Fleet:
    """Named processes; a thread that breaks one says so first, so that what ends otherwise is a death."""

    def __init__(self, environment: Mapping[str, str], logs: Path, interrupts: Interrupts) -> None:
        self._environment = environment
        self._logs = logs
        self._interrupts = interrupts
        self._lines: dict[str, Line] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._handled: set[str] = set()
        self._lock = threading.RLock()
        self._over = False

    def add(self, name: str, line: Line) -> None:
        """Start a process for the first time."""
        self._lines[name] = line
        self.start(name)

    def start(self, name: str) -> None:
        """Start a process of which the line is known; raises StormOver once the fleet is stopped."""
        line = self._lines[name]
        with self._lock:
            if self._over:
                raise StormOver
            self._running[name] = self._spawn(name, line)

    def _spawn(self, name: str, line: Line) -> subprocess.Popen[bytes]:
        with self._held(), self.log(name).open("ab") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", line.command],
                cwd=REPOSITORY,
                env={**self._environment, **line.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        # Only the main thread is interrupted, and so only it must not be between starting and noting.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with self._interrupts.held():
            yield

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def says(self, name: str, text: str, times: int = 1) -> bool:
        """Whether the process has logged the text that often, over all its lives."""
        log = self.log(name)
        return log.exists() and log.read_text(errors="replace").count(text) >= times

    def lives(self, name: str) -> bool:
        return self._running[name].poll() is None

    @contextmanager
    def handling(self, name: str) -> Iterator[None]:
        """While the block runs the process may end without being a death."""
        with self._lock:
            self._handled.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._handled.discard(name)

    def deaths(self) -> Iterator[str]:
        """What ended by itself since the last look, in words; each is started again, as a supervisor would."""
        with self._lock:
            if self._over:
                return
            names = [name for name in self._running if name not in self._handled and not self.lives(name)]
            for name in names:
                yield f"{name} (exit code {self._running[name].returncode})\n{self.last_lines(name)}"
                self.start(name)

    def last_lines(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-LAST_LINES:])

    def kill_all_of(self, name: str) -> None:
        """kill -9 of a process and all it started."""
        self.signal(name, signal.SIGKILL)
        self._running[name].wait()

    def signal(self, name: str, signum: int) -> None:
        """To a process and all it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._running[name].pid, signum)

    def kill_main_of(self, name: str) -> None:
        """kill -9 of the first process alone; what it started may live on."""
        process = self._running[name]
        process.kill()
        process.wait()

    def kill_child_of(self, name: str, which: int) -> bool:
        """kill -9 of one child; False when there is none."""
        children = self.children(name)
        if children:
            with suppress(psutil.Error):
                children[which % len(children)].kill()
        return bool(children)

    def children(self, name: str) -> list[psutil.Process]:
        try:
            return sorted(psutil.Process(self._running[name].pid).children(), key=lambda child: child.pid)
        except psutil.Error:
            return []

    def is_left_over(self, name: str) -> bool:
        """Whether anything of the process's group is still there."""
        try:
            os.killpg(self._running[name].pid, 0)
        except ProcessLookupError:
            return False
        return True

    def terminate(self, name: str, seconds: float, stopped: threading.Event) -> int | None:
        """SIGTERM, and the exit code; None when it had not ended in time and was killed."""
        process, begin = self._running[name], time.monotonic()
        process.terminate()
        while process.poll() is None:
            if stopped.wait(0.05):
                raise StormOver
            if time.monotonic() - begin > seconds:
                self.kill_all_of(name)
                return None
        return process.returncode

    def stop(self, seconds: float) -> None:
        """End everything, asking first; nothing is started any more."""
        with self._lock:
            self._over = True
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + seconds
        for name, process in self._running.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            self.kill_all_of(name)
