"""A run of the demo: all that it started, and whether it still runs."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scripts.demos.errors import DemoError
from scripts.demos.screen import Screen
from scripts.local_servers import LocalServer
from scripts.programs import Interrupts, Program, procfile

START_SECONDS = 60.0  # A cold machine with two busy cores needs some of it, a warm one 3.
POLL_SECONDS = 0.05


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
