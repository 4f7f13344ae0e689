"""One request in, one event or one result out: gunicorn, Redis, a Celery worker, a provider and Kafka, all real.

The processes are shared by these tests; pytest-celery's setup stands for the worker and its servers.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker
from redis import Redis

from contracts.enums import EssayWinner
from contracts.errors import ErrorCode
from llm_provider.callbacks import callback_event_id
from scripts.local_servers import KafkaBroker, RedisServer
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import SECRET, Installation, Sent, WebProcess, all_ready, comparison, eventually

ARRIVAL_SECONDS = 15.0
# As many calls at once as the shared worker makes: two requests keep it busy.
CONCURRENCY = 2


@pytest.fixture(scope="module")
def provider_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def provider(provider_server: OpenAIServer) -> OpenAIServer:
    return provider_server.at_rest()


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    kafka: KafkaBroker,
    provider_server: OpenAIServer,
) -> Iterator[Installation]:
    """One for all tests of this module; at its end everything shuts down in order."""
    installation = installation_on(tmp_path_factory.mktemp("chain"), redis_server, kafka, provider_server)
    yield installation
    installation.teardown()


@pytest.fixture(scope="module")
def worker(chain: Installation) -> CeleryTestWorker:
    return chain.worker("-c", str(CONCURRENCY))


@pytest.fixture(scope="module")
def hasty_web(chain: Installation) -> WebProcess:
    """A web process whose requests must be done within a second and a half."""
    return chain.web(REQUEST_DEADLINE_SECONDS="1.5")


@pytest.fixture(scope="module")
def web(chain: Installation, worker: CeleryTestWorker, hasty_web: WebProcess) -> WebProcess:
    process = chain.web()
    all_ready(process, hasty_web, worker)
    return process


@pytest.fixture(autouse=True)
def nothing_unexpected_is_logged(chain: Installation) -> Iterator[None]:
    """The shared logs are read after each test, so that the right one fails."""
    yield
    chain.check_logs()


@pytest.fixture
def busy(chain: Installation, web: WebProcess, provider: OpenAIServer) -> list[Sent]:
    """Requests that keep the worker from taking another one for some seconds."""
    provider.behave(latency_ms=3000)
    requests = [chain.send(web) for _ in range(CONCURRENCY)]
    eventually(lambda: all(provider.by_id[request.key] for request in requests), 10, "the worker is busy")
    provider.behave()
    return requests


def test_a_request_comes_back_as_one_event(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess, provider: OpenAIServer, inbox: Inbox
) -> None:
    """On the topic that was named, under the caller's correlation id, for one call to the provider."""
    request = chain.send(web)
    event = inbox.collect([request], ARRIVAL_SECONDS)[request.key]
    [record] = inbox.copies_of(request)
    assert record.topic == chain.topic
    assert event.event_id == callback_event_id(request.queue_id)
    assert event.data.winner is EssayWinner.ESSAY_B
    assert dict(record.headers)["event_id"].decode() == str(event.event_id)
    assert provider.by_id[request.key] == 1
    eventually(lambda: web.status_of(request.queue_id)["callback_status"] == "published", 5, "it is noted")


def test_web_and_worker_write_the_same_prompt(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess, inbox: Inbox
) -> None:
    """Whichever process makes the call, an essay has the same tags, so that a vendor's cache knows it."""
    texts = {"user_prompt": "Better: {essay_a} or {essay_b}?", "essay_a": "Cats.", "essay_b": "Dogs."}
    at_once = web.post(comparison(uuid4(), None, **texts))
    assert at_once.status_code == 200, at_once.text
    request = chain.send(web, **texts)
    told = inbox.collect([request], ARRIVAL_SECONDS)[request.key].data.request_metadata
    assert told["prompt_sha256"] == at_once.json()["metadata"]["prompt_sha256"]


def test_two_requests_that_name_two_topics_arrive_each_on_its_own(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess, inbox: Inbox
) -> None:
    """The topic is the request's, not a constant of the worker's."""
    requests = [chain.send(web), chain.send(web, f"{chain.topic}.other")]
    inbox.collect(requests, ARRIVAL_SECONDS)
    assert [[record.topic for record in inbox.copies_of(request)] for request in requests] == [
        [chain.topic],
        [f"{chain.topic}.other"],
    ]


def test_a_failed_call_comes_back_as_an_error_event(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess, provider: OpenAIServer, inbox: Inbox
) -> None:
    """After the schedule's last call, told once and in our words: the provider's message quoted the prompt."""
    provider.behave(mode="429")
    request = chain.send(web)
    event = inbox.collect([request], ARRIVAL_SECONDS)[request.key]
    assert event.data.error_detail is not None
    assert event.data.error_detail.error_code is ErrorCode.RATE_LIMIT
    assert SECRET.encode() not in inbox.copies_of(request)[0].value
    assert provider.by_id[request.key] == 2


