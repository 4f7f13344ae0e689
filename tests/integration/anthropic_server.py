"""A local server that speaks the Messages API, with every kind of trouble a vendor can make.

Written from Anthropic's published API reference for version 2026-10-21, read on 2026-11-22:
https://platform.claude.com/docs/en/api/messages (the request and the message object),
https://platform.claude.com/docs/en/api/versioning (what each version takes),
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (what a schema may hold),
https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons and
https://platform.claude.com/docs/en/api/errors, https://platform.claude.com/docs/en/api/rate-limits (the errors).

As a script: python -m tests.integration.anthropic_server --port 9001 --latency-ms 2000
    POST /v1/messages   answers as it was told to; what the reference does not allow is a 400
    POST /behaviour     tells it: a JSON object with any of Behaviour's fields; the others go back to default
    GET  /stats         {"total", "open", "peak", "connections", "by_id": {...}}: peak is how many were open at once;
                        a call's id is what follows "id=" in it
    POST /reset         forgets the counts
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

ID = re.compile(rb"\bid=([\w.:-]+)")
TRICKLE_SECONDS = 0.05
BACKLOG = 1024
VERSIONS = {"2023-06-01", "2026-10-21"}
SAMPLING = {"temperature", "top_p", "top_k"}
PARAMETERS = {
    *{"model", "max_tokens", "messages", "system", "output_config", "tools", "tool_choice", "thinking", "metadata"},
    *{"stop_sequences", "service_tier", "speed", "stream", "cache_control", "inference_geo"},
}
EFFORTS = {"low", "medium", "high", "xhigh", "max"}
# What a schema may not hold, since the model's grammar cannot enforce it.
UNSUPPORTED = {"minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "uniqueItems"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
VERDICT = {
    "winner": "Essay B",
    "justification": "The second essay supports each claim with a reason.",
    "confidence": 4,
}


@dataclass(frozen=True)
class Behaviour:
    """What happens to every call.

    mode: ok; hang (no answer), close (without a byte), cut (in the middle of the body), trickle and trickle_headers
    (a byte now and then), invalid_json (half a body); or an error's status, like 429. `message` replaces fields of
    the message, `body` the whole body. `code` and `says` are an error's error_code and words.
    """

    mode: str = "ok"
    status: int = 200
    latency_ms: float = 0
    code: str | None = None
    says: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
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


class Refused(Exception):
    """What the vendor would not take."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status, self.says = status, says


class AnthropicServer:
    """The server's state, and its thread: `with AnthropicServer() as server: ... server.base_url`."""

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0, keep_requests: int = 1000) -> None:
        self.port = port
        self.behaviour = Behaviour() if behaviour is None else behaviour
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
        self.by_id = Counter[str]()

    def stats(self) -> dict[str, Any]:
        numbers = {"total": self.total, "open": self.open, "peak": self.peak, "connections": self.connections}
        return {**numbers, "by_id": dict(self.by_id)}

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


class _Connection(asyncio.Protocol):
    """One client's connection: its requests one after another, without pipelining."""

    transport: asyncio.Transport

    def __init__(self, server: AnthropicServer) -> None:
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
        called = (request.method, request.path)
        if called == ("POST", "/v1/messages"):
            self._create_message(request)
        elif called in _CONTROLS:
            self._send(200, _CONTROLS[called](self._server, request), {})
        else:
            self._send(404, error_body(404, "Not found"), {})

    def _create_message(self, request: Request) -> None:
        self._server.count(request)
        behaviour = self._server.behaviour
        delay = behaviour.latency_ms / 1000
        asyncio.get_running_loop().call_later(delay, self._answer, request, behaviour)

    def _answer(self, request: Request, behaviour: Behaviour) -> None:
        self._server.open -= 1
        status, body = answer(request, behaviour)
        deliver = _DELIVERIES.get(behaviour.mode)
        if deliver is None:
            self._send(status, body, behaviour.headers)
        else:
            deliver(self.transport, head_of(status, len(body), behaviour.headers), body)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.transport.write(head_of(status, len(body), headers) + body)


