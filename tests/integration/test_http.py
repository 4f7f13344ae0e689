"""The web process for real: gunicorn as the Procfile starts it, and a Redis that stops, freezes and comes back."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from llm_provider.adapters.celery_queue import celery_settings
from llm_provider.adapters.celery_results import CeleryResultStore
from llm_provider.config import Settings
from scripts.local_servers import RedisServer, wait_until
from tests.integration.web_process import ESSAY, ROOT, WebProcess, comparison, environment, procfile_line

# What the outage tests send at once: more than one gunicorn process has threads that accept.
CROWD = 24
JSON = {"Content-Type": "application/json"}
MOCK_SECONDS = 1.5
# 3 s when nothing else runs; far from the 130 s that gunicorn gives a call that is still running.
QUICKLY_SECONDS = 20


@pytest.fixture(scope="module")
def web(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """Two gunicorn processes whose mock provider answers at once."""
    process = WebProcess(tmp_path_factory.mktemp("web"), {"LLM_PROVIDER_REDIS_URL": redis.url})
    yield process
    process.stop()


@pytest.fixture
def slow_web(redis: RedisServer, tmp_path: Path) -> Iterator[WebProcess]:
    """A service of the test's own whose mock provider takes its time."""
    latency = {"LLM_PROVIDER_MOCK_LATENCY_MS": str(int(MOCK_SECONDS * 1000))}
    process = WebProcess(tmp_path, {"LLM_PROVIDER_REDIS_URL": redis.url} | latency)
    yield process
    process.stop()


@pytest.fixture(params=["stopped", "frozen"])
def outage(request: pytest.FixtureRequest, redis: RedisServer, web: WebProcess) -> Iterator[RedisServer]:
    """Redis away, after the web process had used it: refusing connections, or taking them and saying nothing."""
    assert web.post(callback_topic="t").status_code == 202
    begin, end = (redis.stop, redis.start) if request.param == "stopped" else (redis.freeze, redis.thaw)
    begin()
    yield redis
    end()


def timed_post(web: WebProcess) -> tuple[int, float, str | None]:
    """Status, seconds and Retry-After of a request that must be queued."""
    started = time.monotonic()
    response = web.post(callback_topic="t")
    return response.status_code, time.monotonic() - started, response.headers.get("Retry-After")


def counted(web: WebProcess) -> float:
    """How many comparisons were answered with 200, as the metrics say."""
    families = text_string_to_metric_families(web.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "llm_provider_http_requests_total"
        and sample.labels["endpoint"] == "comparisons.compare"
        and sample.labels["status"] == "200"
    )


def test_a_comparison_is_answered_and_another_accepted(web: WebProcess) -> None:
    """The two good ways through gunicorn and a real Redis."""
    at_once, later = web.post(), web.post(callback_topic="grades.v1")

    assert (at_once.status_code, later.status_code) == (200, 202)
    assert at_once.json()["winner"] in {"Essay A", "Essay B"}
    status = web.get(later.headers["Location"])
    assert (status.status_code, status.json()["status"]) == (200, "queued")
    assert status.json()["queue_id"] == later.json()["queue_id"]


def test_a_prompt_bomb_is_refused_and_forged_tags_hold_nobody_up(web: WebProcess) -> None:
    """A body of 124 kB was made into 256 million characters; 60,000 tags were not answered in 150 s."""
    bomb = web.post(user_prompt="{essay_a}" * 8_000, essay_a="x" * 32_000)
    assert bomb.status_code == 400
    assert [each["field"] for each in bomb.json()["errors"]] == ["user_prompt"]
    too_long = web.post(user_prompt="{essay_a}" * 4, essay_a="x" * 1_000_000)
    assert too_long.status_code == 400
    assert "4000000 are allowed" in too_long.json()["detail"]
    forged = web.post(essay_a="".join(f"</essay_a_{number}>" for number in range(50_000)))
    assert forged.status_code == 200, forged.text


@pytest.mark.usefixtures("outage")
def test_without_redis_the_queue_says_503_within_two_seconds(web: WebProcess) -> None:
    """One request alone, and a crowd at once: no thread may hang."""
    alone = timed_post(web)
    with ThreadPoolExecutor(CROWD) as pool:
        crowd = list(pool.map(lambda _: timed_post(web), range(CROWD)))

    for status, seconds, retry_after in (alone, *crowd):
        assert status == 503
        assert seconds < 2
        assert int(retry_after or 0) >= 1


