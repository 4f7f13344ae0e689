"""A local server that speaks models.generateContent, with every kind of trouble a vendor can make.

Written from Google's published references: https://ai.google.dev/api/generate-content (the method, the request, the
response with its finish and block reasons, and the counts of tokens), https://ai.google.dev/gemini-api/docs/thinking
(thought parts and their tokens), https://ai.google.dev/gemini-api/docs/troubleshooting (the statuses and what they
mean) and https://google.aip.dev/193 (an error's body and its details), as of November 2026.

As a script: python -m tests.integration.google_server --port 9003 --latency-ms 2000
    POST /v1/models/MODEL:generateContent   answers as it was told to; any version will do
    POST /behaviour             tells it: a JSON object with any of Behaviour's fields; the others go back to default
    GET  /stats                 {"total", "open", "peak", "connections", "statuses": {...}, "by_id": {...}}: peak is
                                how many were open at once; a call's id is what follows "id=" in it
    POST /reset                 forgets the counts
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

METHOD = re.compile(r".*/(v\d\w*)/((?:models|tunedModels)/[^/:?#]+):generateContent")
ID = re.compile(rb"\bid=([\w.:-]+)")
TRICKLE_SECONDS = 0.05
BACKLOG = 1024
VERDICT = {
    "winner": "Essay B",
    "justification": "The second essay supports each claim with a reason.",
    "confidence": 4,
}

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Behaviour:
    """What happens to every call.

    mode: ok, blocked, truncated, thought_out (truncated before there is an answer), invalid_json, no_parts, or a
    finish reason like SAFETY; hang (no answer), close (without a byte), cut (in the middle of the body), trickle and
    trickle_headers (a byte now and then). Or `status` is an error's, and its body gets `details` as in AIP-193.
    `body` replaces the body as it is, `answer` some fields of a good one.
    """

    mode: str = "ok"
    status: int = 200
    latency_ms: float = 0
    reason: str | None = None
    details: tuple[dict[str, Any], ...] = ()
    answer: dict[str, Any] = field(default_factory=dict)
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


class GoogleServer:
    """The server's state, and its thread: `with GoogleServer() as server: ... server.base_url`."""

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0, keep_requests: int = 1000) -> None:
        self.port = port
        self.behaviour = behaviour or Behaviour()
        self.requests: deque[Request] = deque(maxlen=keep_requests)
        self.connections = 0
        self.open = 0
        self.live: set[asyncio.Transport] = set()
        self.reset()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, **fields: Any) -> None:
        self.behaviour = Behaviour(**fields)

    def reset(self) -> None:
        self.total = self.peak = 0
        self.by_id, self.statuses = Counter[str](), Counter[str]()

    def stats(self) -> dict[str, Any]:
        numbers = {"total": self.total, "open": self.open, "peak": self.peak, "connections": self.connections}
        return {**numbers, "statuses": dict(self.statuses), "by_id": dict(self.by_id)}

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

    def __init__(self, server: GoogleServer) -> None:
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
        if METHOD.fullmatch(request.path):
            self._generate(request)
        elif (request.method, request.path) in _CONTROLS:
            self._send(200, _CONTROLS[request.method, request.path](self._server, request))
        else:
            self._send(404, error_body(404, "Unknown path."))

    def _generate(self, request: Request) -> None:
        self._server.count(request)
        behaviour = self._server.behaviour
        loop = asyncio.get_running_loop()
        loop.call_later(behaviour.latency_ms / 1000, self._answer, request, behaviour)

    def _answer(self, request: Request, behaviour: Behaviour) -> None:
        self._server.open -= 1
        status, body = answer(request, behaviour)
        deliver = _DELIVERIES.get(behaviour.mode)
        self._server.statuses[str(status) if deliver is None else behaviour.mode] += 1
        if deliver is None:
            self._send(status, body, behaviour.headers)
        else:
            deliver(self.transport, head_of(status, len(body), behaviour.headers), body)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.transport.write(head_of(status, len(body), headers or {}) + body)


