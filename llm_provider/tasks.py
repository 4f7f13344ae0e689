"""The Celery task of one comparison, and its success and failure handlers."""

from typing import Any

import structlog
from celery import Task

from llm_provider.errors import ComparisonError, LedgerUnavailable, RecordUnreadable
from llm_provider.ledger import Decision
from llm_provider.queue_models import TASK_NAME
from llm_provider.worker import WorkerRuntime

log = structlog.get_logger(__name__)


class ComparisonFailed(ComparisonError):
    """Shows a failed comparison as a failed task; the outcome is stored already, the failure handler delivers it."""

    def __init__(self, decision: Decision) -> None:
        error = decision.outcome.error
        super().__init__(str(error.error_code) if error else "")
        self.decision = decision

    def __reduce__(self) -> tuple[type[ComparisonError], tuple[str]]:
        # What a prefork child hands to its parent is an id and a code.
        return ComparisonError, (f"{self.decision.request.queue_id}: {self.message}",)


class ProcessComparison(Task):  # type: ignore[misc] # Celery ships no types.
    """Its only argument is the queue id; it may be delivered late, twice, or beside a live copy of itself."""

    name = TASK_NAME
    ignore_result = True
    # Expected: told in one line, without a traceback.
    throws = (ComparisonFailed, LedgerUnavailable, RecordUnreadable)

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def run(self, queue_id: str) -> Decision | None:
        if not isinstance(queue_id, str):
            # Whoever can write to the queue's key sent it. Nobody else's lease shall depend on what Redis makes of it.
            log.warning("unreadable_message_dropped", error=type(queue_id).__name__)
            return None
        decision = self._runtime.processor.process(queue_id)
        if decision is not None and decision.outcome.error is not None:
            raise ComparisonFailed(decision)
        return decision

    def on_success(self, retval: Decision | None, task_id: str, args: Any, kwargs: Any) -> None:
        if retval is not None:
            self._runtime.processor._handle_request_success(retval)  # noqa: SLF001 The contract names it so.

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        if isinstance(exc, ComparisonFailed):
            self._runtime.processor._handle_request_failure(exc.decision)  # noqa: SLF001 The contract names it so.
