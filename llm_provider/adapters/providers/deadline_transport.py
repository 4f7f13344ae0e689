"""An HTTP transport with a total deadline, which neither httpx2 nor any vendor's SDK has.

Their timeouts hold for one socket operation each, so a server that sends a byte now and then is waited for
without end. Here every wait, from the pool to the last byte, is cut to what is left of the calling thread's
deadline. Looking up a host's addresses is the one wait that the operating system alone limits.
"""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2

CONNECT_TIMEOUT_SECONDS = 5.0
# A socket's timeout begins anew with each part that it takes, so a request is written in pieces of this size.
WRITE_CHUNK_BYTES = 16_384
# What an error says beside its status is worth a moment, and no vendor's is longer.
ERROR_BODY_SECONDS = 5.0
ERROR_BODY_BYTES = 262_144

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

_end: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every HTTP call that this thread makes inside end, within `seconds` in total; an outer one still holds."""
    outer, end = _end.get(), time.monotonic() + seconds
    token = _end.set(end if outer is None else min(outer, end))
    try:
        yield
    finally:
        _end.reset(token)


def _left(timeout: float | None, expired: type[Exception]) -> float | None:
    """Cut a timeout to what is left; raise `expired` when nothing is."""
    end = _end.get()
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise expired("The total deadline has passed.")
    return left if timeout is None else min(timeout, left)


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
        pool = _left(timeouts.get("pool"), httpx2.PoolTimeout)
        request.extensions["timeout"] = {**timeouts, "pool": pool}
        response = super().handle_request(request)
        return response if response.is_success else _with_what_came(response)


def http_client() -> httpx2.Client:
    """A client over that transport which follows no redirect and heeds no proxy: a key goes where it was meant to."""
    return httpx2.Client(transport=DeadlineTransport(), trust_env=False, follow_redirects=False)


def _with_what_came(response: httpx2.Response) -> httpx2.Response:
    """The same error with as much of its body as came soon and can be read.

    Its status says what it means. A body that trickles, breaks off, or is not what its headers say would cost us that.
    """
    body = bytearray()
    try:
        with deadline(ERROR_BODY_SECONDS):
            for part in response.iter_raw():
                body += part
                if len(body) > ERROR_BODY_BYTES:
                    break
    except httpx2.TransportError:
        pass
    finally:
        response.close()
    headers = httpx2.Headers(response.headers)
    for about_the_body in ("content-encoding", "content-length", "transfer-encoding"):
        headers.pop(about_the_body, None)
    text = _decompressed(bytes(body), response.headers.get("content-encoding")).decode(errors="replace")
    return httpx2.Response(response.status_code, headers=headers, content=text.encode(), extensions=response.extensions)


def _decompressed(body: bytes, encoding: str | None) -> bytes:
    try:
        return httpx2.Response(200, headers={"content-encoding": encoding or "identity"}, content=body).content
    except httpx2.DecodingError:
        return b""


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
            left = _left(CONNECT_TIMEOUT_SECONDS, httpcore2.ConnectTimeout)
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

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_CHUNK_BYTES):
            chunk = buffer[start : start + WRITE_CHUNK_BYTES]
            self._inner.write(chunk, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = _left(CONNECT_TIMEOUT_SECONDS, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
