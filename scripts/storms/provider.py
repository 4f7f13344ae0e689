"""A provider on loopback that remembers every call: which request, from which worker, from when until when.

A worker is told by the path it calls, http://127.0.0.1:PORT/<worker>/v1, and a request by the `id=req<number>` in its
prompt. As a script: python -m scripts.storms.provider PORT

    POST .../chat/completions   answers as it was told to
    POST /behaviour             tells it: {"mode": ..., "share": ..., "latency_ms": ...}
    GET  /calls                 every call so far: [number, worker, begun, ended, how], times of time.monotonic()
"""

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

HOST = "127.0.0.1"
RETRY_AFTER_SECONDS = 1
OK, HANG, CUT, INVALID = "ok", "hang", "cut", "invalid"
ABANDONED = "abandoned"  # The caller's connection ended before the answer.

_BACKLOG = 1024
_NUMBER = re.compile(rb"\bid=req(\d{1,20})\b")
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_VERDICT = {"winner": "Essay B", "justification": "It supports each claim with a reason.", "confidence": 4}


@dataclass(frozen=True)
class Behaviour:
    """What happens to a `share` of the calls; the others are answered well. Each takes latency_ms, half to double."""

    mode: str = OK
    share: float = 1.0
    latency_ms: float = 0.0


@dataclass
class Call:
    """One call; `ended` is None while it is open."""

    number: int
    worker: str
    begun: float
    ended: float | None = None
    how: str = ""

    def end(self, at: float, how: str) -> None:
        if self.ended is None:
            self.ended, self.how = at, how


@dataclass
class Provider:
    """The state of the server."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    calls: list[Call] = field(default_factory=list)
    asked: Counter[int] = field(default_factory=Counter)

    def next_answer(self, call: Call) -> tuple[str, float]:
        """How this call is answered, and after how many seconds: drawn from its number, so the same in every run.

        A request that was refused may be luckier when it is asked again.
        """
        draw = Random(call.number + 1_000_000 * self.asked[call.number])  # noqa: S311 It has to be repeatable.
        behaviour = self.behaviour
        seconds = behaviour.latency_ms / 1000 * draw.uniform(0.5, 2.0)
        return (behaviour.mode if draw.random() < behaviour.share else OK), seconds

    def listing(self) -> bytes:
        rows = [[call.number, call.worker, call.begun, call.ended, call.how] for call in self.calls]
        return json.dumps(rows).encode()


class _Caller(asyncio.Protocol):
    """One connection; it sends its next request only when the last is answered."""

    _transport: asyncio.Transport

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._received = b""
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 It is one, and mypy cannot know.
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._call is not None:
            self._call.end(_now(), ABANDONED)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self._handle(method, path, body)

    def _handle(self, method: str, path: str, body: bytes) -> None:
        if path.endswith("/chat/completions"):
            self._complete(path.split("/")[1], body)
        elif (method, path) == ("POST", "/behaviour"):
            self._provider.behaviour = Behaviour(**json.loads(body))
            self._transport.write(response(200, b"{}"))
        elif (method, path) == ("GET", "/calls"):
            self._transport.write(response(200, self._provider.listing()))
        else:
            self._transport.write(response(404, b"{}"))

    def _complete(self, worker: str, body: bytes) -> None:
        found = _NUMBER.search(body)
        call = self._call = Call(int(found[1]) if found else -1, worker, _now())
        self._provider.calls.append(call)
        how, seconds = self._provider.next_answer(call)
        self._provider.asked[call.number] += 1
        if how != HANG:
            asyncio.get_running_loop().call_later(seconds, self._answer, call, how)

    def _answer(self, call: Call, how: str) -> None:
        if call.ended is not None:
            return
        call.end(_now(), how)
        self._transport.write(answer(how))
        if how == CUT:
            self._transport.close()


def answer(how: str) -> bytes:
    """The bytes of one answer, head and body."""
    if how.isdigit():
        error = {"error": {"message": "Not now.", "type": "server_error", "param": None, "code": None}}
        return response(int(how), json.dumps(error).encode(), f"retry-after: {RETRY_AFTER_SECONDS}\r\n")
    body = json.dumps(_completion()).encode()
    if how == INVALID:
        return response(200, body[: len(body) // 2])
    whole = response(200, body)
    return whole[: -len(body) // 2] if how == CUT else whole


def response(status: int, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def _completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": json.dumps(_VERDICT), "refusal": None}
    return {
        "id": "chatcmpl-storm",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "storm",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1100, "completion_tokens": 30, "total_tokens": 1130},
    }


def _now() -> float:
    # The loop's clock is time.monotonic(), which all processes of one machine share.
    return asyncio.get_running_loop().time()


async def _serve(port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    provider = Provider()
    await loop.create_server(lambda: _Caller(provider), HOST, port, backlog=_BACKLOG)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
