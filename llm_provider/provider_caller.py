"""One comparison put to the provider it was resolved to; the one place where a call is made."""

import math
import time
from collections.abc import Mapping

from contracts.enums import LLMProviderType
from llm_provider import outcomes
from llm_provider.errors import ProviderMissing, ProviderNotConfigured
from llm_provider.internal_models import ComparisonTexts, ProviderAnswer, ProviderCall
from llm_provider.protocols import LLMProviderProtocol
from llm_provider.queue_models import Outcome, QueuedRequest, utc_now


class ProviderCaller:
    """Knows the providers of this installation and the time one call may take."""

    def __init__(self, providers: Mapping[LLMProviderType, LLMProviderProtocol], *, timeout_seconds: float) -> None:
        self._providers = providers
        self._timeout = timeout_seconds

    def all(self) -> list[LLMProviderProtocol]:
        """Every provider this service knows, configured or not."""
        return list(self._providers.values())

    def close(self) -> None:
        """Give back the providers' connections."""
        for provider in self._providers.values():
            provider.close()

    def configured(self, name: LLMProviderType) -> LLMProviderProtocol:
        """The provider a caller asks for; raises ProviderNotConfigured when it cannot be used here."""
        provider = self._providers.get(name)
        if provider is None or not provider.is_configured():
            usable = ", ".join(p.name for p in self._providers.values() if p.is_configured()) or "none"
            raise ProviderNotConfigured(
                f"Provider {name} is not configured here; configured: {usable}.",
                field="llm_config_overrides.provider_override",
            )
        return provider

    def compare(self, request: QueuedRequest, texts: ComparisonTexts, seconds_left: float = math.inf) -> Outcome:
        """Make the call; raises a ComparisonError when it gives no verdict."""
        provider = self._providers.get(request.provider)
        if provider is None or not provider.is_configured():
            raise ProviderMissing(f"The worker has no provider {request.provider}.")
        started = time.monotonic()
        answer = provider.compare(_call(request, texts), timeout_seconds=min(self._timeout, seconds_left))
        return outcomes.completed(request.queue_id, answer, response_time_ms=milliseconds_since(started), at=utc_now())

    def try_out(self, provider: LLMProviderProtocol, texts: ComparisonTexts) -> tuple[ProviderAnswer, int]:
        """One call outside any request: the answer and its milliseconds; raises a ComparisonError."""
        started = time.monotonic()
        call = ProviderCall(texts=texts, model=provider.default_model)
        answer = provider.compare(call, timeout_seconds=self._timeout)
        return answer, milliseconds_since(started)


def milliseconds_since(started: float) -> int:
    """Whole milliseconds since a reading of time.monotonic()."""
    return round((time.monotonic() - started) * 1000)


def _call(request: QueuedRequest, texts: ComparisonTexts) -> ProviderCall:
    return ProviderCall(
        texts=texts,
        model=request.model,
        temperature=request.overrides.temperature_override,
        max_tokens=request.overrides.max_tokens_override,
    )
