"""How every part connects: over TCP, TLS or a socket, and to whichever server the Sentinels call the primary."""

import contextlib
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from llm_provider.adapters.redis_connection import serving
from llm_provider.redis_address import RedisAddress

_NO_LIMIT = 2**31


class Sentinels:
    """Those who know where the primary is; asked whenever a connection is made, the one that answered last first."""

    def __init__(self, address: RedisAddress, timeout_seconds: float) -> None:
        self._service = address.service
        self._last = 0
        self.clients = [
            Redis(
                host=host,
                port=port,
                ssl=address.is_encrypted,
                decode_responses=True,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                **{**tls_options(address), **address.sentinel_login},
            )
            for host, port in address.hosts
        ]

    def primary(self) -> tuple[str, int]:
        """Raises redis's ConnectionError when none of them names one."""
        first = self._last
        for number in range(first, first + len(self.clients)):
            found: Any = None
            with contextlib.suppress(RedisError):
                found = self.clients[number % len(self.clients)].sentinel_get_master_addr_by_name(self._service)
            if found:
                self._last = number % len(self.clients)
                return str(found[0]), int(found[1])
        raise RedisConnectionError("No Sentinel names a primary.")


class _ToPrimary(Connection):
    """A connection that asks before it connects: after a failover the primary is another server."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        self.host, self.port = self._sentinels.primary()
        return super()._connect()  # type: ignore[no-untyped-call]


class _EncryptedToPrimary(_ToPrimary, SSLConnection):
    """The same over TLS."""


def connection_class(address: RedisAddress) -> Any:
    if address.path:
        return UnixDomainSocketConnection
    if address.service:
        return _EncryptedToPrimary if address.is_encrypted else _ToPrimary
    return SSLConnection if address.is_encrypted else Connection


def connection_options(address: RedisAddress, timeout_seconds: float) -> dict[str, Any]:
    """What a connection of this address is made with, every wait bounded."""
    return {
        **_where(address, timeout_seconds),
        **{name: value for name, value in address.options.items() if not name.startswith("ssl_")},
        **tls_options(address),
        **address.login,
        "db": address.db,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
    }


def _where(address: RedisAddress, timeout_seconds: float) -> dict[str, Any]:
    if address.path:
        return {"path": address.path}
    if address.service:
        return {"sentinels": Sentinels(address, timeout_seconds)}
    (host, port), *_ = address.hosts
    return {"host": host, "port": port}


def tls_options(address: RedisAddress) -> dict[str, Any]:
    options: dict[str, Any] = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() not in {"false", "no", "0"}
    return options


def redis_pool(address: RedisAddress, *, timeout_seconds: float, **options: Any) -> ConnectionPool:
    """Connections that leave a server which does not serve; `options` are redis-py's."""
    where = connection_options(address, timeout_seconds)
    where["connection_class"] = serving(connection_class(address))
    # One for each thread that asks; redis-py's own default of 100 fails the thread after that.
    return ConnectionPool(max_connections=_NO_LIMIT, **where, **options)


def plain_client(address: RedisAddress, timeout_seconds: float) -> Redis:
    """A client for questions at a boot, which sees every error reply as what it is."""
    pool = ConnectionPool(
        connection_class=connection_class(address),
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        **connection_options(address, timeout_seconds),
    )
    return Redis.from_pool(pool)
