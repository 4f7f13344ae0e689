"""What every local server can do: start, stop, and the ways in which a server fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import psutil

from scripts.local_servers.errors import PortTakenError, ServerError
from scripts.local_servers.ports import free_port
from scripts.local_servers.processes import is_server_of, read_number, spawn
from scripts.local_servers.server_log import last_lines, quoted
from scripts.local_servers.waiting import PROBE_SECONDS, wait_until
from scripts.local_servers.ways_on import WaysOn

PORT_ATTEMPTS = 5


class LocalServer:
    """One server process on loopback, told apart from others by its directory.

    Without a port it takes the one remembered in its directory, else a free one, and keeps it over restarts.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    default_port: ClassVar[int]
    ways_on: ClassVar[WaysOn]
    start_seconds: ClassVar[float]
    stop_seconds: ClassVar[float]

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = Path(directory).resolve()
        self._keeps_port = port is not None
        self._child: int | None = None
        self.port = port or self.remembered_port or free_port()

    # What differs between servers.

    @property
    def config(self) -> Path:
        """The file the server is started with; its path in a command line tells the server's process."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """What a client is told."""
        raise NotImplementedError

    def _prepare(self) -> list[str]:
        """Write what the server reads at its start; its command line."""
        raise NotImplementedError

    def _answers(self, pid: int) -> bool:
        """Whether this very server answers, and not another one that was given the same port."""
        raise NotImplementedError

    @staticmethod
    def answers_at(address: str) -> bool:
        """Whether a server of this kind, anyone's, answers there."""
        raise NotImplementedError

    # What is the same for all.

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def remembered_port(self) -> int | None:
        """Where the server of this directory listened last."""
        return read_number(self._port_file)

    @property
    def pid(self) -> int | None:
        """None when the server does not run."""
        process = self._process()
        return None if process is None else int(process.pid)

    @property
    def uptime(self) -> float | None:
        """Seconds since the start; None when the server does not run."""
        process = self._process()
        return None if process is None else time.time() - float(process.create_time())

    def ready(self) -> bool:
        """Whether the server runs and answers; a frozen one takes a second to be found out."""
        pid = self.pid
        return pid is not None and self._answers(pid)

    def start(self) -> None:
        """Start the server and wait until it answers; one that runs already is taken as it is."""
        if self.pid is not None:
            self._wait_ready(self._log_size())
            return
        for _ in range(PORT_ATTEMPTS):
            try:
                self._launch()
            except PortTakenError:
                if self._keeps_port:
                    raise
                self.port = free_port()
            else:
                return
        raise self.error(f"{PORT_ATTEMPTS} free ports in a row were taken by other programs")

    def stop(self) -> None:
        """End the server cleanly, by force if it does not end in time; one that is down is left alone."""
        if (process := self._process()) is not None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # A frozen process would never see the first signal.
            if not self._wait_gone(self.stop_seconds):
                self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a deadly signal and wait for the end; pid file and data stay as a crash leaves them."""
        self._running().send_signal(sig)
        if not self._wait_gone(self.stop_seconds):
            raise self.error(f"survived signal {sig} for {self.stop_seconds:.0f} s")

    def restart(self) -> None:
        """Stop and start on the same port with the same data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the process hang: it keeps its connections and answers nothing."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: bool(process.status() == psutil.STATUS_STOPPED), PROBE_SECONDS)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._running().send_signal(signal.SIGCONT)

    def error(self, what: str, log_tail: str = "") -> ServerError:
        """What is wrong, what the log says, and the ways to go on."""
        return ServerError(f"{self.name} ({self.directory}): {what}.{quoted(self.log, log_tail)}\n{self.ways_on}")

    @property
    def _pid_file(self) -> Path:
        return self.directory / "server.pid"

    @property
    def _port_file(self) -> Path:
        return self.directory / "server.port"

    def _process(self) -> psutil.Process | None:
        self._reap()
        pid = read_number(self._pid_file)
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            # A child is known by its pid; its command line is empty for a moment after the start.
            ours = pid == self._child or is_server_of(process.cmdline(), self.config)
        except psutil.Error:
            return None
        return process if ours else None

    def _running(self) -> psutil.Process:
        process = self._process()
        if process is None:
            raise self.error("is not running")
        return process

    def _reap(self) -> None:
        """A dead child stays a zombie, with its pid taken, until its parent asks for it."""
        if self._child is None:
            return
        try:
            gone, _ = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            gone = self._child
        self._child = None if gone else self._child

    def _wait_gone(self, seconds: float) -> bool:
        return wait_until(lambda: self._process() is None, seconds)

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = self._prepare()
        logged = self._log_size()
        try:
            self._child = spawn(command, self.log)
            self._pid_file.write_text(f"{self._child}\n")
            self._port_file.write_text(f"{self.port}\n")
            self._wait_ready(logged)
        except BaseException:
            # Also on Ctrl-C: a server that was not seen to answer does not stay behind.
            self._abandon()
            raise
        self._keeps_port = True

    def _abandon(self) -> None:
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = None
        self._pid_file.unlink(missing_ok=True)

    def _wait_ready(self, logged: int) -> None:
        in_time = wait_until(lambda: self.pid is None or self.ready(), self.start_seconds)
        if self.pid is not None and in_time:
            return
        tail = last_lines(self.log, logged)
        if self.pid is None and "address already in use" in tail.lower():
            raise PortTakenError(str(self.error(f"port {self.port} is taken by another program", tail)))
        ended = "ended at its start" if self.pid is None else f"did not answer within {self.start_seconds:.0f} s"
        raise self.error(ended, tail)
