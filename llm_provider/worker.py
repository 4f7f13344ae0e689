"""The worker process around the task: what starts after the fork, what stops, what Celery's signals mean here."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from celery import bootsteps, signals
from celery.concurrency import get_implementation
from celery.concurrency.prefork import TaskPool as PreforkPool

from llm_provider import logs
from llm_provider.errors import ConfigurationError, ServiceError
from llm_provider.leases import LeaseKeeper
from llm_provider.ledger import LedgerProtocol
from llm_provider.protocols import EventBusProtocol
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_processor import QueueProcessorImpl
from llm_provider.sweeper import Sweeper
from llm_provider.watchdog import LoopWatchdog

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class WorkerParts:
    """What one worker process runs; built and checked before the first fork, started after it."""

    processor: QueueProcessorImpl
    leases: LeaseKeeper
    sweeper: Sweeper
    bus: EventBusProtocol
    caller: ProviderCaller
    ledger: LedgerProtocol


class LoopTimer(bootsteps.StartStopStep):  # type: ignore[misc] # Celery ships no types.
    """A timer of the event loop, set anew with each connection to the broker, which tells `watchdog` that it turns."""

    requires = ("celery.worker.consumer.connection:Connection",)
    INTERVAL_SECONDS = 0.5
    # Celery makes the step itself, and once a process.
    watchdog: LoopWatchdog
    _entry: Any = None

    def start(self, consumer: Any) -> None:
        self.watchdog.connected(True)
        self._entry = consumer.timer.call_repeatedly(self.INTERVAL_SECONDS, self.watchdog.turned)

    def stop(self, consumer: Any) -> None:
        self.watchdog.connected(False)
        if self._entry is not None:
            self._entry.cancel()


class WorkerRuntime:
    """The parts of this process; a child made by fork builds its own."""

    def __init__(self, build: Callable[[], WorkerParts], check_redis: Callable[[], None] = lambda: None) -> None:
        self._build = build
        self._check_redis = check_redis
        self._parts: WorkerParts | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Build everything once, so that a wrong setting stops the boot, and say what an operator should know."""
        self._build()
        self._check_redis()

    def start(self) -> WorkerParts:
        """Start the threads that keep leases alive and sweep; idempotent within a process."""
        with self._lock:
            if self._parts is None:
                self._parts = self._build()
                self._parts.leases.start()
                self._parts.sweeper.start()
            return self._parts

    @property
    def processor(self) -> QueueProcessorImpl:
        """The processor of the started parts: a task may come before the signal that the worker is ready."""
        return self.start().processor

    def is_idle(self) -> bool:
        """Whether this process works on no request."""
        return self._parts is None or self._parts.leases.is_idle()

    def revoke(self, queue_id: str) -> None:
        """End a revoked request; starts nothing, since a prefork main process hears of it too."""
        parts = self._parts or self._build()
        parts.processor.revoke(queue_id)

    def stop(self) -> None:
        """Stop the threads and give back connections; idempotent."""
        with self._lock:
            parts, self._parts = self._parts, None
        if parts is None:
            return
        parts.sweeper.stop()
        parts.leases.stop()
        parts.bus.close()
        parts.caller.close()


class WorkerSignals:
    """What the signals of a Celery worker mean to the runtime, whatever the pool."""

    def __init__(self, runtime: WorkerRuntime, watchdog: LoopWatchdog, *, longest_task_seconds: float) -> None:
        self._runtime = runtime
        self._watchdog = watchdog
        self._longest_task = longest_task_seconds

    def connect(self) -> None:
        LoopTimer.watchdog = self._watchdog
        receivers = {
            signals.setup_logging: logs.on_setup_logging,
            signals.worker_init: self.on_worker_init,
            signals.worker_ready: self.on_worker_ready,
            signals.worker_process_init: self.on_child_init,
            signals.worker_process_shutdown: self.on_stop,
            signals.worker_shutdown: self.on_stop,
            signals.task_revoked: self.on_revoked,
            signals.task_prerun: self.on_task_start,
            signals.task_postrun: self.on_task_end,
        }
        for signal, receiver in receivers.items():
            signal.connect(receiver, weak=False)

    def on_worker_init(self, sender: Any, **_: Any) -> None:
        # Celery swallows what a receiver raises here, so a failed check has to end the process itself.
        try:
            self._check_time_limits(sender)
            self._runtime.check()
        except ServiceError as error:
            sys.exit(f"llm-provider: {error.message}")

    def _check_time_limits(self, worker: Any) -> None:
        """Whatever the pool: threads heed no limit, and whoever sets one expects that it is heeded."""
        for name in ("time_limit", "soft_time_limit"):
            limit = getattr(worker, name)
            if limit and limit < self._longest_task:
                raise ConfigurationError(
                    f"Celery's {name} is {limit:g} s, and a request may take {self._longest_task:g} s: "
                    "a call that it cuts is paid, and paid again. Leave it out, or give it more."
                )

    def on_worker_ready(self, sender: Any, **_: Any) -> None:
        if issubclass(get_implementation(sender.controller.pool_cls), PreforkPool):
            # The children start it, and the main process never opens Kafka. One that was killed while the worker
            # waited for Redis is replaced here: Celery, which looks next, would end the worker for it.
            sender.pool.maintain_pool()
        else:
            self._runtime.start()
        self._watchdog.start()

    def on_child_init(self, **_: Any) -> None:
        self._runtime.start()

    def on_stop(self, **_: Any) -> None:
        self._watchdog.stop()
        self._runtime.stop()

    def on_revoked(self, request: Any, **_: Any) -> None:
        self._runtime.revoke(request.id)

    def on_task_start(self, task_id: str, **_: Any) -> None:
        # Threads are used again for other tasks, and context variables stay with the thread.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(queue_id=task_id)

    def on_task_end(self, **_: Any) -> None:
        structlog.contextvars.clear_contextvars()
