"""gunicorn's worker with threads, which gives a connection to a thread only when a whole request has arrived.

Its main thread reads and writes all connections and waits for none, so that a client which sends or takes its bytes
slowly, or not at all, holds no thread. Requests and answers are gunicorn's own; whatever is late is closed.
"""

import errno
import io
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

import structlog
from gunicorn.http import errors
from gunicorn.http.body import CHUNK_EXT_RE, LengthReader
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn, ThreadWorker

from contracts.errors import ErrorCode
from llm_provider.api.problems import BODY_TOO_LARGE, DEFAULT_RETRY_AFTER_SECONDS, members
from llm_provider.config import load_settings
from llm_provider.logs import log_defect

log = structlog.get_logger(__name__)

RECV_BYTES = 64 * 1024
HEAD_BYTES = 64 * 1024
CHUNK_LINE_BYTES = 256
# So many largest bodies may be in memory half read; beyond that the oldest one has to give way.
HALF_READ_BODIES = 64
# Whoever is refused goes on sending for a while, and would not see the answer if the connection were reset.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 * 1024 * 1024
LOOK_SECONDS = 0.5

# Who watches must get an answer also when every thread is busy.
WATCHED_PATHS = ("/healthz", "/metrics")

_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")

_STATUSES = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
}
_REFUSALS = {
    HTTPStatus.BAD_REQUEST: (ErrorCode.VALIDATION_ERROR, "The request is no valid HTTP."),
    HTTPStatus.REQUEST_TIMEOUT: (ErrorCode.TIMEOUT, "The request did not arrive in time; send it again."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (ErrorCode.VALIDATION_ERROR, BODY_TOO_LARGE),
    HTTPStatus.REQUEST_URI_TOO_LONG: (ErrorCode.INVALID_REQUEST, "The request line is longer than is read here."),
    HTTPStatus.EXPECTATION_FAILED: (ErrorCode.INVALID_REQUEST, "No expectation is met here but 100-continue."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (ErrorCode.INVALID_REQUEST, "The headers are too large."),
    HTTPStatus.INTERNAL_SERVER_ERROR: (ErrorCode.UNKNOWN_ERROR, "The service failed; the failure is logged."),
    HTTPStatus.NOT_IMPLEMENTED: (ErrorCode.INVALID_REQUEST, "No transfer coding is read here but chunked."),
    HTTPStatus.SERVICE_UNAVAILABLE: (ErrorCode.SERVICE_UNAVAILABLE, "Too many requests at once; send it again later."),
}


class BodyTooLarge(Exception):
    """The body is, or is said to be, larger than is read."""


def refusal(status: HTTPStatus) -> bytes:
    """A whole answer for a request that no application has seen, and the end of its connection."""
    code, detail = _REFUSALS[status]
    field = [{"field": "body", "message": detail}] if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE else []
    may_pass = status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE}
    document = members(status, detail, code, is_retryable=may_pass, errors=field)
    body = json.dumps(document)
    retry = f"Retry-After: {DEFAULT_RETRY_AFTER_SECONDS}\r\n" if may_pass else ""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n{retry}"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode("ascii")


class RequestReader(RequestParser):  # type: ignore[misc] # gunicorn ships no types.
    """Collects a connection's bytes until they are a request; gunicorn's parser judges them."""

    def __init__(self, cfg: Any, client: Any, max_body_bytes: int) -> None:
        super().__init__(cfg, (), client)
        self._max_body_bytes = max_body_bytes
        self.begin()

    def begin(self) -> bytes:
        """Make ready for the next request; what has come of it already."""
        self.arrived, self._content = bytearray(), bytearray()
        self.has_head, self._length, self._chunk = False, None, 0
        already: bytes = self.unreader.take_buffered()
        return already

    def __next__(self) -> Any:
        """The request that has arrived, for the thread that answers it."""
        return self.mesg

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Nothing of it is left on the socket."""
        return True

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request has arrived."""
        return self.has_head or bool(self.arrived.strip())

    def feed(self, data: bytes) -> bool:
        """Whether that makes the request whole; raises BodyTooLarge, or what gunicorn has against it."""
        self.arrived += data
        if not self.has_head and not self._take_head(len(data)):
            return False
        if self._length is None:
            return self._chunks_ended() and self._take_body(self._last_chunk, self._chunk)
        return len(self.arrived) >= self._length and self._take_body(partial(self.unreader.read, self._length))

    def _take_head(self, new_bytes: int) -> bool:
        start = max(0, len(self.arrived) - new_bytes - 3)
        if self.arrived.find(b"\r\n\r\n", start) < 0 and self.arrived.find(b"\n\n", start) < 0:
            if len(self.arrived) > HEAD_BYTES:
                raise errors.LimitRequestHeaders("too long")
            return False
        self.unreader.unread(bytes(self.arrived))
        super().__next__()
        self.arrived, self.has_head = bytearray(self.unreader.take_buffered()), True
        reader = self.mesg.body.reader
        self._length = reader.length if isinstance(reader, LengthReader) else None
        if self._length is not None and self._length > self._max_body_bytes:
            raise BodyTooLarge
        return True

    def _take_body(self, read: Callable[[], bytes], start: int = 0) -> bool:
        self.unreader.unread(bytes(self.arrived[start:]))
        self.mesg.body = io.BytesIO(read())
        self.arrived.clear()
        return True

    def _chunks_ended(self) -> bool:
        """Whether the last chunk is there. Each is copied once: gunicorn would copy all that is left for every one."""
        while (end := self.arrived.find(b"\r\n", self._chunk, self._chunk + CHUNK_LINE_BYTES)) >= 0:
            size = _CHUNK_SIZE.match(self.arrived, self._chunk, end)
            if size is None or CHUNK_EXT_RE.fullmatch(self.arrived, size.end(), end) is None:
                raise errors.InvalidChunkSize(b"")
            length = int(size[0], 16)
            if length == 0:
                return self.arrived.find(b"\r\n\r\n", end) >= 0 or len(self.arrived) - end > HEAD_BYTES
            if len(self._content) + length > self._max_body_bytes or end > 2 * self._max_body_bytes + HEAD_BYTES:
                raise BodyTooLarge
            following = end + 2 + length + 2
            if bytes(self.arrived[following - 2 : following]) not in (b"", b"\r", b"\r\n"):
                raise errors.ChunkMissingTerminator(b"")
            if following > len(self.arrived):
                return False
            self._content += self.arrived[end + 2 : following - 2]
            self._chunk = following
        if len(self.arrived) - self._chunk >= CHUNK_LINE_BYTES:
            raise errors.InvalidChunkSize(b"")
        return False

    def _last_chunk(self) -> bytes:
        """The whole body, once gunicorn has judged its end."""
        self.mesg.body.read()
        return bytes(self._content)


class AnswerSocket(socket.socket):
    """Keeps what is sent; `flush` gives the client what it takes, and nobody waits for it."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        super().setblocking(False)
        self.unsent = bytearray()

    def setblocking(self, flag: bool) -> None:
        """It never blocks, whoever wants it to."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.unsent += data

    def send(self, data: Any, flags: int = 0) -> int:
        self.unsent += data
        return len(data)

    def flush(self) -> bool:
        """Whether all of it is on its way."""
        with suppress(BlockingIOError):
            del self.unsent[: super().send(self.unsent) if self.unsent else 0]
        return not self.unsent


class Lane(ThreadPoolExecutor):
    """Threads for some of the requests, and how many of those they have or are to have."""

    in_hand = 0


class Connection(TConn):  # type: ignore[misc]
    """One client: what is done when its socket is ready, until when that may be, and what comes behind an answer."""

    step: Callable[["Connection"], None]
    then: Callable[["Connection"], None]
    lane: Lane
    began = deadline = 0.0
    held = drained = 0


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """All but `handle_request` and `handle_error` runs in the main thread."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        super().check_config(cfg, log)
        if cfg.is_ssl:
            sys.exit("llm-provider: TLS belongs to a proxy in front; the web process has none of its own.")

    def init_process(self) -> None:
        self._settings = load_settings()
        # In the order in which they began to wait.
        self._waiting: dict[Connection, None] = {}
        self._held, self._next_look = 0, 0.0
        self._lanes = {path: Lane(2) for path in WATCHED_PATHS}
        super().init_process()

    def get_thread_pool(self) -> Lane:
        return Lane(self.cfg.threads)

    def accept(self, listener: socket.socket) -> None:
        if self.nr_conns + 1 >= self.worker_connections:
            self._make_room()
        try:
            accepted, client = listener.accept()
        except OSError as error:
            # Another process took it, its client has gone, or there are no file descriptors left.
            log.debug("connection_not_accepted", error=type(error).__name__)
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._make_room()
            return
        self.nr_conns += 1
        conn = Connection(self.cfg, AnswerSocket(accepted), client, listener.getsockname())
        conn.parser, conn.initialized = RequestReader(self.cfg, client, self._settings.max_body_bytes), True
        self.enqueue_req(conn)

    def _make_room(self) -> None:
        if self.keepalived_conns:
            # Closed behind this turn's events, one of which may be its own.
            self.keepalived_conns[0].timeout = 0.0
        elif oldest := next(iter(self._waiting), None):
            self._drop(oldest)

    def enqueue_req(self, conn: Connection) -> None:
        """Read the next request, of which the last read may have brought a part."""
        self._run(conn, self._begin)

    def _run(self, conn: Connection, step: Callable[[Connection], None]) -> None:
        try:
            step(conn)
        except Exception as error:
            # An OSError: the client has gone.
            if not isinstance(error, OSError):
                log_defect(log, "connection_broke", error)
            self._drop(conn)

    def _begin(self, conn: Connection) -> None:
        conn.began = time.monotonic()
        conn.deadline = conn.began + self._settings.web_head_seconds
        already = conn.parser.begin()
        self._take(conn, already) if already else self._read(conn)

    def _read(self, conn: Connection) -> None:
        try:
            data = conn.sock.recv(RECV_BYTES)
        except BlockingIOError:
            self._wait(conn, EVENT_READ, self._read)
            return
        if data:
            self._take(conn, data)
        else:
            # Who has sent a part may still read.
            self._refuse(conn, HTTPStatus.BAD_REQUEST) if conn.parser.has_begun else self._drop(conn)

    def _take(self, conn: Connection, data: bytes) -> None:
        try:
            is_whole = conn.parser.feed(data)
        except BodyTooLarge:
            self._refuse(conn, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except (errors.ParseException, errors.NoMoreData) as error:
            self._refuse(conn, _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST))
        else:
            self._hand_over(conn) if is_whole else self._read_on(conn, len(data))

    def _read_on(self, conn: Connection, new_bytes: int) -> None:
        conn.held += new_bytes
        self._held += new_bytes
        if conn.parser.has_head:
            conn.deadline = conn.began + self._settings.web_request_seconds
            self._let_continue(conn)
        self._wait(conn, EVENT_READ, self._read)
        if self._held > HALF_READ_BODIES * self._settings.max_body_bytes:
            self._run(next(each for each in self._waiting if each.held), self._refuse)

    def _let_continue(self, conn: Connection) -> None:
        request = conn.parser.mesg
        if request._expected_100_continue:  # noqa: SLF001 - gunicorn has no other word for it.
            request._expected_100_continue = False  # noqa: SLF001
            conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            conn.sock.flush()

    def _hand_over(self, conn: Connection) -> None:
        self._leave(conn)
        conn.lane = self._lanes.get(conn.parser.mesg.path) or self.tpool
        if conn.lane is self.tpool and conn.lane.in_hand >= self.worker_connections // 2:
            self._refuse(conn)
            return
        conn.lane.in_hand += 1
        answered = conn.lane.submit(self.handle, conn)
        answered.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def handle_request(self, req: Any, conn: Connection) -> bool:
        keeps: bool = super().handle_request(req, conn)
        conn.sock.flush()
        return keeps

    def handle_error(self, req: Any, client: AnswerSocket, addr: Any, exc: Exception) -> None:
        log_defect(log, "request_broke", exc)
        client.unsent[:] = refusal(HTTPStatus.INTERNAL_SERVER_ERROR)

    def finish_request(self, conn: Connection, fs: Future[bool]) -> None:
        conn.lane.in_hand -= 1
        # An idle connection shall not keep what it sent last.
        conn.parser.mesg.body = io.BytesIO()
        is_kept = fs.exception() is None and fs.result()
        conn.then = partial(super().finish_request, fs=fs) if is_kept else self._linger
        conn.deadline = time.monotonic() + self._settings.web_answer_seconds
        self._run(conn, self._send)

    def _refuse(self, conn: Connection, status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE) -> None:
        log.info("request_not_read", status=status.value)
        self._leave(conn)
        conn.sock.sendall(refusal(status))
        conn.then, conn.deadline = self._linger, time.monotonic() + LINGER_SECONDS
        self._send(conn)

    def _send(self, conn: Connection) -> None:
        if conn.sock.flush():
            self._leave(conn)
            conn.then(conn)
        else:
            self._wait(conn, EVENT_WRITE, self._send)

    def _linger(self, conn: Connection) -> None:
        """End what is sent, and throw away what still comes: a reset would take the answer from its reader."""
        conn.sock.shutdown(socket.SHUT_WR)
        conn.deadline = time.monotonic() + LINGER_SECONDS
        self._drain(conn)

    def _drain(self, conn: Connection) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = conn.sock.recv(RECV_BYTES)
            conn.drained += len(data)
            if not data or conn.drained > LINGER_BYTES:
                self._drop(conn)
                return
        self._wait(conn, EVENT_READ, self._drain)

    def _wait(self, conn: Connection, events: int, step: Callable[[Connection], None]) -> None:
        conn.step = step
        if conn not in self._waiting:
            self._waiting[conn] = None
            self.poller.register(conn.sock, events, partial(self._go_on, conn))

    def _go_on(self, conn: Connection, _sock: object) -> None:
        # An event of the same turn may have ended it.
        if conn in self._waiting:
            self._run(conn, conn.step)

    def _leave(self, conn: Connection) -> None:
        self._held -= conn.held
        conn.held = 0
        if conn in self._waiting:
            del self._waiting[conn]
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Connection) -> None:
        self._leave(conn)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """gunicorn's name for what is done every turn: end what has taken too long."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for conn in [each for each in self._waiting if each.deadline <= now]:
            is_begun = conn.step == self._read and conn.parser.has_begun
            self._run(conn, partial(self._refuse, status=HTTPStatus.REQUEST_TIMEOUT) if is_begun else self._drop)

    def _cap_keepalive(self, deadline: float) -> None:
        """At the begin of a shutdown: who has not sent a whole request does it now or never."""
        super()._cap_keepalive(deadline)
        for conn in [each for each in self._waiting if each.step == self._read]:
            conn.deadline = min(conn.deadline, deadline)
