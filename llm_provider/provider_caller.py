"""The providers of this installation, and the one place from where they are called."""

import math
import time
from collections.abc import Callable, Mapping

from contracts.enums import LLMProviderType
from llm_provider.admission import BreakerView, ProviderLoad
from llm_provider.call_attempts import (
    CallAttempts,
    CallPolicy,
    asked_target,
    is_guarded,
    milliseconds_since,
    target_of,
)
from llm_provider.errors import ProviderMissing, ProviderNotConfigured
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import CallProgress, ComparisonTarget, ComparisonTexts, ProviderAnswer, ProviderCall
from llm_provider.prompts import PromptWriter
from llm_provider.protocols import LLMProviderProtocol
from llm_provider.queue_models import Outcome, QueuedRequest


class ProviderCaller:
    """Shared by all threads of a process."""

    def __init__(
        self,
        providers: Mapping[LLMProviderType, LLMProviderProtocol],
        gatekeeper: Gatekeeper,
        policy: CallPolicy,
        *,
        prompts: PromptWriter | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._providers = providers
        self._gatekeeper = gatekeeper
        self._policy = policy
        self._prompts = prompts or PromptWriter()
        self._sleep = sleep

    def all(self) -> list[LLMProviderProtocol]:
        """Every provider this service knows, configured or not."""
        return list(self._providers.values())

    def close(self) -> None:
        """Give back the providers' connections."""
        self._gatekeeper.stop()
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

    def is_available(self, provider: LLMProviderProtocol) -> bool:
        """Whether a call may be made now: what is queued finds out when an open circuit can be closed."""
        return provider.is_configured() and self.breaker(provider).lets_all_through

    def breaker(self, provider: LLMProviderProtocol) -> BreakerView:
        """The provider's circuit breaker; the mock's is always closed."""
        return self._gatekeeper.breaker(provider.name) if is_guarded(provider.name) else BreakerView()

    def load(self, provider: LLMProviderProtocol) -> ProviderLoad:
        """How much goes on at the provider; nobody counts the mock's calls."""
        return self._gatekeeper.load(provider.name) if is_guarded(provider.name) else ProviderLoad()

    def wake_next(self) -> None:
        """CallersProtocol: of each provider that is configured here."""
        for provider in self._providers.values():
            if is_guarded(provider.name) and provider.is_configured():
                self._gatekeeper.invite_next(provider.name)

    def release(self, provider: LLMProviderType) -> bool:
        """Close the provider's circuit and end what its vendor asked for; False when Redis does not answer."""
        return self._gatekeeper.release(provider)

    def leave(self, request: QueuedRequest) -> None:
        """The request is over while it waits, or may wait, for its next call: whoever stands behind it moves up."""
        if is_guarded(request.provider):
            self._gatekeeper.leave(target_of(request), request.queue_id)

    def check_prompt(self, request: QueuedRequest, texts: ComparisonTexts) -> None:
        """Raise RequestRejected when the model would not be sent such a prompt."""
        self._prompts.check(texts, asked_target(request))

    def compare(
        self,
        request: QueuedRequest,
        texts: ComparisonTexts,
        seconds_left: float = math.inf,
        *,
        progress: CallProgress | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Get a verdict within the time left, calling again where that helps.

        With `progress` the request can come back: raises CallLater when its next call has to wait for longer than a
        thread should. Raises a ComparisonError when there is no verdict; NotAdmitted when nothing was sent.
        Once its caller `is_gone` no further call is made: it ends with what the last one brought.
        """
        provider = self._providers.get(request.provider)
        if provider is None or not provider.is_configured():
            raise ProviderMissing(f"The worker has no provider {request.provider}.")
        return CallAttempts(
            provider,
            self._gatekeeper,
            self._prompts,
            self._policy,
            request,
            texts,
            seconds_left=seconds_left,
            progress=progress,
            sleep=self._sleep,
            is_gone=is_gone,
        ).run()

    def try_out(self, provider: LLMProviderProtocol, texts: ComparisonTexts) -> tuple[ProviderAnswer, int]:
        """One call outside any request and past every guard: the answer and its milliseconds."""
        started = time.monotonic()
        prompt = self._prompts.write(texts, ComparisonTarget(provider=provider.name, model=provider.default_model))
        call = ProviderCall(texts=texts, prompt=prompt, model=provider.default_model, is_trial=True)
        answer = provider.compare(call, timeout_seconds=self._policy.timeout_seconds)
        return answer, milliseconds_since(started)
