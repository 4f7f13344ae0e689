"""Something that belongs to one process, such as a vendor's client with its open connections."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Built on first use, once in each process and for all its threads.

    A connection that two processes share after a fork hands one process the other's answers.
    """

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._building = threading.Lock()
        self._built: tuple[int, T] | None = None

    def get(self) -> T:
        built = self._of_this_process()
        return built if built is not None else self._build_once()

    def discard(self) -> T | None:
        """Forget what this process built and return it, to be closed."""
        discarded, self._built = self._of_this_process(), None
        return discarded

    def _of_this_process(self) -> T | None:
        built = self._built
        return built[1] if built is not None and built[0] == os.getpid() else None

    def _build_once(self) -> T:
        with self._building:
            built = self._of_this_process()
            if built is None:
                built = self._build()
                self._built = (os.getpid(), built)
            return built
