"""What every vendor's local server has in common: connections, counts, and trouble on the way of an answer.

As a script (`python -m tests.integration.openai_server --port 9001 --latency-ms 2000`, and the others alike) it says
its base URL, and can be told by HTTP what else to do:

    POST /behaviour   a JSON object with any of its Behaviour's fields; the others go back to their defaults
    GET  /stats       {"total", "open", "peak", "connections", "statuses": {...}, "by_id": {...}}: peak is how many
                      calls were open at once; a call's id is what follows "id=" in it
    POST /reset       forgets the counts
"""

import argparse
import asyncio
import json
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

ID = re.compile(rb"\bid=([\w.:-]+)")
TRICKLE_SECONDS = 0.05
BACKLOG = 1024
VERDICT = {
    "winner": "Essay B",
    "justification": "The second essay supports each claim with a reason.",
    "confidence": 4,
}


@dataclass(frozen=True)
class VendorBehaviour:
    """What happens to a `share` of the calls, drawn with `seed`; the others are answered well.

    mode: ok, or what a vendor's own answers know; hang (no answer), close (without a byte), cut (in the middle of the
    body), reset (after the call was read), last (a good answer, and then the connection is closed without a word),
    trickle and trickle_headers (a byte now and then), invalid_json (half a body). `status` is an error's, `body`
    replaces the body as it is, of Latin-1 if it can be. `latency_ms` holds for every call. In any case
    `granted_per_second` are answered well.
    """

    mode: str = "ok"
    status: int = 200
    latency_ms: float = 0
    share: float = 1.0
    seed: int = 0
    granted_per_second: float = 0.0
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def as_bytes(body: str) -> bytes:
    try:
        return body.encode("latin-1")
    except UnicodeEncodeError:
        return body.encode()


