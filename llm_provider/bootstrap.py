"""The one place that wires: settings in, a web application or a Celery app out.

Building opens nothing, neither a connection nor a thread. What a worker runs is built again in every process that
forks and started there; a container is resolved wholly and at once, since punq's lazy singletons are not safe among
threads, and so that whatever is wrong stops the boot.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from celery import Celery
from flask import Flask
from punq import Container, Scope

from contracts.enums import LLMProviderType
from llm_provider import logs
from llm_provider.adapters import celery_results, redis_transport
from llm_provider.adapters.celery_queue import CeleryTaskDispatcher, celery_settings
from llm_provider.adapters.celery_results import CeleryResultStore
from llm_provider.adapters.event_publisher import KafkaEventPublisher
from llm_provider.adapters.kafka_bus import KafkaBus
from llm_provider.adapters.pricing import price_per_million
from llm_provider.adapters.providers.anthropic_provider import AnthropicProvider
from llm_provider.adapters.providers.google_provider import GoogleProvider
from llm_provider.adapters.providers.mock import MockProvider
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.adapters.providers.openrouter_provider import OpenRouterProvider
from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.adapters.redis_secret import RedisDelimiterSecret
from llm_provider.admission import BreakerPolicy
from llm_provider.api.app import WebParts, create_app
from llm_provider.boot_checks import check_redis, safety_of
from llm_provider.call_attempts import CallPolicy
from llm_provider.config import Settings
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.leases import LeaseKeeper
from llm_provider.ledger import LedgerProtocol, LedgerTiming
from llm_provider.model_manifest import load_manifest
from llm_provider.orchestrator import LLMOrchestratorImpl, RequestPolicy
from llm_provider.prompts import PromptWriter
from llm_provider.protocols import (
    DelimiterSecretProtocol,
    EventBusProtocol,
    LeaseKeeperProtocol,
    LLMEventPublisherProtocol,
    LLMProviderProtocol,
    RealProvider,
    ResultStoreProtocol,
    TaskDispatcherProtocol,
    WakerProtocol,
)
from llm_provider.provider_caller import ProviderCaller
from llm_provider.publish_gate import PublishGate
from llm_provider.queue_processor import QueueProcessorImpl
from llm_provider.retries import RetrySchedule
from llm_provider.sweeper import Sweeper
from llm_provider.sync_threads import SyncThreads
from llm_provider.tasks import ProcessComparison
from llm_provider.waker import Nobody, Waker
from llm_provider.watchdog import LoopWatchdog
from llm_provider.worker import LoopTimer, WorkerParts, WorkerRuntime, WorkerSignals

log = structlog.get_logger(__name__)

# One line adds a vendor.
REAL_PROVIDERS: tuple[type[RealProvider], ...] = (
    AnthropicProvider,
    OpenAIProvider,
    GoogleProvider,
    OpenRouterProvider,
)
PROVIDERS: tuple[Callable[[Settings], LLMProviderProtocol], ...] = (MockProvider, *REAL_PROVIDERS)

# Admission control is asked before every call, and done without when it does not answer.
ADMISSION_TIMEOUT_SECONDS = 0.5

# Tests replace parts by registering others: the last registration of a service wins.
Customise = Callable[[Container], None]


def build_web(settings: Settings, customise: Customise | None = None) -> Flask:
    """The Flask application of one web process."""
    logs.configure(settings.log_level)
    timeout = settings.web_redis_timeout_seconds
    container = _shared(settings, _celery(settings, timeout), timeout)
    sync_threads = SyncThreads(settings.sync_threads)
    container.register(SyncThreads, instance=sync_threads)
    container.register(LLMOrchestratorImpl, scope=Scope.singleton)
    if customise is not None:
        customise(container)
    return create_app(
        WebParts(
            settings=settings,
            orchestrator=container.resolve(LLMOrchestratorImpl),
            caller=container.resolve(ProviderCaller),
            # An operator can try a provider out even where no request is answered at once.
            trial_threads=sync_threads if settings.sync_threads else SyncThreads(1),
            ledger=container.resolve(LedgerProtocol),
            results=container.resolve(ResultStoreProtocol),
            manifest=load_manifest(),
            price_per_million=price_per_million,
        )
    )


def build_worker(settings: Settings, customise: Customise | None = None) -> Celery:
    """The Celery app that `celery -A celery_app worker` and flower find, its task and signals in place."""
    logs.configure(settings.log_level)
    app = _celery(settings, settings.worker_redis_timeout_seconds)
    app.steps["consumer"].add(LoopTimer)
    runtime = WorkerRuntime(lambda: _worker_parts(settings, app, customise), lambda: check_redis(settings))
    app.register_task(ProcessComparison(runtime))
    WorkerSignals(
        runtime, _watchdog(settings, app, runtime), longest_task_seconds=settings.longest_task_seconds
    ).connect()
    return app


@dataclass(frozen=True)
class OperatorParts:
    """What an operator's command line asks."""

    settings: Settings
    ledger: RedisLedger
    caller: ProviderCaller


