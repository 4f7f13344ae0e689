"""The ports: what the core needs from the world, each docstring a contract."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from contracts.enums import LLMProviderType
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from llm_provider.config import Settings
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.queue_models import OutcomeError


class LLMProviderProtocol(Protocol):
    """One LLM vendor, called synchronously from many threads at once.

    `compare` makes at most one billed call, never retries, and returns or raises within `timeout_seconds` in
    total, however slowly the vendor sends. It raises a ProviderError and nothing else; the error's message and
    details hold no text of the vendor, no prompt, no key.
    """

    @property
    def name(self) -> LLMProviderType: ...

    @property
    def default_model(self) -> str: ...

    def is_configured(self) -> bool:
        """Whether this process has what a call needs (a key, or for the mock: not switched off)."""
        ...

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer: ...

    def close(self) -> None:
        """Give back connections; the provider is not used afterwards."""
        ...


class RealProvider(LLMProviderProtocol, Protocol):
    """A provider with a vendor behind it: what is known of its class before it is built."""

    name: LLMProviderType
    default_base_url: str
    default_model: str

    def __init__(self, settings: Settings) -> None: ...


class DelimiterSecretProtocol(Protocol):
    """What the names of the tags around essays are made with: no caller and no student knows it."""

    def __call__(self) -> bytes:
        """The same for all processes of an installation wherever possible. Never raises."""
        ...


class LLMEventPublisherProtocol(Protocol):
    """Publishes a request's one event to the topic its caller named."""

    def publish_comparison_result(self, topic: str, envelope: EventEnvelope[LLMComparisonResultV1]) -> None:
        """Return once the broker has acknowledged the event, with all in-sync replicas.

        The record is a pure function of topic and envelope, so publishing again after an error is safe and gives
        the same bytes. Raises a PublishError; the event may then still have arrived.
        """
        ...


class EventBusProtocol(Protocol):
    """Sends one record to a Kafka-like broker, from many threads at once."""

    def publish(self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Return once the record is acknowledged; raise a PublishError, within a bounded time, otherwise."""
        ...

    def close(self) -> None:
        """Give back connections; idempotent."""
        ...


class ResultStoreProtocol(Protocol):
    """Keeps the results nobody asked to be called back with, for a limited time, under the queue id."""

    def store_result(self, queue_id: str, result: Mapping[str, Any]) -> None:
        """Store a finished comparison; storing the same again is safe. Raises LedgerUnavailable."""
        ...

    def store_error(self, queue_id: str, error: OutcomeError) -> None:
        """Store that there is no result, and why. Raises LedgerUnavailable."""
        ...

    def load_result(self, queue_id: str) -> Mapping[str, Any] | None:
        """The stored result, or None when there is none or it has expired. Raises LedgerUnavailable."""
        ...


class TaskDispatcherProtocol(Protocol):
    """Puts a request's id on the queue that the workers read."""

    def dispatch(self, queue_id: str, *, first: bool = False) -> None:
        """Send one message; `first` puts it before all that wait. Raises LedgerUnavailable; it may be sent then."""
        ...

    def queue_is_empty(self) -> bool:
        """Whether no message waits for a worker. Raises LedgerUnavailable."""
        ...


class WakerProtocol(Protocol):
    """Brings requests that sleep until they are invited to a worker."""

    def wake(self, queue_ids: Sequence[str]) -> Sequence[str]:
        """Wake them, and return those who will never come, since they are over.

        Never raises: who is not reached comes by itself later.
        """
        ...


class CallersProtocol(Protocol):
    """What the sweeper asks on behalf of the requests that sleep until they are invited."""

    def wake_next(self) -> None:
        """Wake those who may come now. Never raises."""
        ...


class LeaseKeeperProtocol(Protocol):
    """Keeps the leases of this process alive while their work goes on."""

    def hold(self, queue_id: str, holder: str) -> AbstractContextManager[None]: ...


class OutcomeDelivererProtocol(Protocol):
    """What the sweeper asks for; each call brings one request a step further and may be repeated."""

    def seconds_to_leave_deliveries(self) -> float | None:
        """How long no outcome need be tried, since the broker is known to be away; None when one may be."""
        ...

    def deliver_due(self, queue_id: str) -> None:
        """Deliver the stored outcome; what cannot be delivered now is postponed, not raised."""
        ...

    def give_up(self, queue_id: str) -> None:
        """Tell the caller of a damaged record that it ends, where that can be read."""
        ...

    def expire(self, queue_id: str) -> None:
        """Decide that the deadline has passed, unless something else is decided, and deliver that."""
        ...