@pytest.mark.usefixtures("outage")
def test_without_redis_the_synchronous_path_goes_on(web: WebProcess) -> None:
    """Callers who wait for their answer notice nothing, also while a crowd gets its 503s."""
    with ThreadPoolExecutor(CROWD) as pool:
        crowd = [pool.submit(timed_post, web) for _ in range(CROWD // 2)]
        at_once = [web.post().status_code for _ in range(5)]
        refused = {each.result()[0] for each in crowd}

    assert (at_once, refused) == ([200] * 5, {503})


@pytest.mark.usefixtures("outage")
def test_without_redis_health_and_metrics_say_so(web: WebProcess) -> None:
    """A balancer is told, and Prometheus."""
    health = web.get("/healthz")

    assert (health.status_code, health.json()) == (503, {"status": "degraded", "ledger": "away"})
    assert "llm_provider_ledger_up 0.0" in web.get("/metrics").text


@pytest.mark.parametrize("outage", ["stopped", "frozen"])
def test_it_is_back_by_itself(redis: RedisServer, web: WebProcess, outage: str) -> None:
    """Redis returns: the next requests are accepted, without a restart of anything."""
    begin, end = (redis.stop, redis.start) if outage == "stopped" else (redis.freeze, redis.thaw)
    begin()
    away = web.post(callback_topic="t").status_code
    end()
    back = [web.post(callback_topic="t").status_code for _ in range(10)]

    assert (away, back) == (503, [202] * 10)


def test_what_a_restart_of_redis_cut_is_not_noticed(redis: RedisServer, web: WebProcess) -> None:
    """Pooled connections are dead after it; callers get their 202 all the same."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: web.post(callback_topic="t"), range(16)))
        redis.restart()
        after = list(pool.map(lambda _: web.post(callback_topic="t").status_code, range(16)))

    assert after == [202] * 16


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery 5.7 calls it.
def test_a_result_comes_back_from_the_backend_as_it_was_stored(redis: RedisServer) -> None:
    """Also where a caller's metadata looks like one of the objects that Celery encodes."""
    settings = Settings(redis_url=redis.url)
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=1))
    store = CeleryResultStore(app)
    odd = {"a": {"__type__": "uuid", "__value__": "x"}, "b": {"__type__": "decimal", "__value__": "1.5"}, "": 10**30}
    store.store_result("odd", {"metadata": odd})

    assert store.load_result("odd") == {"metadata": odd}
    assert store.load_result("never stored") is None


def test_both_processes_count_together(web: WebProcess) -> None:
    """Whichever process is scraped, it tells all requests."""
    before = counted(web)
    for _ in range(20):
        assert web.post().status_code == 200

    assert len(web.children) == 2
    assert {counted(web) - before for _ in range(10)} == {20.0}


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_too_large_is_413_and_the_service_stays_usable(web: WebProcess, chunked: bool) -> None:
    """With and without a Content-Length; what the client had not sent yet confuses no later request."""
    large = json.dumps(comparison(essay_a="x" * 1_100_000)).encode()
    parts = (large[at : at + 65536] for at in range(0, len(large), 65536))
    with httpx2.Client(base_url=web.url, timeout=10) as client:
        refused = client.post("/api/v1/comparison", content=parts if chunked else large, headers=JSON)
        after = client.post("/api/v1/comparison", json=comparison())

    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["errors"][0]["field"] == "body"
    assert after.status_code == 200


def test_a_chunked_body_is_read(web: WebProcess) -> None:
    """A client may send without knowing the length."""
    body = json.dumps(comparison()).encode()
    response = httpx2.post(
        f"{web.url}/api/v1/comparison", content=iter([body[:50], body[50:]]), headers=JSON, timeout=10
    )

    assert response.status_code == 200


POST = b"POST /api/v1/comparison HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = json.dumps(comparison(callback_topic="t")).encode()
SIZE = b"%x\r\n" % len(WHOLE)
BROKEN_CHUNKS = {
    "a size that is no number": b"zz\r\n" + WHOLE,
    "a negative size": b"-5\r\n" + WHOLE,
    "no size": b"\r\n" + WHOLE,
    "a size without an end": b"1" * 10_000,
    "an illegal extension": SIZE[:-2] + b";\x01\r\n" + WHOLE + b"\r\n0\r\n\r\n",
    "no end of the chunk": SIZE + WHOLE + b"XX0\r\n\r\n",
    "half a chunk": SIZE + WHOLE[:20],
    "no last chunk": SIZE + WHOLE + b"\r\n",
    "not even the end of the first": SIZE + WHOLE,
    "half a trailer": SIZE + WHOLE + b"\r\n0\r\nA: b",
    "a trailer that is none": SIZE + WHOLE + b"\r\n0\r\nA: b\n\n",
    "a trailer that must not be one": SIZE + WHOLE + b"\r\n0\r\nHost: x\r\n\r\n",
}
BROKEN_BODIES = {
    what: (b"Transfer-Encoding: chunked\r\n\r\n" + chunks, 400) for what, chunks in BROKEN_CHUNKS.items()
} | {
    "fewer bytes than announced": (b"Content-Length: %d\r\n\r\n" % (len(WHOLE) + 1) + WHOLE, 400),
    "too many bytes, and then no chunk": (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 1_100_000 + b"x" * 1_100_000 + b"XX",
        413,
    ),
}