def test_the_essays_leave_redis_with_the_outcome(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess, provider: OpenAIServer, busy: list[Sent]
) -> None:
    """They wait there and nowhere else: not in the queue's message, not in a result, not in a log."""
    request = chain.send(web)
    with closing(Redis.from_url(chain.settings["REDIS_URL"], decode_responses=True)) as redis:
        holding = keys_that_hold_essays(redis, chain)
        assert f"{chain.settings['KEY_PREFIX']}request:{request.queue_id}" in holding
        assert all(":request:" in key for key in holding)
        eventually(lambda: not keys_that_hold_essays(redis, chain), ARRIVAL_SECONDS, "no essay is left")


READ_WHOLE: dict[str, Callable[[Redis, str], object]] = {
    "string": Redis.get,
    "hash": Redis.hgetall,
    "set": Redis.smembers,
    "list": lambda redis, key: redis.lrange(key, 0, -1),
    "zset": lambda redis, key: redis.zrange(key, 0, -1),
}


def keys_that_hold_essays(redis: Redis, chain: Installation) -> set[str]:
    keys = [str(key) for key in redis.scan_iter(f"{chain.settings['KEY_PREFIX']}*")]
    kinds = {key: str(redis.type(key)) for key in keys}
    return {key for key, kind in kinds.items() if kind != "none" and SECRET in str(READ_WHOLE[kind](redis, key))}


def test_a_caller_without_a_topic_is_answered_at_once(
    celery_setup: CeleryTestSetup, web: WebProcess, provider: OpenAIServer
) -> None:
    """The synchronous path goes through no queue and calls the same provider."""
    correlation_id = uuid4()
    answer = web.post(comparison(correlation_id, None))
    assert (answer.status_code, answer.json()["winner"]) == (200, "Essay B")
    assert provider.by_id[str(correlation_id)] == 1


def test_a_polled_result_is_in_the_celery_result_backend_too(
    celery_setup: CeleryTestSetup, chain: Installation, web: WebProcess
) -> None:
    """`AsyncResult(queue_id).get()` and `/results` tell the same."""
    request = chain.send(web, None)
    result = celery_setup.app.AsyncResult(request.queue_id).get(timeout=ARRIVAL_SECONDS)
    answer = web.get(f"/api/v1/results/{request.queue_id}")
    assert (answer.status_code, answer.json()) == (200, result)
    assert result["correlation_id"] == request.key


def test_a_revoked_request_that_waits_ends_with_an_error_event(
    celery_setup: CeleryTestSetup,
    chain: Installation,
    web: WebProcess,
    provider: OpenAIServer,
    inbox: Inbox,
    busy: list[Sent],
) -> None:
    """An operator's revoke makes the workers discard its message; its caller is told, and its neighbours finish."""
    request = chain.send(web)
    told = celery_setup.app.control.revoke(request.queue_id, reply=True, timeout=5, limit=1)
    assert told, "no worker took the revocation"
    events = inbox.collect([request, *busy], ARRIVAL_SECONDS)
    assert events[request.key].data.is_error
    assert all(events[neighbour.key].data.is_success for neighbour in busy)
    assert web.status_of(request.queue_id)["status"] == "failed"
    assert provider.by_id[request.key] == 0


def test_a_request_past_its_deadline_is_not_sent_and_its_caller_is_told(
    celery_setup: CeleryTestSetup,
    chain: Installation,
    hasty_web: WebProcess,
    provider: OpenAIServer,
    inbox: Inbox,
    busy: list[Sent],
) -> None:
    """It waited too long behind others: nobody pays for an answer that nobody waits for any more."""
    request = chain.send(hasty_web)
    event = inbox.collect([request], ARRIVAL_SECONDS)[request.key]
    assert event.data.error_detail is not None
    assert event.data.error_detail.error_code is ErrorCode.TIMEOUT
    assert event.data.response_time_ms == 0
    assert hasty_web.status_of(request.queue_id)["status"] == "expired"
    inbox.collect(busy, ARRIVAL_SECONDS)
    assert provider.by_id[request.key] == 0


def test_a_call_ends_with_the_deadline_of_its_request(
    celery_setup: CeleryTestSetup,
    chain: Installation,
    hasty_web: WebProcess,
    web: WebProcess,
    provider: OpenAIServer,
    inbox: Inbox,
) -> None:
    """A provider that hangs does not keep a caller waiting beyond what was promised."""
    provider.behave(mode="hang")
    request = chain.send(hasty_web)
    event = inbox.collect([request], ARRIVAL_SECONDS)[request.key]
    assert event.data.error_detail is not None
    assert event.data.error_detail.error_code is ErrorCode.TIMEOUT
    assert provider.by_id[request.key] == 1


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_begun(
    celery_setup: CeleryTestSetup,
    chain: Installation,
    web: WebProcess,
    provider: OpenAIServer,
    inbox: Inbox,
    busy: list[Sent],
) -> None:
    """It takes nothing more: what waits is the next worker's, and nothing is called twice."""
    worker = celery_setup.worker
    waiting = chain.send(web)
    worker.kill(signal.SIGTERM)
    assert worker.container.wait() == 0
    assert all(web.status_of(request.queue_id)["callback_status"] == "published" for request in busy)
    assert web.status_of(waiting.queue_id)["status"] == "queued"
    worker.restart()
    inbox.collect([waiting, *busy], ARRIVAL_SECONDS)
    assert [provider.by_id[request.key] for request in [waiting, *busy]] == [1, 1, 1]
