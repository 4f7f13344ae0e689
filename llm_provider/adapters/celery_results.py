"""The Celery result backend: keeps the results that callers poll for, so that `AsyncResult(queue_id)` works too."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from llm_provider.adapters.redis_pool import redis_pool
from llm_provider.errors import ComparisonError, LedgerUnavailable
from llm_provider.queue_models import OutcomeError


class ResultBackend(RedisBackend):  # type: ignore[misc] # Celery ships no types.
    """Celery's, over the connections that all parts use."""

    def _get_pool(self, **options: Any) -> Any:
        address, timeout = self._transport_options["address"], options["socket_timeout"]
        # redis-py's own default goes on for 4.5 s after Redis has gone.
        return redis_pool(address, timeout_seconds=timeout, retry=Retry(NoBackoff(), 1))


def install(app: Celery) -> None:
    """Let the usual schemes mean this backend in this app; `celery report` and flower show the usual address."""
    named = f"{__name__}:{ResultBackend.__name__}"
    app.loader.override_backends = dict.fromkeys(("redis", "rediss", "sentinel"), named)


class CeleryResultStore:
    """ResultStoreProtocol over the app's Redis backend."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    @cached_property
    def _backend(self) -> Any:
        return self._app.backend

    def store_result(self, queue_id: str, result: Mapping[str, Any]) -> None:
        self._store(queue_id, dict(result), states.SUCCESS)

    def store_error(self, queue_id: str, error: OutcomeError) -> None:
        self._store(queue_id, ComparisonError(f"{error.error_code}: {error.message}"), states.FAILURE)

    def _store(self, queue_id: str, result: object, state: str) -> None:
        try:
            self._backend.store_result(queue_id, result, state)
        except (RedisError, BackendError, OSError) as error:
            raise _unavailable(error) from error

    def load_result(self, queue_id: str) -> Mapping[str, Any] | None:
        try:
            stored = self._backend.get(self._backend.get_key_for_task(queue_id))
        except (RedisError, BackendError, OSError) as error:
            raise _unavailable(error) from error
        if stored is None:
            return None
        # Celery's own way back would take a caller's metadata that has a `__type__` for one of its encoded objects.
        meta = json.loads(stored)
        return meta["result"] if meta["status"] == states.SUCCESS else None


def _unavailable(error: Exception) -> LedgerUnavailable:
    return LedgerUnavailable(f"The result backend did not answer ({type(error).__name__}).", retry_after_seconds=5)
