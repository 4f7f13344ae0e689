"""The wiring: everything can be built, nothing is opened by building it, parts can be exchanged."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import get_transport_cls as kombus_get_transport_cls
from punq import Container, MissingDependencyError

from llm_provider.adapters import redis_transport
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.bootstrap import PROVIDERS, build_web, build_worker, ledger_timing
from llm_provider.config import Settings
from llm_provider.ledger import LedgerProtocol, LedgerTiming
from llm_provider.orchestrator import LLMOrchestratorImpl
from llm_provider.protocols import EventBusProtocol, LLMEventPublisherProtocol, ResultStoreProtocol
from llm_provider.queue_models import TASK_NAME
from llm_provider.queue_processor import QueueProcessorImpl
from llm_provider.sweeper import Sweeper
from llm_provider.worker import WorkerParts, WorkerRuntime

# kombu ships half its types.
get_transport_cls: Any = kombus_get_transport_cls

SETTINGS = Settings(redis_url="redis://127.0.0.1:1/0", kafka_bootstrap_servers="127.0.0.1:1")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection made while this is used fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def worker_parts(settings: Settings = SETTINGS) -> WorkerParts:
    """What a worker process would run, as its task's runtime builds it."""
    task = build_worker(settings).tasks[TASK_NAME]
    runtime: WorkerRuntime = task._runtime  # noqa: SLF001 The only way to it that needs no running worker.
    return runtime._build()  # noqa: SLF001 Likewise.


@pytest.mark.usefixtures("no_network")
def test_building_opens_nothing() -> None:
    """Neither a connection nor a thread, in web and worker: whatever is opened before a fork is broken after it."""
    threads = threading.active_count()
    build_web(SETTINGS)
    worker_parts()

    assert threading.active_count() == threads


@pytest.mark.parametrize("build", [build_web, build_worker], ids=["web", "worker"])
def test_every_process_speaks_to_redis_through_the_repaired_transport(
    build: Callable[[Settings], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kombu's own a worker dies of a restart of Redis; which one is used is decided by the scheme."""
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(TRANSPORT_ALIASES, scheme, "kombu.transport.redis:Transport")
    # What a scheme meant before is kept by kombu; a process has just started.
    monkeypatch.setattr("kombu.transport._transport_cache", {})
    build(SETTINGS)

    assert {get_transport_cls(scheme) for scheme in ("redis", "rediss")} == {redis_transport.Transport}


def test_a_web_process_serves_every_route_of_the_contract() -> None:
    """The routes by method; a route that vanishes is noticed here."""
    rules = build_web(SETTINGS).url_map.iter_rules()

    assert {(rule.rule, *sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})) for rule in rules} == {
        ("/api/v1/comparison", "POST"),
        ("/api/v1/status/<queue_id>", "GET"),
        ("/api/v1/results/<queue_id>", "GET"),
        ("/api/v1/providers", "GET"),
        ("/api/v1/providers/<name>/test", "POST"),
        ("/api/v1/models", "GET"),
        ("/healthz", "GET"),
        ("/metrics", "GET"),
    }


def test_a_worker_knows_the_task() -> None:
    """Under the name that the web process sends."""
    assert TASK_NAME in build_worker(SETTINGS).tasks


def test_all_parts_of_a_process_share_one_ledger_and_one_bus() -> None:
    """Two ledgers would be two pools of connections, two buses two Kafka producers."""
    kept: list[Container] = []
    runtime = build_worker(SETTINGS, kept.append).tasks[TASK_NAME]._runtime  # noqa: SLF001 See worker_parts.
    parts = runtime._build()  # noqa: SLF001 Likewise.

    (container,) = kept
    assert container.resolve(LedgerProtocol) is parts.ledger
    assert container.resolve(EventBusProtocol) is parts.bus
    assert container.resolve(QueueProcessorImpl) is parts.processor
    assert container.resolve(Sweeper) is parts.sweeper
    assert container.resolve(LLMEventPublisherProtocol) is container.resolve(LLMEventPublisherProtocol)


def test_each_process_builds_parts_of_its_own() -> None:
    """A child made by fork must not share its parent's connections."""
    runtime = build_worker(SETTINGS).tasks[TASK_NAME]._runtime  # noqa: SLF001 See worker_parts.
    first, second = runtime._build(), runtime._build()  # noqa: SLF001 Likewise.

    assert first.ledger is not second.ledger
    assert first.bus is not second.bus


def test_a_part_can_be_exchanged() -> None:
    """The last registration wins, so that a test runs the whole application over a part in memory."""
    ledger = MemoryLedger(ledger_timing(SETTINGS))

    def exchange(container: Container) -> None:
        container.register(LedgerProtocol, instance=ledger)

    app = build_web(SETTINGS, exchange)

    assert app.test_client().get("/healthz").json == {"status": "ok", "ledger": "ok"}


class Unheard:
    """A service that nobody registers."""


class NeedsUnheard:
    def __init__(self, unheard: Unheard) -> None: ...


@pytest.mark.parametrize("service", [LedgerProtocol, LLMOrchestratorImpl, ResultStoreProtocol])
def test_what_cannot_be_resolved_stops_the_boot(service: type[object]) -> None:
    """A missing part is found while building, and not by the first request that needs it."""

    def break_it(container: Container) -> None:
        container.register(service, NeedsUnheard)

    with pytest.raises(MissingDependencyError, match="Unheard"):
        build_web(SETTINGS, break_it)


def test_the_ledger_gets_the_configured_times() -> None:
    """Each setting in its own place: two seconds swapped would still look like seconds."""
    settings = Settings(
        lease_seconds=11,
        redispatch_after_seconds=12,
        kafka_max_block_seconds=1,
        kafka_delivery_timeout_seconds=2,
        delivery_retry_seconds=(3, 4),
        result_expires_seconds=61,
        record_retention_seconds=62,
        queue_high_watermark=64,
        queue_low_watermark=63,
        sweep_batch=65,
    )

    assert ledger_timing(settings) == LedgerTiming(
        lease=11,
        redispatch_after=12,
        delivery_window=5,
        delivery_retry=(3, 4),
        result_expires=61,
        record_retention=62,
        high_watermark=64,
        low_watermark=63,
        sweep_batch=65,
    )


def test_every_provider_is_wired_under_its_own_name() -> None:
    """Two under one name would hide each other."""
    names = [build(SETTINGS).name for build in PROVIDERS]

    assert len(set(names)) == len(names)
