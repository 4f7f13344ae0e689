"""A provider on loopback that costs next to nothing and stamps each answer with the moment it was given.

The wait is in the path, http://127.0.0.1:PORT/2000/v1, so that one server serves every case. The stamp is in the
justification, which travels on to the event: whoever receives that knows when its answer was given.
"""

import asyncio
import json
import re
import signal
import time
from collections.abc import MutableSequence
from multiprocessing.connection import Connection

from scripts.local_servers import HOST

STAMP = re.compile(rb"answered at (\d{20})")
CALLS, OPEN = 0, 1  # What is counted: all calls so far, and those waiting for their answer now.

_BACKLOG = 2048
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)


def serve(told: Connection, counts: MutableSequence[int]) -> None:
    """The process: tells its port, and serves until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(told, counts))


async def _serve(told: Connection, counts: MutableSequence[int]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Caller(counts), HOST, 0, backlog=_BACKLOG)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Caller(asyncio.Protocol):
    """One connection of a client; it sends its next request only when the last is answered."""

    _transport: asyncio.Transport

    def __init__(self, counts: MutableSequence[int]) -> None:
        self._counts = counts
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 It is one, and mypy cannot know.
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self._counts[CALLS] += 1
        self._counts[OPEN] += 1
        wait_ms = int(head.split(b"/", 2)[1])
        asyncio.get_running_loop().call_later(wait_ms / 1000, self._answer)

    def _answer(self) -> None:
        self._counts[OPEN] -= 1
        self._transport.write(answer(time.monotonic_ns()))


def answer(stamp_ns: int) -> bytes:
    """The whole HTTP answer; as long for every stamp, so that its length is known beforehand."""
    return _ANSWER.replace(b"%STAMP%", b"%020d" % stamp_ns)


def _template() -> bytes:
    verdict = {"winner": "Essay B", "justification": f"Better reasons, answered at {0:020d}.", "confidence": 4}
    completion = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": json.dumps(verdict), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1100, "completion_tokens": 30, "total_tokens": 1130},
    }
    body = json.dumps(completion).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body.replace(b"answered at " + b"0" * 20, b"answered at %STAMP%")


_ANSWER = _template()