def build_operator(settings: Settings) -> OperatorParts:
    """The ledger and the providers, as an operator's command line asks them."""
    return OperatorParts(
        settings=settings,
        ledger=_ledger(settings, settings.worker_redis_timeout_seconds),
        caller=_caller(settings, Nobody()),
    )


def base_url(settings: Settings, provider: LLMProviderType) -> str | None:
    """Where a provider's calls go; None for the mock, whose calls go nowhere."""
    defaults = {real.name: real.default_base_url for real in REAL_PROVIDERS}
    return settings.vendor(provider).base_url or defaults.get(provider)


def _worker_parts(settings: Settings, app: Celery, customise: Customise | None) -> WorkerParts:
    container = _shared(settings, app, settings.worker_redis_timeout_seconds, outlives_silence=True)
    _add_worker_parts(container, settings)
    if customise is not None:
        customise(container)
    return WorkerParts(
        processor=container.resolve(QueueProcessorImpl),
        leases=container.resolve(LeaseKeeper),
        sweeper=container.resolve(Sweeper),
        bus=container.resolve(EventBusProtocol),
        caller=container.resolve(ProviderCaller),
        ledger=container.resolve(LedgerProtocol),
    )


def _watchdog(settings: Settings, app: Celery, runtime: WorkerRuntime) -> LoopWatchdog:
    return LoopWatchdog(
        CeleryTaskDispatcher(app),
        stall_seconds=settings.worker_stall_seconds,
        grace_seconds=settings.longest_task_seconds,
        is_idle=runtime.is_idle,
    )


def _celery(settings: Settings, timeout: float) -> Celery:
    redis_transport.install()
    app = Celery("llm_provider", set_as_current=False)
    celery_results.install(app)
    app.conf.update(celery_settings(settings, socket_timeout_seconds=timeout))
    return app


def _shared(settings: Settings, app: Celery, timeout: float, *, outlives_silence: bool = False) -> Container:
    """What web and worker processes have in common."""
    container = Container()
    container.register(RequestPolicy, instance=_policy(settings))
    _add(container, LedgerProtocol, lambda: _ledger(settings, timeout, outlives_silence=outlives_silence))
    _add(container, TaskDispatcherProtocol, lambda: CeleryTaskDispatcher(app))
    container.register(WakerProtocol, Waker, scope=Scope.singleton)
    _add(container, ProviderCaller, lambda: _caller(settings, container.resolve(WakerProtocol)))
    _add(container, ResultStoreProtocol, lambda: CeleryResultStore(app))
    return container


def _add_worker_parts(container: Container, settings: Settings) -> None:
    container.register(PublishGate, instance=PublishGate())
    container.register(LLMEventPublisherProtocol, KafkaEventPublisher, scope=Scope.singleton)
    container.register(QueueProcessorImpl, scope=Scope.singleton)
    _add(container, EventBusProtocol, lambda: _kafka_bus(settings))
    _add(container, LeaseKeeper, lambda: LeaseKeeper(_renewing_ledger(settings), settings.lease_seconds))
    _add(container, LeaseKeeperProtocol, lambda: container.resolve(LeaseKeeper))
    _add(container, Sweeper, lambda: _sweeper(container, settings))


def _add(container: Container, service: type[Any], factory: Callable[[], object]) -> None:
    container.register(service, factory=factory, scope=Scope.singleton)


def _policy(settings: Settings) -> RequestPolicy:
    return RequestPolicy(
        default_provider=settings.default_provider,
        allowed_callback_topics=settings.allowed_callback_topics,
        sync_responses=settings.sync_responses,
        deadline_seconds=settings.request_deadline_seconds,
        allow_empty_essays=settings.allow_empty_essays,
    )


