"""The two clients of a benchmark, each in a process of its own: one posts the requests, one receives the events."""

import asyncio
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from kafka import KafkaConsumer, TopicPartition

from scripts.bench_provider import STAMP
from scripts.local_servers import HOST

BODY_BYTES = 4400

_HEAD = b"POST /api/v1/comparison HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json"
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Post:
    """What to post: each body once, over so many connections that are kept open."""

    port: int
    bodies: list[bytes]
    connections: int


@dataclass(frozen=True)
class Posted:
    """When the first request was sent and the last one answered, and how many answers there were of each status."""

    started_ns: int
    ended_ns: int
    statuses: Counter[int]

    @property
    def accepted(self) -> int:
        return self.statuses[202]


@dataclass(frozen=True)
class Arrival:
    """One event: its key, when the provider had answered, and when the event was here."""

    key: str
    answered_ns: int
    arrived_ns: int

    @property
    def milliseconds(self) -> float:
        return (self.arrived_ns - self.answered_ns) / 1e6


def request_body(correlation_id: str, topic: str) -> bytes:
    """A request of BODY_BYTES: two essays fill what the rest leaves."""
    room = BODY_BYTES - len(_request(correlation_id, topic, "", ""))
    return _request(correlation_id, topic, _essay(room // 2), _essay(room - room // 2))


def _essay(chars: int) -> str:
    return ("Reading takes us where we have never been. " * 60)[:chars]


def _request(correlation_id: str, topic: str, essay_a: str, essay_b: str) -> bytes:
    request = {
        "user_prompt": "Which of the two essays answers the question of the assignment better?",
        "essay_a": essay_a,
        "essay_b": essay_b,
        "callback_topic": topic,
        "llm_config_overrides": {"provider_override": "openai"},
        "correlation_id": correlation_id,
        "metadata": {"assignment": "bench", "pair": [1, 2]},
    }
    return json.dumps(request).encode()


def post(orders: Connection) -> None:
    """The posting process: an order in, a report out, until nobody gives orders any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError):
        while True:
            orders.send(asyncio.run(_post_all(orders.recv())))


async def _post_all(order: Post) -> Posted:
    loop, statuses, bodies = asyncio.get_running_loop(), Counter[int](), iter(order.bodies)
    posters = [_Poster(bodies, statuses) for _ in range(order.connections)]
    for poster in posters:
        await loop.create_connection(lambda made=poster: made, HOST, order.port)  # type: ignore[misc] # A default binds it.
    started = time.monotonic_ns()
    for poster in posters:
        poster.post_next()
    await asyncio.gather(*(poster.done for poster in posters))
    return Posted(started, time.monotonic_ns(), statuses)


class _Poster(asyncio.Protocol):
    """One connection, which takes the next body as soon as its last one is answered."""

    _transport: asyncio.Transport

    def __init__(self, bodies: Iterator[bytes], statuses: Counter[int]) -> None:
        self._bodies = bodies
        self._statuses = statuses
        self._received = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 It is one, and mypy cannot know.
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        # What was under way has no answer; what is left of the bodies, the other connections post.
        if not self.done.done():
            self.done.set_result(None)

    def post_next(self) -> None:
        body = next(self._bodies, None)
        if body is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._transport.write(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (_HEAD, len(body), body))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        self._statuses[int(head[9:12])] += 1
        self.post_next()


def receive(arrivals: Connection, bootstrap_servers: str, topic: str) -> None:
    """The receiving process: an empty list when it listens, then a list of arrivals for each poll that brought some."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False)
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    consumer.seek_to_end()
    # The positions are looked up when they are first needed; an event before that would be skipped.
    for partition in partitions:
        consumer.position(partition)
    arrivals.send([])
    while True:
        _pass_on(consumer, arrivals)


def _pass_on(consumer: KafkaConsumer, arrivals: Connection) -> None:
    polled = consumer.poll(timeout_ms=1000)
    now = time.monotonic_ns()
    records = [record for batch in polled.values() for record in batch]
    if records:
        arrivals.send([_arrival(record.key, record.value, now) for record in records])


def _arrival(key: bytes, value: bytes, now: int) -> Arrival:
    stamp = STAMP.search(value)
    # An event without the provider's stamp tells of an error.
    return Arrival(key.decode(), int(stamp[1]) if stamp else 0, now)
