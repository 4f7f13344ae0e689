"""The total time of a call, which no timeout of an HTTP client limits.

Those hold for one socket operation each, so a server that sends a byte now and then is waited for without end.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import overload

_end: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every HTTP call that this thread makes inside end, within `seconds` in total; an outer one still holds."""
    outer, end = _end.get(), time.monotonic() + seconds
    token = _end.set(end if outer is None else min(outer, end))
    try:
        yield
    finally:
        _end.reset(token)


@overload
def left_of(timeout: float, expired: type[Exception]) -> float: ...
@overload
def left_of(timeout: float | None, expired: type[Exception]) -> float | None: ...
def left_of(timeout: float | None, expired: type[Exception]) -> float | None:
    """Cut a timeout to what is left; raise `expired` when nothing is."""
    end = _end.get()
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise expired("The total deadline has passed.")
    return left if timeout is None else min(timeout, left)
