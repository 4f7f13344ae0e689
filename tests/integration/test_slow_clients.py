"""Clients that send or take their bytes slowly, or not at all: gunicorn as the Procfile starts it, and raw sockets."""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.local_servers import RedisServer, wait_until
from tests.integration.openai_server import Behaviour, OpenAIServer
from tests.integration.web_process import WebProcess, comparison

SLOW = 80
# On this machine alone it is milliseconds; the fault took tens of seconds, or for ever.
SOON_SECONDS = 5.0
HEAD_SECONDS, REQUEST_SECONDS = 2, 4
MEMBERS = {"type", "title", "status", "detail", "instance", "error_code", "correlation_id", "is_retryable", "errors"}

BODY = json.dumps(comparison()).encode()
POST = b"POST /api/v1/comparison HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SLOW_STARTS = {
    "silent": b"",
    "half a head": POST[:-10],
    "half a body": WHOLE[:-10],
    "half a chunk": CHUNKED[:-20],
}


def started(redis: RedisServer, directory: Path, **settings: str) -> WebProcess:
    """One gunicorn process, impatient."""
    patience = {"WEB_HEAD_SECONDS": str(HEAD_SECONDS), "WEB_REQUEST_SECONDS": str(REQUEST_SECONDS)}
    of_service = {"REDIS_URL": redis.url, "WEB_PROCESSES": "1"} | patience | settings
    return WebProcess(directory, {f"LLM_PROVIDER_{name}": value for name, value in of_service.items()})


