"""kombu's Redis transport with some repairs, put in its place under the same scheme."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

import structlog
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import Transport as RedisTransport
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from llm_provider.adapters.redis_connection import serving
from llm_provider.adapters.redis_pool import connection_class, connection_options
from llm_provider.redis_address import RedisAddress

log = structlog.get_logger(__name__)

# What reading a foreign message ends with, in kombu and in Celery, when it is none of theirs.
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


class Channel(RedisChannel):
    """A channel that neither ends its worker nor hangs its caller when Redis goes away."""

    from_transport_options: Any = (*RedisChannel.from_transport_options, "address")
    # Where to connect; None: as kombu reads its own URL, which flower and logs show.
    address: RedisAddress | None = None
    socket_timeout: Any
    connection_class: Any
    connection_class_ssl: Any
    _kept: Any = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        try:
            # kombu asks PING, which a server answers that gives no messages, and Celery then tries again at once, for
            # ever. A connection that cannot be made it tries ever more rarely.
            self.client.brpop("check", timeout=0.001)
            # A full one takes no lock, with which Celery begins.
            self.client.set("connected", "", px=1000)
        except RedisError:
            self._disconnect_pools()  # type: ignore[no-untyped-call]
            self.connection.cycle.discard(self)
            raise

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # kombu 5.7.0: after a restart of Redis a worker with unacknowledged messages restores them through a
        # channel that is already closed, and dies of an AttributeError. A connection error it survives.
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        if self.address is not None:
            self.connection_class = self.connection_class_ssl = connection_class(self.address)
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        if self.address is not None:
            kept = ("connection_class", "max_connections", "health_check_interval")
            params = {name: params[name] for name in kept} | connection_options(self.address, self.socket_timeout)
        # redis-py's own default goes on for 4.5 s; one immediate retry heals a pooled connection that was cut. The
        # asynchronous ones are the event loop's, which notices itself: a retry would read there, and block it for ever.
        retries = Retry(NoBackoff(), 0 if asynchronous else 1)
        return params | {"retry": retries, "connection_class": serving(params["connection_class"], "WRONGTYPE", "OOM")}

    def _delete(self, *args: Any, **options: Any) -> None:
        # A channel deletes its own queues when it closes. On a Redis that does not serve that would leave others of
        # its connection open, and Celery would cry out at each; such a queue expires by itself.
        with suppress(RedisError):
            super()._delete(*args, **options)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        return self._read(super()._brpop_read, **options)

    def _receive_one(self, client: Any) -> Any:
        return self._read(super()._receive_one, client)

    def _read(self, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A message that nobody can read costs itself alone."""
        try:
            return read(*args, **options)
        except _UNREADABLE as error:
            log.warning("unreadable_message_dropped", error=type(error).__name__)
            raise Empty from None

    def _create_client(self, asynchronous: bool = False) -> Any:
        # kombu makes a client for every command, which costs more CPU than the command; one serves as well, until
        # the pool is another. The asynchronous ones hold a connection each and stay kombu's.
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept


class Transport(RedisTransport):
    """Everything else is kombu's."""

    Channel = Channel
    # So kombu tells of a connection that it lost while it published, and Celery would end the worker for it.
    connection_errors = (*RedisTransport.connection_errors, OperationalError)


def install() -> None:
    """Let every form of address mean this transport in this process; flower and logs see the usual one."""
    for scheme in ("redis", "rediss", "sentinel"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
