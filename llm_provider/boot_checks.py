"""What is asked before a process starts.

Apart from the wiring, whose imports take three seconds: gunicorn's main process would spend them before it listens.
"""

import structlog

from llm_provider.adapters import redis_checks
from llm_provider.adapters.redis_safety import Safety
from llm_provider.config import Settings
from llm_provider.errors import LedgerUnavailable

log = structlog.get_logger(__name__)

# Of the time a client waits for a reply: replicas that are slower than that are too few.
SHARE_FOR_COPIES = 0.8


def check_redis(settings: Settings) -> None:
    """Ask Redis at a boot whether this can work, and log what an operator should know; one that is away is waited for.

    Raises ConfigurationError when it never can.
    """
    safety = safety_of(settings, settings.worker_redis_timeout_seconds)
    try:
        for event, risk in redis_checks.check_redis(settings.redis_address, prefix=settings.key_prefix, safety=safety):
            log.warning(event, risk=risk)
    except LedgerUnavailable as error:
        log.warning("redis_not_checked", reason=error.message)


def safety_of(settings: Settings, timeout: float) -> Safety:
    """What a step must have before it counts, over a client that waits `timeout` seconds for a reply."""
    return Safety(settings.redis_replicas, settings.redis_wait_for_disk, SHARE_FOR_COPIES * timeout)