@pytest.mark.parametrize("broken", BROKEN_BODIES)
def test_a_body_that_is_not_whole_is_refused(web: WebProcess, broken: str) -> None:
    """Even where what came is a comparison: its sender may have meant more. It is no defect of ours."""
    body, status = BROKEN_BODIES[broken]
    answer = sent(web, POST + body)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer
    assert "request_broke" not in web.log.read_text()
    assert web.post().status_code == 200


def sent(web: WebProcess, raw: bytes) -> bytes:
    """All that comes back for these bytes, after which the client has nothing more to say."""
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as client:
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_header_with_an_underscore_moves_no_path(web: WebProcess) -> None:
    """gunicorn would take it from everybody on this machine, and fail where it does not fit."""
    headers = {"SCRIPT_NAME": "/api", "PATH_INFO": "/metrics", "X-Forwarded-Prefix": "/evil"}
    answer = httpx2.post(
        f"{web.url}/api/v1/comparison", json=comparison(callback_topic="t"), headers=headers, timeout=10
    )

    assert answer.status_code == 202
    assert answer.headers["Location"].startswith("/api/v1/status/")


def test_a_client_that_goes_away_costs_nothing(web: WebProcess) -> None:
    """A connection cut in the middle of a body leaves no thread behind and no defect in the log."""
    address = urlsplit(web.url)
    for _ in range(20):
        with socket.create_connection((address.hostname, address.port), timeout=5) as client:
            client.sendall(POST + b"Content-Length: 500\r\n\r\n{")

    assert web.post().status_code == 200
    assert "request_broke" not in web.log.read_text()


def test_no_essay_is_in_the_log(web: WebProcess) -> None:
    """Whatever happened to this process so far."""
    web.post(essay_b=7)
    logged = web.log.read_text()

    assert "request_answered" in logged
    assert "essay-4712" not in logged
    assert ESSAY not in logged


NOT_PARSED = [
    POST + b"Content-Length: 2\r\n\r\n{}" + b"An essay, marked essay-4712\r\n\r\n",
    POST + b"Authorization Bearer essay-4712\r\n\r\n",
    POST + b"Expect: essay-4712\r\n\r\n",
]


@pytest.mark.parametrize("raw", NOT_PARSED)
def test_what_gunicorn_cannot_parse_is_not_quoted(web: WebProcess, raw: bytes) -> None:
    """After a body that is longer than it says, the rest of an essay stands where a request should."""
    before = web.log.read_text().count("request_not_read")
    sent(web, raw)
    logged = web.log.read_text()

    assert logged.count("request_not_read") == before + 1
    assert "essay-4712" not in logged
    assert "127.0.0.1" not in logged.partition("Listening at")[2].partition("\n")[2]


def test_every_line_of_the_log_is_json(slow_web: WebProcess) -> None:
    """gunicorn's own lines included, from the first to the last."""
    slow_web.stop()

    assert all(isinstance(json.loads(line), dict) for line in slow_web.log.read_text().splitlines())


def test_one_process_killed_leaves_the_other_serving(web: WebProcess) -> None:
    """kill -9 of a gunicorn child: requests go on, and a new child takes its place."""
    killed = web.children[0]
    os.kill(killed, signal.SIGKILL)
    statuses = {_status(web) for _ in range(20)}

    # A connection that the dead process had taken already may break; nothing else may.
    assert statuses <= {200, None}
    assert wait_until(lambda: len(set(web.children) - {killed}) == 2, 10)
    assert {web.post().status_code for _ in range(20)} == {200}


def _status(web: WebProcess) -> int | None:
    try:
        return web.post().status_code
    except httpx2.TransportError:
        return None


def test_an_idle_process_ends_at_once(slow_web: WebProcess) -> None:
    """SIGTERM, and it is gone with exit code 0, long before the time that a running call would get."""
    slow_web.terminate()

    assert slow_web.wait(QUICKLY_SECONDS) == 0


def test_a_running_call_is_finished_before_the_end(slow_web: WebProcess) -> None:
    """A rollout costs no caller an answer that a provider has been paid for."""
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(slow_web.post) for _ in range(4)]
        assert wait_until(lambda: slow_web.connections >= len(running), MOCK_SECONDS)
        slow_web.terminate()
        answers = [each.result().status_code for each in running]

    assert answers == [200] * 4
    assert slow_web.wait(QUICKLY_SECONDS) == 0


@pytest.mark.parametrize("name", ["web", "worker"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLM_PROVIDER_REDIS_URL", "foo"),
        ("LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS", "nowhere"),
        ("LLM_PROVIDER_MOCK_ERROR_CODES", "VALIDATION_ERROR"),
    ],
)
def test_a_wrong_setting_stops_the_boot_at_once(name: str, variable: str, value: str) -> None:
    """The last words are the setting's name and what is wrong with it, without a traceback."""
    process = subprocess.run(
        ["/bin/sh", "-c", procfile_line(name)],
        cwd=ROOT,
        env=environment({variable: value, "HOST": "127.0.0.1", "PORT": "1"}),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert process.returncode != 0
    assert f"{variable}: " in process.stderr
    assert "Traceback" not in process.stdout + process.stderr
