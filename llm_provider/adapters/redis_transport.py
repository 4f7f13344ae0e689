"""kombu's Redis transport with two repairs, put in its place under the same scheme."""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import Transport as RedisTransport
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


class Channel(RedisChannel):
    """A channel that neither ends its worker nor hangs its caller when Redis goes away."""

    _kept: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # kombu 5.7.0: after a restart of Redis a worker with unacknowledged messages restores them through a
        # channel that is already closed, and dies of an AttributeError. A connection error it survives.
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        # redis-py's own default goes on for 4.5 s; one immediate retry heals a pooled connection that was cut.
        return params | {"retry": Retry(NoBackoff(), 1)}

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


def install() -> None:
    """Let `redis://` and `rediss://` mean this transport in this process; flower and logs see the usual address."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