def head_of(status: int, length: int, headers: dict[str, str]) -> bytes:
    fields = {
        "content-type": "application/json",
        "content-length": str(length),
        "request-id": "req_local",
        "anthropic-organization-id": "org-local",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {'OK' if status == 200 else 'Answer'}\r\n{lines}\r\n".encode("latin-1")


def answer(request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
    """The status and the body, before anything happens to them on their way."""
    status = int(behaviour.mode) if behaviour.mode.isdigit() else behaviour.status
    if behaviour.body is not None:
        return status, behaviour.body.encode()
    try:
        sent = accepted(request)
    except Refused as refusal:
        return refusal.status, error_body(refusal.status, refusal.says)
    if status != 200:
        # A vendor's message may quote the prompt, so this one does.
        quoted = f"Trouble with: {sent['messages'][-1]['content'][:200]}"
        return status, error_body(status, behaviour.says or quoted, behaviour.code)
    body = json.dumps({**message(sent), **behaviour.message}).encode()
    return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body


def accepted(request: Request) -> dict[str, Any]:
    """The request's body, when the vendor would take it."""
    key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if not key:
        raise Refused(401, "x-api-key header is required")
    version = request.headers.get("anthropic-version")
    if version not in VERSIONS:
        raise Refused(400, "anthropic-version: header is required")
    try:
        sent = request.json()
        complaint = next(_complaints(sent, PARAMETERS if version == "2026-10-21" else PARAMETERS | SAMPLING), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(400, "The request body is not valid.") from None
    if complaint is not None:
        raise Refused(400, complaint)
    return dict(sent)


def _complaints(sent: dict[str, Any], parameters: set[str]) -> Iterator[str]:
    yield from (f"{name}: Extra inputs are not permitted" for name in sent.keys() - parameters)
    if not isinstance(sent["model"], str) or not isinstance(sent["max_tokens"], int) or sent["max_tokens"] < 1:
        yield "model, max_tokens: Input should be valid"
    if any(turn["role"] not in {"user", "assistant"} or not turn["content"] for turn in sent["messages"]):
        yield "messages: all messages must have a role and non-empty content"
    if not 0 <= sent.get("temperature", 1) <= 1:
        yield "temperature: range: 0..1"
    yield from _structure_complaints(sent)


def _structure_complaints(sent: dict[str, Any]) -> Iterator[str]:
    config = sent.get("output_config", {})
    yield from (
        f"output_config.{name}: Extra inputs are not permitted" for name in config.keys() - {"effort", "format"}
    )
    if config.get("effort", "low") not in EFFORTS:
        yield "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
    schemas = [tool["input_schema"] for tool in sent.get("tools", []) if tool.get("strict")]
    if "format" in config:
        schemas.append(config["format"]["schema"])
    yield from (complaint for schema in schemas for complaint in _schema_complaints(schema))
    names = {tool["name"] for tool in sent.get("tools", [])}
    if "tool_choice" in sent and sent["tool_choice"].get("name") not in names:
        yield "tool_choice.name: tool not found in provided tools"


def _schema_complaints(schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"output_config.format.schema: '{name}' is not supported" for name in schema.keys() & UNSUPPORTED)
    if schema["type"] == "object":
        if schema.get("additionalProperties") is not False:
            yield "output_config.format.schema: 'additionalProperties' must be explicitly set to false"
        for inner in schema["properties"].values():
            yield from _schema_complaints(inner)


def error_body(status: int, says: str, code: str | None = None) -> bytes:
    error: dict[str, Any] = {"type": ERROR_TYPES.get(status, "api_error"), "message": says}
    if code is not None:
        error["details"] = {"error_code": code}
    return json.dumps({"type": "error", "error": error, "request_id": "req_local"}).encode()


def message(sent: dict[str, Any]) -> dict[str, Any]:
    """A message object as the reference shows it, for the request that was sent."""
    content, stop_reason = _content(sent)
    read = sent.get("system", "") + "".join(turn["content"] for turn in sent["messages"])
    return {
        "id": "msg_local",
        "type": "message",
        "role": "assistant",
        "model": sent["model"],
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": len(read) // 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": len(json.dumps(VERDICT)) // 4,
            "service_tier": "standard",
        },
    }


def _content(sent: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    if "tool_choice" in sent:
        tool = {"type": "tool_use", "id": "toolu_local", "name": sent["tool_choice"]["name"], "input": VERDICT}
        return [tool], "tool_use"
    return [{"type": "text", "text": json.dumps(VERDICT), "citations": None}], "end_turn"


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


def _on_behaviour(server: AnthropicServer, request: Request) -> bytes:
    server.behave(**request.json())
    return b"{}"


def _on_reset(server: AnthropicServer, request: Request) -> bytes:
    server.reset()
    return b"{}"


def _on_stats(server: AnthropicServer, request: Request) -> bytes:
    return json.dumps(server.stats()).encode()


_CONTROLS: dict[tuple[str, str], Callable[[AnthropicServer, Request], bytes]] = {
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
    asyncio.run(_serve_until_signal(AnthropicServer(behaviour, port=given.port, keep_requests=0)))


async def _serve_until_signal(server: AnthropicServer) -> None:
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
