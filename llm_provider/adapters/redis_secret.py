"""The secret of an installation, made once at random and kept in Redis."""

import secrets
import threading
import time
from collections.abc import Callable

import structlog
from redis import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

# While Redis is away, not every prompt waits for it.
ASK_AGAIN_SECONDS = 60.0


class RedisDelimiterSecret:
    """DelimiterSecretProtocol: read once a process; until that succeeds, one of this process serves."""

    def __init__(self, client: Redis, *, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._key = f"{prefix}delimiter-secret"
        self._own = secrets.token_hex()
        self._shared: str | None = None
        self._clock = clock
        self._asking = threading.Lock()
        self._ask_at = float("-inf")

    def __call__(self) -> bytes:
        if self._shared is None:
            with self._asking:
                self._ask()
        return (self._shared or self._own).encode()

    def _ask(self) -> None:
        if self._shared is not None or self._clock() < self._ask_at:
            return
        try:
            # Whoever comes first makes it: the others get what is there.
            found = self._client.set(self._key, self._own, nx=True, get=True)
            self._shared = str(found or self._own)
            self._client.close()
        except RedisError as error:
            self._ask_at = self._clock() + ASK_AGAIN_SECONDS
            log.warning("delimiter_secret_not_shared", error=type(error).__name__)
