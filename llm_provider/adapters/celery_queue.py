"""Celery as the queue that moves work: its settings, and the dispatch of one id."""

from typing import Any

from celery import Celery
from kombu.exceptions import KombuError

from llm_provider.adapters.redis_pool import tls_options
from llm_provider.config import Settings
from llm_provider.errors import LedgerUnavailable
from llm_provider.queue_models import TASK_NAME
from llm_provider.redis_address import RedisAddress

QUEUE = "comparisons"

# kombu's Redis transport takes 0 first: what is dispatched again goes before what waits.
FIRST, IN_TURN = 0, 6


def celery_settings(settings: Settings, *, socket_timeout_seconds: float) -> dict[str, Any]:
    """Settings of the Celery app, each for a reason; `socket_timeout_seconds` bounds one Redis operation."""
    address = settings.redis_address
    return {
        **_for_flower(address),
        "broker_transport_options": {
            **_for_flower_by_sentinel(address),
            "address": address,
            "global_keyprefix": settings.key_prefix,
            "queue_order_strategy": "priority",
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": socket_timeout_seconds,
            "socket_keepalive": True,
            "health_check_interval": 25,
            # The ledger brings lost work back within seconds; this only tidies what a dead worker left unacknowledged.
            "visibility_timeout": 3600,
        },
        "broker_connection_retry_on_startup": True,
        # A worker outlives any outage of Redis.
        "broker_connection_max_retries": None,
        "broker_pool_limit": max(10, settings.web_threads),
        "result_backend": address.celery_url,
        "result_backend_transport_options": {"global_keyprefix": settings.key_prefix, "address": address},
        "result_backend_thread_safe": True,
        "redis_socket_timeout": socket_timeout_seconds,
        "redis_socket_connect_timeout": socket_timeout_seconds,
        "result_expires": settings.result_expires_seconds,
        "task_default_queue": QUEUE,
        "task_default_priority": IN_TURN,
        # A message is taken when a thread is free for it and acknowledged before the work, so that nothing is left
        # unacknowledged when a connection breaks: kombu would deliver it once more, and Celery cry out. What a worker
        # had taken when it died, the ledger knows.
        "task_acks_late": False,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        # Concerns late acknowledgement alone; unset, Celery warns of its future default at every lost connection.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # Threads: best throughput per MB for work that waits, and nothing forks under a Kafka producer.
        "worker_pool": "threads",
        "worker_concurrency": settings.worker_concurrency,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # Only ids may be read in Celery's logs and in flower.
        "result_extended": False,
    }


def _for_flower(address: RedisAddress) -> dict[str, Any]:
    """The address as flower reads it for a queue's length; our own parts connect by the RedisAddress."""
    tls = tls_options(address) if address.is_encrypted else None
    return {"broker_url": address.celery_url, "broker_use_ssl": tls, "redis_backend_use_ssl": tls}


def _for_flower_by_sentinel(address: RedisAddress) -> dict[str, Any]:
    if not address.service:
        return {}
    tls = {"ssl": True, **tls_options(address)} if address.is_encrypted else {}
    return {"master_name": address.service, "sentinel_kwargs": {**tls, **address.sentinel_login}}


class CeleryTaskDispatcher:
    """TaskDispatcherProtocol over Celery: one message, whose id is the queue id and whose only argument is that id."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        try:
            # Without `ignore_result` the publisher would subscribe to a result that nobody waits for there.
            self._app.send_task(
                TASK_NAME,
                args=[queue_id],
                task_id=queue_id,
                ignore_result=True,
                priority=FIRST if first else IN_TURN,
                retry=False,
            )
        except (KombuError, OSError) as error:
            raise _unavailable(error) from error

    def queue_is_empty(self) -> bool:
        try:
            with self._app.connection_or_acquire() as connection:
                return _message_count(connection) == 0
        except (KombuError, OSError) as error:
            raise _unavailable(error) from error


def _message_count(connection: Any) -> int:
    try:
        # Not by a passive declaration: kombu 5.7 looks for the queue's keys without our prefix there, and finds none.
        return int(connection.default_channel._size(QUEUE))  # noqa: SLF001 kombu has no other way to ask.
    except connection.connection_errors + connection.channel_errors as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> LedgerUnavailable:
    return LedgerUnavailable(f"The queue did not answer ({type(error).__name__}).", retry_after_seconds=5)
