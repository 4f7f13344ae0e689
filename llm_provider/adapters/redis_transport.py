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

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # kombu 5.7.0: after a restart of Redis a worker with unacknowledged messages restores them through a
        # channel that is already closed, and dies of an AttributeError. A connection error it survives.
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("the channel is closed")
        params: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        # redis-py's own default goes on for 4.5 s; one immediate retry heals a pooled connection that was cut.
        return params | {"retry": Retry(NoBackoff(), 1)}


class Transport(RedisTransport):
    """Everything else is kombu's."""

    Channel = Channel


def install() -> None:
    """Let `redis://` and `rediss://` mean this transport in this process; flower and logs see the usual address."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
