"""An HTTP transport with a total deadline, which neither httpx2 nor any vendor's SDK has.

Here every wait, from the pool to the last byte, is cut to what is left of the calling thread's deadline. Looking up a
host's addresses is the one wait that the operating system alone limits.
"""

import select
import socket
import struct
import time
from collections.abc import Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

from llm_provider.adapters.providers.bounded_response import bounded
from llm_provider.adapters.providers.deadline import left_of

CONNECT_TIMEOUT_SECONDS = 5.0
# A socket's timeout begins anew with each part that it takes, so a request is written in pieces of this size.
WRITE_CHUNK_BYTES = 16_384
# How soon a connection that was closed while nobody used it says so. Of one that is reset at once nobody has made an
# answer; later only if the other end's kernel has taken nothing of the call.
AT_ONCE_SECONDS = 0.05
STALE_SECONDS = 1.0
# How often that may happen to one call, and how long its reset may take behind the end of the connection.
REJECTION_SECONDS = 0.5
MAX_STALE_CONNECTIONS = 5

# Of Linux's struct tcp_info, since 4.1: where tcpi_bytes_acked stands, and how much is read of it.
_BYTES_ACKED = 120
_TCP_INFO_BYTES = 128

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class CallNotRead(httpcore2.ConnectError):
    """The other end had closed the connection, which had been used before, and threw away what was sent."""


class DeadlineTransport(httpx2.HTTPTransport):
    """Connections without a limit to their number: how many calls run at once is decided elsewhere."""

    def __init__(self) -> None:
        # The default expiry of 5 seconds would cost a TLS handshake for nearly every call of a quiet hour.
        super().__init__(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0)
        )
        self._pool._network_backend = _Backend()  # noqa: SLF001 - The only way in; the trickle tests watch it.

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        timeouts = request.extensions.get("timeout", {})
        pool = left_of(timeouts.get("pool"), httpx2.PoolTimeout)
        request.extensions["timeout"] = {**timeouts, "pool": pool}
        return bounded(self._sent_over_a_live_connection(request))

    def _sent_over_a_live_connection(self, request: httpx2.Request) -> httpx2.Response:
        """Servers close what is idle, at times just when it is used again: such a call has reached nobody."""
        for _ in range(MAX_STALE_CONNECTIONS):
            try:
                return super().handle_request(request)
            except httpx2.ConnectError as error:
                if not isinstance(error.__cause__, CallNotRead):
                    raise
        return super().handle_request(request)


def http_client() -> httpx2.Client:
    """A client over that transport which follows no redirect and heeds no proxy: a key goes where it was meant to."""
    return httpx2.Client(
        transport=DeadlineTransport(),
        trust_env=False,
        follow_redirects=False,
        # A verdict is small, and what is not compressed cannot grow.
        headers={"accept-encoding": "identity"},
        # Calls have nothing to do with one another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError("The host has no address.")
        for address in _addresses(host, port):
            left = left_of(CONNECT_TIMEOUT_SECONDS, httpcore2.ConnectTimeout)
            try:
                return _Stream(super().connect_tcp(address, port, left, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    """Looked up here, because the standard library gives each of several dead addresses the whole timeout."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError("The host's name cannot be resolved.") from error
    return [str(entry[4][0]) for entry in found]


class _Stream(httpcore2.NetworkStream):
    """Operations that last no longer than the deadline; httpcore2 passes the arguments by these names."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner
        self._is_reused = False
        self._is_answering = False
        self._written_at = 0.0
        self._acknowledged: int | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = self._inner.read(max_bytes, left_of(timeout, httpcore2.ReadTimeout))
        except httpcore2.ReadError as error:
            self._check_that_somebody_read(error)
            raise
        if data:
            self._is_answering = True
        else:
            self._check_that_somebody_read()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._is_answering or not self._written_at:
            # The first part of a call.
            self._is_reused, self._is_answering = self._is_answering, False
            self._acknowledged = _acknowledged_bytes(self._socket)
        self._written_at = time.monotonic()
        try:
            for start in range(0, len(buffer), WRITE_CHUNK_BYTES):
                chunk = buffer[start : start + WRITE_CHUNK_BYTES]
                self._inner.write(chunk, left_of(timeout, httpcore2.WriteTimeout))
        except httpcore2.WriteError as error:
            self._check_that_somebody_read(error)
            raise

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = left_of(CONNECT_TIMEOUT_SECONDS, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def _check_that_somebody_read(self, error: Exception | None = None) -> None:
        """Raise CallNotRead when the end of a connection shows that the call on it was thrown away.

        Whoever has closed a connection answers what comes afterwards with a reset, and acknowledges none of it.
        """
        after = time.monotonic() - self._written_at
        if not self._is_reused or self._is_answering or after > STALE_SECONDS or not self._is_reset():
            return
        if after < AT_ONCE_SECONDS or self._is_untouched():
            raise CallNotRead("The connection was closed while nobody used it.") from error

    def _is_untouched(self) -> bool:
        return self._acknowledged is not None and self._acknowledged == _acknowledged_bytes(self._socket)

    def _is_reset(self) -> bool:
        resets = select.poll()
        resets.register(self._socket, 0)
        return bool(resets.poll(left_of(REJECTION_SECONDS, httpcore2.ReadTimeout) * 1000))

    @property
    def _socket(self) -> socket.socket:
        found: socket.socket = self._inner.get_extra_info("socket")
        return found


def _acknowledged_bytes(connection: socket.socket) -> int | None:
    """How much of what was ever sent the other end's kernel has taken; None where the system does not tell."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return None
    if len(info) < _TCP_INFO_BYTES:
        return None
    acknowledged: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
    return acknowledged
