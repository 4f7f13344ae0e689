"""What a storm shows while it goes on: a progress display on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0
WIDTH = 120


class Screen:
    """Everything that is printed goes through here; threads may use it."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, emoji=False, markup=False)
        if not self.console.is_terminal:
            self.console.width = WIDTH
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._began = time.monotonic()
        self._last_line = 0.0

    def say(self, text: str) -> None:
        self.console.print(f"{time.monotonic() - self._began:6.1f} s  {text}", soft_wrap=True)

    @contextmanager
    def storm(self, count: int) -> Iterator[None]:
        """While the block runs, `show` has something to move."""
        self._began = time.monotonic()
        for what in ("answered", "accepted", "events"):
            self._progress.add_task(what, total=count)
        with self._progress:
            yield

    def show(self, answered: int, accepted: int, events: int) -> None:
        for task, done in zip(self._progress.task_ids, (answered, accepted, events), strict=True):
            self._progress.update(task, completed=done)
        if not self.console.is_terminal and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"{answered} posts answered, {accepted} accepted, {events} events")
