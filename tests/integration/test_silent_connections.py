"""Connections that neither answer nor break: what runs keeps its lease, and is not called a second time."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from llm_provider.bootstrap import build_operator, build_worker
from llm_provider.config import Settings
from llm_provider.ledger import Action, ClaimState
from llm_provider.queue_models import TASK_NAME
from llm_provider.worker import WorkerParts
from tests.conftest import GivenRedis
from tests.integration.processes import eventually
from tests.integration.silent_proxy import SilentProxy
from tests.unit.builders import a_request, some_texts

LEASE_SECONDS = 4.0


@pytest.fixture
def proxy(redis_server: GivenRedis) -> Iterator[SilentProxy]:
    with closing(SilentProxy(redis_server.url)) as proxy:
        yield proxy


def parts_of(settings: Settings) -> WorkerParts:
    """What a worker process runs, as its task's runtime builds it."""
    runtime: Any = build_worker(settings).tasks[TASK_NAME]._runtime  # noqa: SLF001 The only way to it.
    parts: WorkerParts = runtime._build()  # noqa: SLF001 Likewise.
    return parts


def test_a_lease_outlives_the_silence_of_all_connections_of_its_worker(
    proxy: SilentProxy, redis_server: GivenRedis, key_prefix: str
) -> None:
    """The keeper asks on new ones before the lease has lapsed, although a worker waits five seconds for an answer."""
    settings = Settings(redis_url=proxy.url, key_prefix=key_prefix, lease_seconds=LEASE_SECONDS)
    parts, request = parts_of(settings), a_request()
    other = build_operator(settings.model_copy(update={"redis_url": redis_server.url})).ledger
    parts.ledger.accept(request, some_texts())
    with parts.leases.hold(request.queue_id, "first"):
        assert parts.ledger.claim(request.queue_id, "first").state is ClaimState.CLAIMED
        lease = lease_of(other, request.queue_id)
        parts.leases.start()
        eventually(lambda: lease_of(other, request.queue_id) > lease, 10, "the first renewal")
        lease = lease_of(other, request.queue_id)
        assert proxy.fall_silent() > 0
        # Some worker sweeps, as one always does; it would find a lapsed lease.
        eventually(lambda: not_dispatched(other) and lease_of(other, request.queue_id) > lease, 10, "another renewal")
        assert other.claim(request.queue_id, "second").state is ClaimState.LEFT
    parts.leases.stop()


def lease_of(ledger: Any, queue_id: str) -> int:
    return int(ledger._fields(queue_id, "lease")[0])


def not_dispatched(ledger: Any) -> bool:
    assert not [due for due in ledger.sweep(queue_is_empty=False) if due.action is Action.DISPATCH], "a lapsed lease"
    return True
