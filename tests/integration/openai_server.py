"""A local server that speaks Chat Completions, with every kind of trouble a vendor can make.

Written from OpenAI's published API reference: https://platform.openai.com/docs/api-reference/chat/create (the
request and the completion object) and https://platform.openai.com/docs/guides/error-codes (the errors).

As a script: python -m tests.integration.openai_server --port 9001 --latency-ms 2000
    POST /v1/chat/completions   answers as it was told to
    POST /behaviour             tells it: a JSON object with any of Behaviour's fields; the others go back to default
    GET  /stats                 {"total", "open", "peak", "connections", "statuses": {...}, "by_id": {...}}: peak is
                                how many were open at once; a call's id is what follows "id=" in it
    POST /reset                 forgets the counts
"""

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

ID = re.compile(rb"\bid=([\w.:-]+)")
TRICKLE_SECONDS = 0.05
BACKLOG = 1024
VERDICT = {
    "winner": "Essay B",
    "justification": "The second essay supports each claim with a reason.",
    "confidence": 4,
}


@dataclass(frozen=True)
class Behaviour:
    """What happens to a `share` of the calls, drawn with `seed`; the others are answered well.

    mode: ok, refusal, content_filter, truncated, invalid_json; hang (no answer), close (without a byte), cut (in
    the middle of the body), trickle and trickle_headers (a byte now and then); or an error's status, like 429.
    `body` replaces the body as it is. `latency_ms` holds for every call.
    """

    mode: str = "ok"
    status: int = 200
    latency_ms: float = 0
    share: float = 1.0
    seed: int = 0
    code: str | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class OpenAIServer:
    """The server's state, and its thread: `with OpenAIServer() as server: ... server.base_url`.

    A vendor that speaks the same with words of its own is a subclass with its own path, completion and error.
    """

    path = "/v1"

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0, keep_requests: int = 1000) -> None:
        self.port = port
        self.requests: deque[Request] = deque(maxlen=keep_requests)
        self.connections = 0
        self.open = 0
        self.live: set[asyncio.Transport] = set()
        self.reset()
        self._set(behaviour or Behaviour())

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def behave(self, **fields: Any) -> None:
        self._set(Behaviour(**fields))

    def _set(self, behaviour: Behaviour) -> None:
        self.behaviour, self._random = behaviour, random.Random(behaviour.seed)

    def reset(self) -> None:
        self.total = self.peak = 0
        self.by_id, self.statuses = Counter[str](), Counter[str]()

    def stats(self) -> dict[str, Any]:
        numbers = {"total": self.total, "open": self.open, "peak": self.peak, "connections": self.connections}
        return {**numbers, "statuses": dict(self.statuses), "by_id": dict(self.by_id)}

    def behaviour_of_next_call(self) -> Behaviour:
        behaviour = self.behaviour
        if behaviour.share >= 1 or self._random.random() < behaviour.share:
            return behaviour
        return Behaviour(latency_ms=behaviour.latency_ms)

    def completion(self, sent: dict[str, Any], mode: str) -> dict[str, Any]:
        return completion(sent, mode)

    def error(self, status: int, message: str, code: str | None = None) -> bytes:
        return error_body(status, message, code)

    def answer(self, request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
        """The status and the body, before anything happens to them on their way."""
        status = int(behaviour.mode) if behaviour.mode.isdigit() else behaviour.status
        if behaviour.body is not None:
            return status, behaviour.body.encode()
        complaint = _complaint(request)
        if complaint is not None:
            return complaint[0], self.error(*complaint)
        sent = request.json()
        if status != 200:
            # A vendor's message may quote the prompt, so this one does.
            message = f"Trouble with: {sent['messages'][-1]['content'][:200]}"
            return status, self.error(status, message, behaviour.code)
        body = json.dumps(self.completion(sent, behaviour.mode)).encode()
        return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body

    def count(self, request: Request) -> None:
        self.total += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        self.by_id.update(name.decode() for name in ID.findall(request.body)[:1])
        if self.requests.maxlen:
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


class _Connection(asyncio.Protocol):
    """One client's connection: its requests one after another, without pipelining."""

    transport: asyncio.Transport

    def __init__(self, server: OpenAIServer) -> None:
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
        if request.path.endswith("/chat/completions"):
            self._complete(request)
        elif (request.method, request.path) in _CONTROLS:
            self._send(200, _CONTROLS[request.method, request.path](self._server, request))
        else:
            self._send(404, error_body(404, "Unknown path."))

    def _complete(self, request: Request) -> None:
        self._server.count(request)
        behaviour = self._server.behaviour_of_next_call()
        if behaviour.latency_ms:
            loop = asyncio.get_running_loop()
            loop.call_later(behaviour.latency_ms / 1000, self._answer, request, behaviour)
        else:
            self._answer(request, behaviour)

    def _answer(self, request: Request, behaviour: Behaviour) -> None:
        self._server.open -= 1
        status, body = self._server.answer(request, behaviour)
        deliver = _DELIVERIES.get(behaviour.mode)
        self._server.statuses[str(status) if deliver is None else behaviour.mode] += 1
        if deliver is None:
            self._send(status, body, behaviour.headers)
        else:
            deliver(self.transport, head_of(status, len(body), behaviour.headers), body)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.transport.write(head_of(status, len(body), headers or {}) + body)


def head_of(status: int, length: int, headers: dict[str, str]) -> bytes:
    fields = {"content-type": "application/json", "content-length": str(length), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {'OK' if status == 200 else 'Answer'}\r\n{lines}\r\n".encode("latin-1")


def _complaint(request: Request) -> tuple[int, str, str | None] | None:
    """The status, the message and the code of a request that is none."""
    if not request.headers.get("authorization", "").startswith("Bearer "):
        return 401, "You did not provide an API key.", "invalid_api_key"
    try:
        sent = request.json()
        well_formed = isinstance(sent["model"], str) and all(
            isinstance(message["role"], str) and isinstance(message["content"], str) for message in sent["messages"]
        )
    except (ValueError, KeyError, TypeError):
        well_formed = False
    return None if well_formed else (400, "We could not parse the JSON body of your request.", None)


def error_body(status: int, message: str, code: str | None = None) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def completion(sent: dict[str, Any], mode: str = "ok") -> dict[str, Any]:
    """A chat completion object as the reference shows it, for the request that was sent."""
    message, finish_reason = _message(mode)
    prompt_tokens = sum(len(message["content"]) for message in sent["messages"]) // 4
    completion_tokens = len(message["content"] or "") // 4
    return {
        "id": "chatcmpl-local",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": sent["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _message(mode: str) -> tuple[dict[str, Any], str]:
    """The assistant's message and the finish_reason that goes with it."""
    verdict = json.dumps(VERDICT)
    content, refusal, finish_reason = {
        "refusal": (None, "I'm sorry, I can't help with that.", "stop"),
        "content_filter": (None, None, "content_filter"),
        "truncated": (verdict[: len(verdict) // 2], None, "length"),
    }.get(mode, (verdict, None, "stop"))
    return {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}, finish_reason


def _hang(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    """Send nothing; the client has to give up."""


def _close(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.close()


def _cut(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    transport.write(head + body[: len(body) // 2])
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
    "trickle": _trickle,
    "trickle_headers": _trickle_headers,
}


def _on_behaviour(server: OpenAIServer, request: Request) -> bytes:
    server.behave(**request.json())
    return b"{}"


def _on_reset(server: OpenAIServer, request: Request) -> bytes:
    server.reset()
    return b"{}"


def _on_stats(server: OpenAIServer, request: Request) -> bytes:
    return json.dumps(server.stats()).encode()


_CONTROLS: dict[tuple[str, str], Callable[[OpenAIServer, Request], bytes]] = {
    ("POST", "/behaviour"): _on_behaviour,
    ("POST", "/reset"): _on_reset,
    ("GET", "/stats"): _on_stats,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--mode", default="ok")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    behaviour = Behaviour(mode=given.mode, latency_ms=given.latency_ms, share=given.share, seed=given.seed)
    asyncio.run(_serve_until_signal(OpenAIServer(behaviour, port=given.port, keep_requests=0)))


async def _serve_until_signal(server: OpenAIServer) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.listen(lambda: _say(server.base_url), stop)


def _say(base_url: str) -> None:
    """One line that says where, as soon as calls are taken."""
    sys.stdout.write(f"{base_url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
