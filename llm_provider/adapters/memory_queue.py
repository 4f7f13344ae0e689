"""A queue and a result store in memory. For tests of whatever dispatches and stores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_provider.errors import LedgerUnavailable
from llm_provider.queue_models import OutcomeError


@dataclass
class MemoryDispatcher:
    """TaskDispatcherProtocol in one process; `away` plays an outage."""

    messages: list[str] = field(default_factory=list)
    away: bool = False

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        self.queue_is_empty()
        self.messages.insert(0 if first else len(self.messages), queue_id)

    def queue_is_empty(self) -> bool:
        if self.away:
            raise LedgerUnavailable("The queue did not answer (away).", retry_after_seconds=5)
        return not self.messages


@dataclass
class MemoryResultStore:
    """ResultStoreProtocol in one process; nothing expires by itself."""

    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: dict[str, OutcomeError] = field(default_factory=dict)

    def store_result(self, queue_id: str, result: Mapping[str, Any]) -> None:
        self.results[queue_id] = dict(result)

    def store_error(self, queue_id: str, error: OutcomeError) -> None:
        self.errors[queue_id] = error

    def load_result(self, queue_id: str) -> Mapping[str, Any] | None:
        return self.results.get(queue_id)
