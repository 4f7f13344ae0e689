"""What every provider over a vendor's SDK does alike; a vendor's own class says how it is asked and what it says."""

import time
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from contracts.enums import LLMProviderType
from llm_provider.adapters.pricing import UNCOUNTED
from llm_provider.adapters.providers import vendor_errors
from llm_provider.adapters.providers.deadline import deadline
from llm_provider.adapters.providers.per_process import PerProcess
from llm_provider.adapters.providers.replies import Reply, notes_on, to_answer
from llm_provider.config import Settings
from llm_provider.errors import KeyUnusable, NotSentInTime, ProviderError, ProviderUnreachable
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.model_manifest import FittedCall, ModelManifest, ModelRow, fit, load_manifest


class Client(Protocol):
    """Of an SDK, with its open connections."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Client)


class SDKProvider(ABC, Generic[C]):
    """LLMProviderProtocol over a vendor's SDK; nothing connects before the first call."""

    name: LLMProviderType
    default_base_url: str
    default_model: str

    def __init__(self, settings: Settings, manifest: ModelManifest | None = None) -> None:
        self._settings = settings.vendor(self.name)
        self._manifest = load_manifest() if manifest is None else manifest
        self._client = PerProcess(self._build_client)
        if self._settings.default_model is not None:
            self.default_model = self._settings.default_model

    @abstractmethod
    def _connect(self, api_key: str, base_url: str) -> C:
        """A client that makes each call once, and sends the key nowhere else."""

    @abstractmethod
    def _ask(self, client: C, call: ProviderCall, fitted: FittedCall, timeout_seconds: float) -> Reply:
        """Make the call and read the answer; whatever it raises, `_translate` is given."""

    @abstractmethod
    def _translate(self, error: Exception) -> ProviderError:
        """Say what an exception from a call means; it is never the new error's cause or context."""

    def is_configured(self) -> bool:
        return bool(self._settings.key)

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        fitted, end = self._fit(call, self._manifest.find(self.name, call.model)), time.monotonic() + timeout_seconds
        try:
            with deadline(timeout_seconds):
                reply = self._ask(self._client.get(), call, fitted, timeout_seconds)
        except Exception as error:
            failure = self._judged_by_time(self._translate(error), end)
        else:
            return to_answer(reply, provider=self.name, model=call.model, dropped_parameters=fitted.dropped)
        # Outside the handler, so that no log of a chained traceback can show what the vendor wrote.
        raise failure.noted(notes_on(fitted.dropped, UNCOUNTED if failure.may_be_billed else None))

    def _judged_by_time(self, failure: ProviderError, end: float) -> ProviderError:
        """What was not sent when its time was over was not sent in time, be it the vendor's fault or its caller's."""
        if isinstance(failure, ProviderUnreachable) and not failure.was_sent and time.monotonic() >= end:
            return NotSentInTime(vendor_errors.message(self.name, NotSentInTime))
        return failure

    def _fit(self, call: ProviderCall, row: ModelRow | None) -> FittedCall:
        effort = self._settings.reasoning_effort
        if call.is_trial and row is not None and row.reasoning_efforts:
            effort = row.reasoning_efforts[0]
        return fit(call, row, reasoning_effort=effort)

    def close(self) -> None:
        client = self._client.discard()
        if client is not None:
            client.close()

    def _build_client(self) -> C:
        if not self.is_configured():
            raise KeyUnusable(f"{self.name} has no key here.")
        base_url = self._settings.base_url
        return self._connect(self._settings.key, self.default_base_url if base_url is None else base_url)
