"""The Celery task: what success, failure and nothing-to-do mean to Celery, and what Celery may see."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states
from structlog.testing import capture_logs

from contracts.enums import QueueStatus
from llm_provider.adapters.memory_queue import MemoryDispatcher
from llm_provider.errors import ComparisonError, LedgerUnavailable, RateLimited, RecordUnreadable
from llm_provider.ledger import Decision
from llm_provider.queue_models import TASK_NAME, QueuedRequest
from llm_provider.queue_processor import QueueProcessorImpl
from llm_provider.sweeper import Sweeper
from llm_provider.tasks import ComparisonFailed, ProcessComparison
from llm_provider.worker import WorkerParts, WorkerRuntime
from scripts.local_servers import wait_until
from tests.unit.builders import SECRET, Worker, a_request, a_verdict_for, an_error_for, read


class Handled(QueueProcessorImpl):
    """The processor, noting which of its handlers was called with which request."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.calls: list[tuple[str, str]] = []

    def _handle_request_success(self, decision: Decision) -> None:
        self.calls.append(("success", decision.request.queue_id))
        super()._handle_request_success(decision)

    def _handle_request_failure(self, decision: Decision) -> None:
        self.calls.append(("failure", decision.request.queue_id))
        super()._handle_request_failure(decision)


@pytest.fixture
def worker() -> Worker:
    return Worker(kind=Handled)


@pytest.fixture
def handled(worker: Worker) -> list[tuple[str, str]]:
    assert isinstance(worker.processor, Handled)
    return worker.processor.calls


def parts_of(worker: Worker, *, sweep_interval_seconds: float) -> WorkerParts:
    interval, queue = sweep_interval_seconds, MemoryDispatcher()
    return WorkerParts(
        processor=worker.processor,
        leases=worker.leases,
        sweeper=Sweeper(worker.ledger, queue, worker.processor, worker.caller, interval_seconds=interval, batch=200),
        bus=worker.bus,
        caller=worker.caller,
        ledger=worker.ledger,
    )


@pytest.fixture
def runtime(worker: Worker) -> Iterator[WorkerRuntime]:
    runtime = WorkerRuntime(lambda: parts_of(worker, sweep_interval_seconds=3600.0))
    yield runtime
    runtime.stop()


@pytest.fixture
def task(runtime: WorkerRuntime) -> Any:
    app = Celery("test", set_as_current=False)
    return app.register_task(ProcessComparison(runtime))


def run(task: Any, request: QueuedRequest) -> Any:
    """Run the task as Celery does, handlers included, in this process."""
    return task.apply(args=[request.queue_id], task_id=request.queue_id)


def test_a_verdict_is_delivered_by_the_success_handler(
    worker: Worker, task: Any, handled: list[tuple[str, str]]
) -> None:
    """on_success -> _handle_request_success."""
    request = worker.accept()
    assert run(task, request).state == states.SUCCESS
    assert handled == [("success", request.queue_id)]
    assert read(worker.records[0]).data.is_success


def test_an_error_is_delivered_by_the_failure_handler(
    worker: Worker, task: Any, handled: list[tuple[str, str]]
) -> None:
    """on_failure -> _handle_request_failure; flower shows the task as failed."""
    worker.provider.answer = RateLimited("Too many calls.")
    request = worker.accept()
    assert run(task, request).state == states.FAILURE
    assert handled == [("failure", request.queue_id)]
    assert read(worker.records[0]).data.is_error


def test_an_expired_request_is_a_failed_task(worker: Worker, task: Any, handled: list[tuple[str, str]]) -> None:
    """It takes the same way as every other error."""
    request = worker.accept(deadline_seconds=1.0)
    worker.clock.advance(2)
    assert run(task, request).state == states.FAILURE
    assert handled == [("failure", request.queue_id)]


def test_a_task_with_nothing_left_to_do_ends_quietly(worker: Worker, task: Any, handled: list[tuple[str, str]]) -> None:
    """A second message, and one of an unknown request: a success that nobody handles."""
    request = worker.accept()
    run(task, request)
    handled.clear()
    assert run(task, request).state == states.SUCCESS
    assert run(task, a_request()).state == states.SUCCESS
    assert handled == []
    assert len(worker.records) == 1