B = TypeVar("B", bound=VendorBehaviour)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class VendorServer(ABC, Generic[B]):
    """The server's state, and its thread: `with OpenAIServer() as server: ... server.base_url`."""

    behaves: ClassVar[type[VendorBehaviour]]
    path: ClassVar[str] = ""
    headers: ClassVar[Mapping[str, str]] = {"content-type": "application/json"}

    def __init__(self, behaviour: B | None = None, *, port: int = 0, keep_requests: int = 1000) -> None:
        self.port = port
        self.requests: deque[Request] = deque(maxlen=keep_requests)
        self.connections = 0
        self.open = 0
        self.live: set[asyncio.Transport] = set()
        self.reset()
        self._set(behaviour or self._behaviour())

    @abstractmethod
    def is_call(self, request: Request) -> bool:
        """Whether this is what the vendor's SDK calls."""

    @abstractmethod
    def answer(self, request: Request, behaviour: B) -> tuple[int, bytes]:
        """The status and the body, before anything happens to them on their way."""

    @abstractmethod
    def error(self, status: int, message: str) -> bytes:
        """The vendor's form of an error."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def behave(self, **fields: Any) -> None:
        self._set(self._behaviour(**fields))

    def _behaviour(self, **fields: Any) -> B:
        # A class variable cannot be of the class's own type variable.
        return cast("B", self.behaves(**fields))

    def _set(self, behaviour: B) -> None:
        self.behaviour, self._random = behaviour, random.Random(behaviour.seed)
        self._granted, self._granted_at = behaviour.granted_per_second, time.monotonic()

    def behaviour_of_next_call(self) -> B:
        behaviour = self.behaviour
        if behaviour.granted_per_second and self._is_granted(behaviour.granted_per_second):
            return self._behaviour(latency_ms=behaviour.latency_ms)
        if behaviour.share >= 1 or self._random.random() < behaviour.share:
            return behaviour
        return self._behaviour(latency_ms=behaviour.latency_ms)

    def _is_granted(self, per_second: float) -> bool:
        """A vendor's own limit on the rate of calls: a second's worth at once."""
        now = time.monotonic()
        self._granted = min(per_second, self._granted + (now - self._granted_at) * per_second)
        self._granted_at = now
        if self._granted < 1:
            return False
        self._granted -= 1
        return True

    def reset(self) -> None:
        self.total = self.peak = 0
        self.by_id, self.statuses = Counter[str](), Counter[str]()

    def at_rest(self) -> Self:
        """The same, without what earlier tests told it and asked of it."""
        self.behave()
        self.reset()
        self.requests.clear()
        return self

    def stats(self) -> dict[str, Any]:
        numbers = {"total": self.total, "open": self.open, "peak": self.peak, "connections": self.connections}
        return {**numbers, "statuses": dict(self.statuses), "by_id": dict(self.by_id)}

    def count(self, request: Request) -> None:
        self.total += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        self.by_id.update(name.decode() for name in ID.findall(request.body)[:1])
        self.requests.append(request)

    async def listen(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=BACKLOG)
        self.port = server.sockets[0].getsockname()[1]
        started()
        await stop.wait()
        server.close()
        for connection in list(self.live):
            connection.abort()
        await asyncio.sleep(0)  # The turn of the loop in which aborted connections close their sockets.

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._until_exit(started.set)], daemon=True)
        self._thread.start()
        assert started.wait(5), "The server did not start."
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    async def _until_exit(self, started: Callable[[], None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.listen(started, self._stop)

    @classmethod
    def main(cls) -> None:
        """The server as a script, until a signal ends it."""
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--port", type=int, default=0)
        parser.add_argument("--latency-ms", type=float, default=0)
        parser.add_argument("--mode", default="ok")
        parser.add_argument("--share", type=float, default=1.0)
        parser.add_argument("--seed", type=int, default=0)
        given = vars(parser.parse_args())
        server = cls(port=given.pop("port"), keep_requests=0)
        server.behave(**given)
        asyncio.run(_serve_until_signal(server))


class _Connection(asyncio.Protocol):
    """One client's connection: its requests one after another, without pipelining."""

    transport: asyncio.Transport

    def __init__(self, server: VendorServer[Any]) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections += 1
        self._server.live.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.live.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        request = self._whole_request()
        if request is not None:
            self._received = b""
            self._handle(request)

    def _whole_request(self) -> Request | None:
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if len(body) < int(headers.get("content-length", "0")):
            return None
        method, path, _ = first.split(" ")
        return Request(method, path, headers, body)

    def _handle(self, request: Request) -> None:
        if self._server.is_call(request):
            self._take(request)
        elif (request.method, request.path) in _CONTROLS:
            self._send(200, _CONTROLS[request.method, request.path](self._server, request), {})
        else:
            self._send(404, self._server.error(404, "Unknown path."), {})

    def _take(self, request: Request) -> None:
        self._server.count(request)
        behaviour = self._server.behaviour_of_next_call()
        if behaviour.latency_ms:
            loop = asyncio.get_running_loop()
            loop.call_later(behaviour.latency_ms / 1000, self._answer, request, behaviour)
        else:
            self._answer(request, behaviour)

    def _answer(self, request: Request, behaviour: VendorBehaviour) -> None:
        self._server.open -= 1
        status, body = self._server.answer(request, behaviour)
        deliver = _DELIVERIES.get(behaviour.mode)
        self._server.statuses[str(status) if deliver is None else behaviour.mode] += 1
        if deliver is None:
            self._send(status, body, behaviour.headers)
        else:
            deliver(self.transport, self._head(status, len(body), behaviour.headers), body)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.transport.write(self._head(status, len(body), headers) + body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> bytes:
        fields = {**self._server.headers, "content-length": str(length), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} {'OK' if status == 200 else 'Answer'}\r\n{lines}\r\n".encode("latin-1")


def _hang(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """Send nothing; the client has to give up."""


def _close(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.close()


def _reset(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """As a proxy does that gives up: not before the call has been taken."""
    asyncio.get_running_loop().call_later(0.2, transport.abort)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _cut(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.write(head + body[: len(body) // 2])
    transport.close()


def _last(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.write(head + body)
    transport.close()


def _trickle(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.write(head)
    _trickle_headers(transport, body, b"")


def _trickle_headers(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    rest = head + body
    if rest and not transport.is_closing():
        transport.write(rest[:1])
        asyncio.get_running_loop().call_later(TRICKLE_SECONDS, _trickle_headers, transport, rest[1:], b"")


_DELIVERIES: dict[str, Callable[[asyncio.Transport, bytes, bytes], None]] = {
    "hang": _hang,
    "close": _close,
    "cut": _cut,
    "reset": _reset,
    "last": _last,
    "trickle": _trickle,
    "trickle_headers": _trickle_headers,
}


def _on_behaviour(server: VendorServer[Any], request: Request) -> bytes:
    server.behave(**request.json())
    return b"{}"


def _on_reset(server: VendorServer[Any], request: Request) -> bytes:
    server.reset()
    return b"{}"


def _on_stats(server: VendorServer[Any], request: Request) -> bytes:
    return json.dumps(server.stats()).encode()


_CONTROLS: dict[tuple[str, str], Callable[[VendorServer[Any], Request], bytes]] = {
    ("POST", "/behaviour"): _on_behaviour,
    ("POST", "/reset"): _on_reset,
    ("GET", "/stats"): _on_stats,
}


async def _serve_until_signal(server: VendorServer[Any]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.listen(lambda: _say(server.base_url), stop)


def _say(base_url: str) -> None:
    """One line that says where, as soon as calls are taken."""
    sys.stdout.write(f"{base_url}\n")
    sys.stdout.flush()
