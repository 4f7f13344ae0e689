"""The threads of a web process that may wait for a provider; the others stay free to accept and to answer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SyncThreads:
    """So many at the same time; whoever finds none free does something else."""

    def __init__(self, limit: int) -> None:
        self._free = threading.Semaphore(limit)

    @contextmanager
    def one(self) -> Iterator[bool]:
        """True when one was free, and is taken until the end of the block."""
        is_free = self._free.acquire(blocking=False)
        try:
            yield is_free
        finally:
            if is_free:
                self._free.release()
