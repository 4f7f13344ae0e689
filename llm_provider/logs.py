"""One JSON line an event, for our own lines and for those of Celery, gunicorn and Kafka alike."""

import logging
import sys
import traceback
from typing import Any

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


def configure(level: str) -> None:
    """Send every logger of this process to standard error as JSON; may be called again."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in SILENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