def test_a_task_that_cannot_ask_redis_fails_and_delivers_nothing(
    worker: Worker, task: Any, handled: list[tuple[str, str]]
) -> None:
    """The request waits as before, and the sweeper brings it back."""
    request = worker.accept()
    worker.ledger.away = True
    result = run(task, request)
    worker.ledger.away = False
    assert (result.state, type(result.result)) == (states.FAILURE, LedgerUnavailable)
    assert handled == []
    view = worker.ledger.view(request.queue_id)
    assert view is not None
    assert view.status is QueueStatus.QUEUED


def test_the_task_has_the_name_its_messages_carry(task: Any) -> None:
    """It stores nothing by itself, and the errors it is expected to raise are told without a traceback."""
    assert (task.name, task.ignore_result) == (TASK_NAME, True)
    assert set(task.throws) == {ComparisonFailed, LedgerUnavailable, RecordUnreadable}


def test_what_a_task_returns_shows_the_id_alone() -> None:
    """Celery prints it, and flower shows it."""
    request = a_request(user_id=SECRET, metadata={"note": SECRET})
    decision = Decision(request, a_verdict_for(request, justification=SECRET))
    assert repr(decision) == str(decision) == f"Decision({request.queue_id})"


def test_a_failed_comparison_crosses_processes_as_an_id_and_a_code() -> None:
    """A prefork child pickles what it raised: neither request nor message goes with it."""
    request = a_request(user_id=SECRET, metadata={"note": SECRET})
    failed = ComparisonFailed(Decision(request, an_error_for(request, RateLimited(SECRET))))
    pickled = pickle.dumps(failed)
    assert SECRET.encode() not in pickled
    # What is read here was written two lines above.
    arrived = pickle.loads(pickled)  # noqa: S301
    assert type(arrived) is ComparisonError
    assert arrived.message == f"{request.queue_id}: RATE_LIMIT"
    assert SECRET not in repr(failed) + str(failed)


@pytest.mark.parametrize("answer", ["verdict", "error", "defect"])
def test_nothing_celery_or_we_log_quotes_a_text(
    worker: Worker, task: Any, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """Neither the texts nor what an exception quotes of them."""
    if answer != "verdict":
        worker.provider.answer = RateLimited("Ours.") if answer == "error" else ValueError(SECRET)
    caplog.set_level("DEBUG")
    with capture_logs() as logs:
        result = run(task, worker.accept(metadata={"note": SECRET}))
    assert SECRET not in caplog.text + repr(logs) + repr(result.result) + str(result.traceback)


def test_the_parts_are_built_once_and_stopped_once(worker: Worker, task: Any, runtime: WorkerRuntime) -> None:
    """The first task starts them, every other uses them, and stopping gives back what was opened."""
    for _ in range(3):
        run(task, worker.accept())
    assert runtime.start() is runtime.start()
    runtime.stop()
    runtime.stop()
    assert worker.bus.closed


def test_a_started_worker_sweeps(worker: Worker) -> None:
    """Whatever a dead one left behind is delivered though no task ever comes."""
    request = worker.accept()
    worker.ledger.commit(request.queue_id, a_verdict_for(request))
    worker.clock.advance(worker.ledger.timing.delivery_window)
    runtime = WorkerRuntime(lambda: parts_of(worker, sweep_interval_seconds=0.01))
    runtime.start()
    try:
        assert wait_until(lambda: len(worker.records) == 1, 10)
    finally:
        runtime.stop()


def test_a_revoked_task_ends_its_request(worker: Worker, runtime: WorkerRuntime) -> None:
    """Workers discard every later message of it, so nothing else would."""
    request = worker.accept()
    runtime.revoke(request.queue_id)
    view = worker.ledger.view(request.queue_id)
    assert view is not None
    assert view.status is QueueStatus.FAILED
    assert worker.records == []


def test_a_message_about_no_text_is_dropped(task: Any) -> None:
    """Held like an id, it would keep all other leases of its process from being renewed."""
    assert task.apply(args=[{"a": 1}]).result is None
