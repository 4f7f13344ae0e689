"""What the demo shows while it runs, and the table at its end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.demos.comparisons import Comparison

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