def _caller(settings: Settings, waker: WakerProtocol) -> ProviderCaller:
    providers = [build(settings) for build in PROVIDERS]
    gatekeeper = Gatekeeper(_admission(settings), waker, settings.lease_seconds)
    return ProviderCaller(
        {provider.name: provider for provider in providers},
        gatekeeper,
        _call_policy(settings),
        prompts=_prompts(settings),
    )


def _prompts(settings: Settings) -> PromptWriter:
    return PromptWriter(
        _delimiter_secret(settings),
        max_chars=settings.max_prompt_chars,
        trusts_system_prompts=settings.trust_system_prompts,
    )


def _delimiter_secret(settings: Settings) -> DelimiterSecretProtocol:
    if settings.delimiter_secret is not None:
        return settings.delimiter_secret.get_secret_value().encode
    client = connect_redis(settings.redis_url, timeout_seconds=ADMISSION_TIMEOUT_SECONDS)
    return RedisDelimiterSecret(client, prefix=settings.key_prefix)


def _call_policy(settings: Settings) -> CallPolicy:
    return CallPolicy(
        timeout_seconds=settings.provider_timeout_seconds,
        retries=RetrySchedule(
            waits=settings.provider_retry_seconds,
            refusals=settings.provider_refusals,
            resend_unanswered_calls=settings.resend_unanswered_calls,
        ),
        repair_invalid_answers=settings.repair_invalid_answers,
        judged_after_seconds=settings.breaker_timeout_seconds,
        longest_hold_seconds=settings.longest_hold_seconds,
    )


def _admission(settings: Settings) -> RedisAdmission:
    client = connect_redis(settings.redis_url, timeout_seconds=ADMISSION_TIMEOUT_SECONDS)
    policy = BreakerPolicy(settings.breaker_failures, settings.breaker_open_seconds, settings.breaker_successes)
    return RedisAdmission(
        client, prefix=settings.key_prefix, breaker=policy, limits=settings.vendor, lease_seconds=settings.lease_seconds
    )


def _renewing_ledger(settings: Settings) -> RedisLedger:
    """With connections of its own: one that falls silent costs a quarter of a lease, beside the keeper's rhythm."""
    timeout = min(settings.lease_seconds / 8, settings.worker_redis_timeout_seconds)
    return _ledger(settings, timeout, outlives_silence=True)


def _ledger(settings: Settings, timeout: float, *, outlives_silence: bool = False) -> RedisLedger:
    client = connect_redis(settings.redis_url, timeout_seconds=timeout, outlives_silence=outlives_silence)
    safety = safety_of(settings, timeout)
    return RedisLedger(client, prefix=settings.key_prefix, timing=ledger_timing(settings), safety=safety)


def ledger_timing(settings: Settings) -> LedgerTiming:
    """The ledger's times and limits as configured."""
    return LedgerTiming(
        lease=settings.lease_seconds,
        redispatch_after=settings.redispatch_after_seconds,
        delivery_window=settings.delivery_window_seconds,
        delivery_retry=settings.delivery_retry_seconds,
        result_expires=settings.result_expires_seconds,
        record_retention=settings.record_retention_seconds,
        high_watermark=settings.queue_high_watermark,
        low_watermark=settings.queue_low_watermark,
        sweep_batch=settings.sweep_batch,
        dead_letter_after=settings.dead_letter_after_seconds,
        memory_bytes=settings.redis_memory_bytes or 0,
    )


def _kafka_bus(settings: Settings) -> KafkaBus:
    return KafkaBus(
        settings.kafka_bootstrap_servers,
        delivery_timeout_seconds=settings.kafka_delivery_timeout_seconds,
        max_block_seconds=settings.kafka_max_block_seconds,
    )


def _sweeper(container: Container, settings: Settings) -> Sweeper:
    return Sweeper(
        container.resolve(LedgerProtocol),
        container.resolve(TaskDispatcherProtocol),
        container.resolve(QueueProcessorImpl),
        container.resolve(ProviderCaller),
        interval_seconds=settings.sweep_interval_seconds,
        batch=settings.sweep_batch,
        # What is begun later could end after its window, when somebody else tries as well.
        patience_seconds=settings.delivery_window_seconds / 2,
    )
