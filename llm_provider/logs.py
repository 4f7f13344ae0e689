"""One JSON line an event, for our own lines and for those of Celery, gunicorn and Kafka alike."""

import logging
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import structlog

# They log whole records, URLs or headers at the levels below; the two of Celery's tell each task once more, beside our
# own `request_claimed`, `request_decided` and `request_delivered`.
QUIET_LOGGERS = (
    "celery.worker.strategy",
    "celery.app.trace",
    "amqp",
    "httpx2",
    "httpcore2",
    "urllib3",
    # The vendors' SDKs, some of which would write whole prompts at DEBUG.
    "anthropic",
    "google_genai",
    "openai",
)

_SHARED = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# kafka-python tells an outage in hundreds of lines, and ten times a second that a topic does not exist; our own
# `publish_failed` says either once a try.
SILENT_LOGGERS = ("kafka",)

# So long the first line that finds the log's reader busy waits for it.
WRITE_PATIENCE_MILLISECONDS = 1000


def configure(level: str) -> None:
    """Send every logger of this process to standard error as JSON; may be called again."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = LineHandler(sys.stderr)
    handler.setFormatter(_formatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class LineHandler(logging.StreamHandler[TextIO]):
    """Nobody waits for long for a reader that has stopped, and a line that cannot be written breaks nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_writable():
            super().emit(record)

    def _is_writable(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self.stream, select.POLLOUT)
        except (OSError, ValueError):
            # It is no file, or a closed one.
            return True
        self._patience = WRITE_PATIENCE_MILLISECONDS if poll.poll(self._patience) else 0
        return self._patience > 0

    _patience = WRITE_PATIENCE_MILLISECONDS

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name.
        """Its own would quote what was to be logged, on the stream that has just failed."""
        with suppress(Exception):
            self.stream.write(f'{{"event": "line_not_written", "logger": "{record.name}", "level": "error"}}\n')


@contextmanager
def unharmed(what: str) -> Iterator[None]:
    """For what only watches: its failure is told once, until it is well again, and goes no further."""
    try:
        yield
    except Exception as error:
        if what not in _failing:
            _failing.add(what)
            log_defect(structlog.get_logger(__name__), what, error)
    else:
        _failing.discard(what)


_failing: set[str] = set()


def log_defect(log: Any, event: str, error: Exception, **fields: str) -> None:
    """Log an exception nobody expected: its class and place. Its text may quote a prompt or an essay."""
    frames = traceback.format_tb(error.__traceback__)
    log.error(event, error=type(error).__name__, frames=frames, **fields)


def _formatter() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


def on_setup_logging(**_: Any) -> None:
    """Receiver of Celery's setup_logging signal: with one connected, Celery leaves the logging as the boot made it.

    Its `--loglevel` cannot be told from its default, so that LLM_PROVIDER_LOG_LEVEL alone counts.
    """