def head_of(status: int, length: int, headers: dict[str, str]) -> bytes:
    fields = {"content-type": "application/json; charset=UTF-8", "content-length": str(length), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {'OK' if status == 200 else 'Answer'}\r\n{lines}\r\n".encode("latin-1")


def answer(request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
    """The status and the body, before anything happens to them on their way."""
    if behaviour.body is not None:
        return behaviour.status, behaviour.body.encode("latin-1")
    complaint = _complaint(request)
    if complaint is not None:
        return 400, complaint
    sent = request.json()
    if behaviour.status != 200:
        # A vendor's message may quote the prompt, so this one does.
        message = f"Trouble with: {sent['contents'][-1]['parts'][-1]['text'][:200]}"
        return behaviour.status, error_body(behaviour.status, message, behaviour.reason, *behaviour.details)
    match = METHOD.fullmatch(request.path)
    assert match is not None
    body = json.dumps(response(sent, match[2], behaviour.mode) | behaviour.answer).encode()
    return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body


def _complaint(request: Request) -> bytes | None:
    if not request.headers.get("x-goog-api-key"):
        details = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        return error_body(400, "API key not valid. Please pass a valid API key.", None, details)
    try:
        sent = request.json()
        contents = [*sent["contents"], sent.get("systemInstruction", {"parts": [{"text": ""}]})]
        well_formed = all(isinstance(part["text"], str) for content in contents for part in content["parts"])
    except (ValueError, KeyError, TypeError):
        well_formed = False
    return None if well_formed else error_body(400, "Invalid JSON payload received.")


def error_body(status: int, message: str, reason: str | None = None, *details: dict[str, Any]) -> bytes:
    """google.rpc.Status as JSON; `reason` is its canonical code's name."""
    error = {"code": status, "message": message, "status": reason or STATUSES.get(status, "UNKNOWN")}
    return json.dumps({"error": {**error, "details": details} if details else error}).encode()


def response(sent: dict[str, Any], model: str, mode: str = "ok") -> dict[str, Any]:
    """A GenerateContentResponse as the reference shows it, for the request that was sent."""
    prompt_tokens = sum(len(part["text"]) for content in sent["contents"] for part in content["parts"]) // 4
    text = _text(mode)
    usage = {
        "promptTokenCount": prompt_tokens,
        "candidatesTokenCount": len(text) // 4,
        "totalTokenCount": prompt_tokens + len(text) // 4,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt_tokens}],
    }
    if mode == "blocked":
        verdict: dict[str, Any] = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    else:
        verdict = {"candidates": [_candidate(mode, text)]}
    name = model.removeprefix("models/")
    return {**verdict, "usageMetadata": usage, "modelVersion": name, "responseId": "local"}


def _text(mode: str) -> str:
    verdict = json.dumps(VERDICT)
    if mode in ("truncated", "CONTINUATION"):
        return verdict[: len(verdict) // 2]
    # A refusal comes without a text, as does an answer that is blocked.
    return "" if mode in ("blocked", "thought_out", "no_parts") or mode.isupper() else verdict


def _candidate(mode: str, text: str) -> dict[str, Any]:
    reason = {"truncated": "MAX_TOKENS", "thought_out": "MAX_TOKENS"}.get(mode, mode if mode.isupper() else "STOP")
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}}
    if not text:
        candidate = {"content": {"role": "model"}} if mode == "no_parts" else {}
    token = {"continuationToken": "Z28gb24="} if mode == "CONTINUATION" else {}
    return {**candidate, "finishReason": reason, "index": 0, **token}


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


def _on_behaviour(server: GoogleServer, request: Request) -> bytes:
    server.behave(**request.json())
    return b"{}"


def _on_reset(server: GoogleServer, request: Request) -> bytes:
    server.reset()
    return b"{}"


def _on_stats(server: GoogleServer, request: Request) -> bytes:
    return json.dumps(server.stats()).encode()


_CONTROLS: dict[tuple[str, str], Callable[[GoogleServer, Request], bytes]] = {
    ("POST", "/behaviour"): _on_behaviour,
    ("POST", "/reset"): _on_reset,
    ("GET", "/stats"): _on_stats,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--mode", default="ok")
    given = parser.parse_args()
    behaviour = Behaviour(mode=given.mode, latency_ms=given.latency_ms)
    asyncio.run(_serve_until_signal(GoogleServer(behaviour, port=given.port, keep_requests=0)))


async def _serve_until_signal(server: GoogleServer) -> None:
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
