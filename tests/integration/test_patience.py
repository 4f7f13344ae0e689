"""What a provider's trouble costs a caller: waits that hold no thread, limits and breakers that all processes share.

Real gunicorn, workers, Redis and Kafka; the provider is a local server that is told what to do.
"""

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from contracts.errors import ErrorCode
from scripts.local_servers import KafkaBroker, RedisServer
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import Installation, Sent, WebProcess, all_ready, comparison, eventually

ARRIVAL_SECONDS = 20.0


def calls(provider: OpenAIServer, request: Sent) -> int:
    return provider.by_id[request.key]


def breaker(web: WebProcess) -> dict[str, object]:
    """What the service says about its openai provider."""
    listed = web.get("/api/v1/providers").json()["providers"]
    return next(one for one in listed if one["name"] == "openai")


def test_a_long_wait_holds_no_thread_and_survives_its_worker(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """The worker that was told to come later is killed; another one makes the call when it is due, and no third."""
    workers, web = chain.pair(WORKER_CONCURRENCY="1", PROVIDER_RETRY_SECONDS="4"), chain.web()
    all_ready(web, *workers)
    provider.behave(status=503)
    request = chain.send(web)
    begun = time.monotonic()
    eventually(lambda: any("request_suspended" in worker.logs() for worker in workers), 10, "it waits")
    provider.behave()
    assert web.status_of(request.queue_id)["status"] == "processing"
    # Each of the two has one thread, and both are free.
    inbox.collect([chain.send(web) for _ in range(4)], 3)
    next(worker for worker in workers if "request_suspended" in worker.logs()).kill()
    event = inbox.collect([request], ARRIVAL_SECONDS)[request.key]
    assert event.data.is_success
    assert calls(provider, request) == 2
    assert time.monotonic() - begun >= 3


def test_a_wait_beyond_the_deadline_is_not_waited_for(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Its caller hears at once what the vendor said, and when it may be asked again."""
    worker, web = chain.worker(), chain.web()
    all_ready(web, worker)
    provider.behave(status=429, headers={"retry-after": "60"})
    request = chain.send(web, deadline_seconds=30)
    error = inbox.collect([request], ARRIVAL_SECONDS)[request.key].data.error_detail
    assert error is not None
    assert (error.error_code, error.details["retry_after_seconds"]) == (ErrorCode.RATE_LIMIT, 60)
    assert calls(provider, request) == 1


def test_a_deadline_ends_a_call_that_trickles(chain: Installation, provider: OpenAIServer, inbox: Inbox) -> None:
    """Synchronous and queued; a caller may ask for less time than the service would take."""
    worker, web = chain.worker(), chain.web()
    all_ready(web, worker)
    provider.behave(mode="trickle")
    begun = time.monotonic()
    request = chain.send(web, deadline_seconds=1.5)
    answer = web.post(comparison(uuid4(), None, deadline_seconds=1.5))
    assert (answer.status_code, answer.json()["error_code"]) == (504, ErrorCode.TIMEOUT)
    error = inbox.collect([request], ARRIVAL_SECONDS)[request.key].data.error_detail
    assert error is not None
    assert error.error_code is ErrorCode.TIMEOUT
    assert time.monotonic() - begun < 6
    assert calls(provider, request) == 1


def test_a_circuit_opens_for_everybody_and_one_probe_at_a_time_closes_it(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Two workers and a web process agree; what is queued waits for it, and comes back with a verdict."""
    settings = {
        "BREAKER_FAILURES": "3",
        "BREAKER_OPEN_SECONDS": "4",
        "BREAKER_SUCCESSES": "2",
        "PROVIDER_RETRY_SECONDS": "0.3,4,4",
    }
    workers, web = chain.pair(**settings), chain.web(**settings)
    all_ready(web, *workers)
    provider.behave(status=500)
    requests = [chain.send(web) for _ in range(3)]
    eventually(lambda: breaker(web)["circuit_breaker"] == "open", 10, "the circuit opens")
    before = provider.total
    requests += [chain.send(web) for _ in range(20)]
    at_once = web.post(comparison(uuid4(), None))
    assert (at_once.status_code, breaker(web)["available"]) == (202, False)
    time.sleep(1)
    assert provider.total == before
    provider.behave(latency_ms=700)
    provider.peak = 0
    eventually(lambda: provider.total > before, 10, "a probe")
    time.sleep(0.5)
    assert provider.peak == 1
    events = inbox.collect(requests, 2 * ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    assert breaker(web)["circuit_breaker"] == "closed"


def test_calls_at_the_same_time_are_limited_over_all_processes(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Three for two workers; those of a worker that is killed are given back within a lease."""
    workers, web = chain.pair(OPENAI_MAX_CONCURRENT_CALLS="3"), chain.web()
    all_ready(web, *workers)
    provider.behave(latency_ms=500)
    requests = [chain.send(web) for _ in range(12)]
    eventually(lambda: provider.open == 3, 10, "three calls run")
    workers[0].kill()
    requests += [chain.send(web) for _ in range(6)]
    events = inbox.collect(requests, 2 * ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    # What the killed worker had called ends at the provider before its places are given away.
    assert provider.peak == 3


def test_a_rate_limit_spaces_the_calls_of_all_processes(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Sixty a minute are one a second, whoever makes them, and nobody fails for having to wait."""
    workers, web = chain.pair(OPENAI_REQUESTS_PER_MINUTE="60"), chain.web()
    all_ready(web, *workers)
    begun = time.monotonic()
    requests = [chain.send(web) for _ in range(7)]
    events = inbox.collect(requests, 2 * ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    assert time.monotonic() - begun >= 5
    assert [calls(provider, request) for request in requests] == [1] * 7


def test_who_waits_for_a_place_keeps_nobody_else_waiting(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """Forty requests for one place at a slow vendor, and ten threads: another provider answers at once."""
    settings = {"WORKER_CONCURRENCY": "10", "OPENAI_MAX_CONCURRENT_CALLS": "1"}
    worker, web = chain.worker(**settings), chain.web(**settings)
    all_ready(web, worker)
    provider.behave(latency_ms=2000)
    waiting = [chain.send(web) for _ in range(40)]
    eventually(lambda: int(str(breaker(web)["waiting_requests"])) >= 20, 15, "nearly all of them sleep")
    others = [chain.send(web, llm_config_overrides={"provider_override": "mock"}) for _ in range(5)]
    inbox.collect(others, 5)
    provider.behave()
    inbox.collect(waiting, ARRIVAL_SECONDS)
    assert provider.peak == 1


def test_a_free_place_is_taken_at_once(chain: Installation, provider: OpenAIServer, inbox: Inbox) -> None:
    """By whoever waits first, well before it would look again by itself."""
    workers, web = chain.pair(OPENAI_MAX_CONCURRENT_CALLS="1"), chain.web()
    all_ready(web, *workers)
    provider.behave(latency_ms=1000)
    begun = time.monotonic()
    requests = [chain.send(web, deadline_seconds=9) for _ in range(6)]
    events = inbox.collect(requests, ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    assert 6 <= time.monotonic() - begun < 8.5
    completed = [events[request.key].data.completed_at for request in requests]
    assert completed == sorted(completed)


def test_turns_that_were_missed_are_not_made_up_for(chain: Installation, provider: OpenAIServer, inbox: Inbox) -> None:
    """All workers were dead while they came: what is called then is as far apart as ever."""
    settings = {"OPENAI_REQUESTS_PER_MINUTE": "120"}
    worker, web = chain.worker(**settings), chain.web(**settings)
    all_ready(web, worker)
    requests = [chain.send(web) for _ in range(16)]
    eventually(lambda: provider.total >= 3, 10, "some have been called")
    worker.kill()
    # As many turns as those of all the others come meanwhile.
    time.sleep(8)
    called, begun = provider.total, time.monotonic()
    chain.worker(**settings).ready()
    inbox.collect(requests, 2 * ARRIVAL_SECONDS)
    assert provider.total - called >= 10
    assert time.monotonic() - begun >= (provider.total - called - 3) / 2


def test_a_vendors_own_limit_fails_nobody(chain: Installation, provider: OpenAIServer, inbox: Inbox) -> None:
    """Two calls a second; whoever is turned away waits for its turn, and uses up no try."""
    workers, web = chain.pair(PROVIDER_RETRY_SECONDS="0.2,0.2"), chain.web()
    all_ready(web, *workers)
    provider.behave(status=429, granted_per_second=2)
    requests = [chain.send(web) for _ in range(20)]
    events = inbox.collect(requests, 3 * ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    assert provider.total > len(requests)


@pytest.fixture
def chain_on_breakable_redis(
    tmp_path_factory: pytest.TempPathFactory, breakable_redis: RedisServer, kafka: KafkaBroker, provider: OpenAIServer
) -> Iterator[Installation]:
    installation = installation_on(tmp_path_factory.mktemp("away"), breakable_redis, kafka, provider)
    yield installation
    installation.abandon()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_synchronous_call_needs_no_redis(
    chain_on_breakable_redis: Installation, breakable_redis: RedisServer, how: str
) -> None:
    """Limits and breakers are done without; a Redis that hangs costs the first call a moment, and not each of them."""
    web = chain_on_breakable_redis.web(OPENAI_MAX_CONCURRENT_CALLS="5")
    web.ready()
    assert web.post(comparison(uuid4(), None)).status_code == 200
    breakable_redis.stop() if how == "stopped" else breakable_redis.freeze()
    begun = time.monotonic()
    answers = [web.post(comparison(uuid4(), None)).status_code for _ in range(5)]
    assert answers == [200] * 5
    assert time.monotonic() - begun < 5
    breakable_redis.start() if how == "stopped" else breakable_redis.thaw()


def test_places_come_back_though_redis_was_not_told(
    chain_on_breakable_redis: Installation, breakable_redis: RedisServer, provider: OpenAIServer
) -> None:
    """It stood still while the calls ended; a place that nobody uses lapses, and is not renewed for ever."""
    chain = chain_on_breakable_redis
    settings = {"OPENAI_MAX_CONCURRENT_CALLS": "2"}
    worker, web = chain.worker(**settings), chain.web(**settings)
    all_ready(web, worker)
    chain.expect("calls_go_on_without_limits", "commit_waits_for_ledger", "background_work_broke", "Connection")
    provider.behave(latency_ms=1500)
    requests = [chain.send(web, None) for _ in range(2)]
    eventually(lambda: provider.open == 2, 10, "both places are taken")
    breakable_redis.freeze()
    eventually(lambda: provider.open == 0, 10, "both calls are over")
    time.sleep(1)
    breakable_redis.thaw()
    for request in requests:
        eventually(lambda request=request: web.status_of(request.queue_id)["status"] == "completed", 20, "it is stored")  # type: ignore[misc] # A lambda's default.
    provider.behave()
    more = chain.send(web, None, deadline_seconds=20)
    eventually(lambda: web.status_of(more.queue_id)["status"] == "completed", 20, "a place is free again")


def test_two_hundred_at_once_all_end_within_their_deadline(
    chain: Installation, provider: OpenAIServer, inbox: Inbox
) -> None:
    """On a vendor slower than that none of them takes a second longer, and in time each has its verdict."""
    settings = {"WORKER_CONCURRENCY": "100"}
    workers, web = chain.pair(**settings), chain.web()
    all_ready(web, *workers)
    provider.behave(latency_ms=2000)
    in_time = [chain.send(web, deadline_seconds=15) for _ in range(200)]
    events = inbox.collect(in_time, 2 * ARRIVAL_SECONDS)
    assert all(event.data.is_success for event in events.values())
    provider.behave(mode="hang")
    too_late = [chain.send(web, deadline_seconds=4) for _ in range(200)]
    events = inbox.collect(too_late, 2 * ARRIVAL_SECONDS)
    took = [(event.data.completed_at - event.data.requested_at).total_seconds() for event in events.values()]
    errors = [event.data.error_detail for event in events.values()]
    assert {error and error.error_code for error in errors} == {ErrorCode.TIMEOUT}
    assert max(took) < 5