@pytest.fixture(scope="module")
def web(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    process = started(redis, tmp_path_factory.mktemp("web"))
    yield process
    process.stop()


def connected(web: WebProcess) -> socket.socket:
    address = urlsplit(web.url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def answers(client: socket.socket) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of everything that comes until the end."""
    received = b"".join(iter(lambda: client.recv(65536), b""))
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(each.lower().split(": ", 1) for each in lines)
        size = int(headers.get("content-length", 0))
        found.append((int(line.split()[1]), headers, rest[:size]))
        received = rest[size:]
    return found


def told(web: WebProcess, *parts: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers to these parts, sent one after the other."""
    with connected(web) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(0.01)
        client.shutdown(socket.SHUT_WR)
        return answers(client)


def seconds_of_service(web: WebProcess) -> float:
    """How long others wait for a probe and for a comparison."""
    began = time.monotonic()
    assert web.get("/healthz").status_code == 200
    assert web.post().status_code == 200
    return time.monotonic() - began


def is_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> bool:
    """Whether it is a problem document with all its members."""
    document: dict[str, Any] = json.loads(answer[2])
    is_whole = document.keys() == MEMBERS | {"error"} and document["status"] == status
    return is_whole and answer[0] == status and answer[1]["content-type"] == "application/problem+json"


@pytest.mark.parametrize("start", SLOW_STARTS)
def test_slow_requests_hold_nobody_up_and_end(web: WebProcess, start: str) -> None:
    """Eighty of them, on 16 threads; then a 408, or nothing to who said nothing."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(web)) for _ in range(SLOW)]
        for client in clients:
            client.sendall(SLOW_STARTS[start])
        assert seconds_of_service(web) < SOON_SECONDS
        ends = [answers(client) for client in clients]

    if start == "silent":
        assert ends == [[]] * SLOW
    else:
        assert all(is_problem(answer, 408) for end in ends for answer in end)
        assert [len(end) for end in ends] == [1] * SLOW


def test_a_dripping_request_has_a_deadline_in_all(web: WebProcess) -> None:
    """A byte now and then buys no time."""
    began = time.monotonic()
    with connected(web) as client:
        client.sendall(WHOLE[:-200])
        client.settimeout(0.2)
        received = b""
        while not received and time.monotonic() - began < 10 * REQUEST_SECONDS:
            client.sendall(b"x")
            try:
                received = client.recv(65536)
            except TimeoutError:
                continue

    assert received.startswith(b"HTTP/1.1 408 ")


def test_answers_that_nobody_takes_hold_no_thread(web: WebProcess) -> None:
    """Each asks for more than its socket holds, and reads nothing."""
    with ExitStack() as stack:
        for _ in range(SLOW):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((urlsplit(web.url).hostname, urlsplit(web.url).port))
            client.sendall(HEALTH.replace(b"/healthz", b"/api/v1/models") * 20)
        assert seconds_of_service(web) < 2 * SOON_SECONDS


def test_a_body_in_tiny_chunks_costs_no_more_than_its_bytes(web: WebProcess) -> None:
    """Copying the rest for every chunk took a minute for as many, in the thread that serves everybody."""
    chunks = b"".join(b"1;x\r\n%c\r\n" % byte for byte in BODY + b" " * 100_000)
    with connected(web) as client:
        client.sendall(POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert seconds_of_service(web) < SOON_SECONDS
        assert [status for status, _, _ in answers(client)] == [200]


@pytest.mark.parametrize("cut", [64, 10_000])
def test_a_line_of_a_chunk_is_too_long_however_it_comes(web: WebProcess, cut: int) -> None:
    """Where packets end must not matter."""
    text = POST + b"Transfer-Encoding: chunked\r\n\r\n%x;a=%s\r\n" % (len(BODY), b"z" * 400)
    assert is_problem(told(web, *(text[at : at + cut] for at in range(0, len(text), cut)))[0], 400)


def test_who_stays_after_the_last_answer_holds_nobody_up(web: WebProcess) -> None:
    """The connection is to be closed, and its client does not close it."""
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connected(web))
            client.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert seconds_of_service(web) < SOON_SECONDS


def test_more_connections_than_there_may_be_cost_the_oldest(redis: RedisServer, tmp_path: Path) -> None:
    """Idle ones and half-read ones alike give way to who comes."""
    few = started(redis, tmp_path, WEB_CONNECTIONS="40", WEB_HEAD_SECONDS="600", WEB_REQUEST_SECONDS="600")
    try:
        with ExitStack() as stack:
            for sent in (HEALTH, POST, WHOLE[:-1]):
                for _ in range(40):
                    stack.enter_context(connected(few)).sendall(sent)
                assert seconds_of_service(few) < 2 * SOON_SECONDS
    finally:
        few.stop()


def test_the_probe_and_the_metrics_have_threads_of_their_own(redis: RedisServer, tmp_path: Path) -> None:
    """Every other thread waits for a provider, and more requests wait for a thread."""
    busy = started(redis, tmp_path, MOCK_LATENCY_MS="4000", WEB_THREADS="2", WEB_SYNC_THREADS="2")
    try:
        with ThreadPoolExecutor(4) as pool:
            posts = [pool.submit(busy.post) for _ in range(4)]
            time.sleep(1)
            statuses = [busy.get(path).status_code for path in ("/healthz", "/metrics") for _ in range(3)]
            assert not any(post.done() for post in posts)
            assert statuses == [200] * 6
            assert {post.result().status_code for post in posts} <= {200, 202}
    finally:
        busy.stop()


REQUESTS = {
    "in one piece": ((WHOLE,), [200]),
    "in many": (tuple(WHOLE[at : at + 40] for at in range(0, len(WHOLE), 40)), [200]),
    "in chunks": ((CHUNKED,), [200]),
    "in chunks, in many pieces": (tuple(CHUNKED[at : at + 40] for at in range(0, len(CHUNKED), 40)), [200]),
    "with a trailer": ((CHUNKED[:-2] + b"X-Sum: 1\r\n\r\n",), [200]),
    "three behind one another": ((WHOLE + HEALTH + CHUNKED,), [200, 200, 200]),
    "cut anywhere": ((WHOLE + HEALTH[:9], HEALTH[9:] + CHUNKED[:99], CHUNKED[99:]), [200, 200, 200]),
    "of an old client": ((HEALTH.replace(b"HTTP/1.1", b"HTTP/1.0"),), [200]),
    "behind an empty line": ((b"\r\n" + HEALTH,), [200]),
    "of nothing": ((), []),
}


@pytest.mark.parametrize("how", REQUESTS)
def test_a_request_is_answered_however_it_comes(web: WebProcess, how: str) -> None:
    """In as many pieces, and with as many others, as the client likes."""
    parts, statuses = REQUESTS[how]

    assert [status for status, _, _ in told(web, *parts)] == statuses


def test_who_asks_before_sending_is_told_to_go_on(web: WebProcess) -> None:
    """Expect: 100-continue, as curl sends it with larger bodies."""
    head, body = WHOLE.split(b"\r\n\r\n", 1)
    with connected(web) as client:
        client.sendall(head + b"\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert [status for status, _, _ in answers(client)] == [200]


REFUSED = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "an endless line": (b"GET /" + b"x" * 70_000, 431),
    "a long line": (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\n\r\n", 414),
    "a long header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
    "an unknown coding": (POST + b"Transfer-Encoding: br, chunked\r\n\r\n", 501),
    "an unknown expectation": (POST + b"Expect: money\r\n\r\n", 417),
    "a large body, announced": (POST + b"Content-Length: 1048577\r\n\r\n", 413),
    "a large body, in chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 413),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_refused_at_once_with_a_document(web: WebProcess, what: str) -> None:
    """Before the client has sent the rest; its bytes are not in the log."""
    sent, status = REFUSED[what]
    with connected(web) as client:
        client.sendall(sent)
        began = time.monotonic()
        (answer,) = answers(client)

    assert is_problem(answer, status)
    assert time.monotonic() - began < HEAD_SECONDS
    assert not re.search("hello|money|xyz", web.log.read_text())


def test_a_shutdown_waits_for_no_half_request(redis: RedisServer, tmp_path: Path) -> None:
    """Far sooner than the time which it has in calmer days."""
    ending = started(redis, tmp_path, WEB_HEAD_SECONDS="600", WEB_REQUEST_SECONDS="600")
    try:
        with connected(ending) as silent, connected(ending) as half:
            half.sendall(WHOLE[:-1])
            assert ending.get("/healthz").status_code == 200
            ending.terminate()
            assert ending.wait(60) == 0
            assert (answers(silent), [status for status, _, _ in answers(half)]) == ([], [408])
    finally:
        ending.stop()


@pytest.mark.parametrize("status", [200, 503])
def test_who_hangs_up_costs_one_call_at_most(redis: RedisServer, tmp_path: Path, status: int) -> None:
    """An answer that nobody takes is told; one that failed is not asked for again."""
    with OpenAIServer(Behaviour(latency_ms=1500, status=status)) as vendor:
        settings = {"OPENAI_API_KEY": "sk-local", "OPENAI_BASE_URL": vendor.base_url}
        waiting = started(redis, tmp_path, PROVIDER_RETRY_SECONDS="0.1,0.1", **settings)
        try:
            body = json.dumps(comparison(llm_config_overrides={"provider_override": "openai"})).encode()
            with connected(waiting) as client:
                client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                assert wait_until(lambda: vendor.stats()["total"] == 1, 20)
            assert wait_until(lambda: "request_answered" in waiting.log.read_text(), 20)
        finally:
            waiting.stop()
        assert vendor.stats()["total"] == 1
        assert ("answer_paid_for_nobody" in waiting.log.read_text()) is (status == 200)
