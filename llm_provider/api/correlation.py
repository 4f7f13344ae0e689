"""The id by which a caller, the consumer of its event and our log lines know one request."""

from uuid import UUID, uuid4

import structlog
from flask import g


def begin() -> None:
    """Give a new request an id of our own, so that every answer carries one, whatever the caller sent."""
    remember(uuid4())


def remember(correlation_id: UUID) -> None:
    """From here on the request is known, and logged, by this id."""
    g.correlation_id = correlation_id
    structlog.contextvars.bind_contextvars(correlation_id=str(correlation_id))


def current() -> UUID:
    """The id of the request being answered."""
    known: UUID = g.correlation_id
    return known


def forget(_: object = None) -> None:
    """A thread serves other requests later, and must not log them under this one's id."""
    structlog.contextvars.clear_contextvars()
