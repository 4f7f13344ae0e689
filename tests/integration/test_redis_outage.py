"""Leases over an outage of Redis: the keepers' and the sweepers' own rhythms, on a Redis that goes away and returns."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pytest
from redis import Redis

from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.leases import LeaseKeeper
from llm_provider.ledger import ClaimState
from llm_provider.queue_models import QueuedRequest
from llm_provider.sweeper import Sweeper
from scripts.local_servers import RedisServer, wait_until
from tests.unit.builders import Worker, a_request, a_timing, some_texts

LEASE_SECONDS = 3.0
LIVING_WORKERS = 8


@pytest.fixture
def client(breakable_redis: RedisServer) -> Iterator[Redis]:
    with closing(connect_redis(breakable_redis.url, timeout_seconds=1)) as client:
        yield client


@pytest.fixture
def ledger(client: Redis) -> RedisLedger:
    timing = a_timing(lease=LEASE_SECONDS, redispatch_after=LEASE_SECONDS)
    return RedisLedger(client, prefix="outage:", timing=timing)


@dataclass
class EagerWorker:
    """A dispatcher whose messages reach a worker at once, which claims what it may."""

    ledger: RedisLedger
    sweeps: int = 0
    claimed: list[str] = field(default_factory=list)

    def queue_is_empty(self) -> bool:
        self.sweeps += 1
        return False

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        if self.ledger.claim(queue_id, "eager").state is ClaimState.CLAIMED:
            self.claimed.append(queue_id)


def running(ledger: RedisLedger) -> QueuedRequest:
    request = a_request()
    ledger.accept(request, some_texts())
    assert ledger.claim(request.queue_id, "first").state is ClaimState.CLAIMED
    return request


def hold_for_ever(stack: ExitStack, ledger: RedisLedger) -> QueuedRequest:
    """A request that is at the provider, in a worker that lives."""
    request, keeper = running(ledger), LeaseKeeper(ledger, LEASE_SECONDS)
    stack.enter_context(keeper.hold(request.queue_id, "first"))
    keeper.start()
    stack.callback(keeper.stop)
    return request


def test_after_an_outage_whoever_lives_keeps_its_requests_and_the_dead_lose_theirs(
    breakable_redis: RedisServer, ledger: RedisLedger
) -> None:
    """All leases have lapsed when Redis is back; nobody judges them before every keeper has had its turn."""
    eager, dead = EagerWorker(ledger), running(ledger)
    with ExitStack() as stack:
        for _ in range(LIVING_WORKERS):
            hold_for_ever(stack, ledger)
            # Workers renew at different times, so that some always do so later than a sweep.
            time.sleep(LEASE_SECONDS / 4 / LIVING_WORKERS)
        sweeper = Sweeper(ledger, eager, Worker().processor, Worker().caller, interval_seconds=0.05, batch=200)
        sweeper.start()
        assert wait_until(lambda: eager.sweeps > 1, 5)
        stack.callback(sweeper.stop)
        breakable_redis.stop()
        time.sleep(LEASE_SECONDS + 0.5)
        breakable_redis.start()
        assert wait_until(lambda: dead.queue_id in eager.claimed, 4 * LEASE_SECONDS)
    assert eager.claimed == [dead.queue_id]
