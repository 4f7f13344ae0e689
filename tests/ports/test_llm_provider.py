"""What every LLMProviderProtocol does, whoever is behind it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.adapters.providers.mock import MockProvider
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.config import Settings
from llm_provider.errors import ProviderError, ProviderTimeout, QuotaExceeded, RateLimited
from llm_provider.internal_models import ComparisonTexts, ProviderCall
from llm_provider.protocols import LLMProviderProtocol
from tests.integration.openai_server import OpenAIServer

SECRET = "zebra-secret-zebra"
ESSAY = f"{SECRET} Uniforms help, because nobody has to choose; however, they hide who we are."


class Vendor(ABC):
    """A provider with something behind it that can be told how to behave."""

    name: LLMProviderType

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @abstractmethod
    def provider(self, *, latency_ms: int = 0, failing_with: ErrorCode | None = None) -> LLMProviderProtocol: ...

    @abstractmethod
    def unconfigured(self) -> LLMProviderProtocol: ...

    def _closed_in_the_end(self, provider: LLMProviderProtocol) -> LLMProviderProtocol:
        self._stack.callback(provider.close)
        return provider


class MockVendor(Vendor):
    name = LLMProviderType.MOCK

    def provider(self, *, latency_ms: int = 0, failing_with: ErrorCode | None = None) -> LLMProviderProtocol:
        failing: dict[str, Any] = {"mock_error_rate": 1, "mock_error_codes": (failing_with,)} if failing_with else {}
        return self._closed_in_the_end(MockProvider(Settings(mock_latency_ms=latency_ms, **failing)))

    def unconfigured(self) -> LLMProviderProtocol:
        return MockProvider(Settings(mock_enabled=False))


class OpenAIVendor(Vendor):
    name = LLMProviderType.OPENAI
    _BEHAVIOURS: ClassVar[dict[ErrorCode, dict[str, Any]]] = {
        ErrorCode.RATE_LIMIT: {"status": 429},
        ErrorCode.QUOTA_EXCEEDED: {"status": 429, "code": "credit_balance_exhausted"},
        ErrorCode.TIMEOUT: {"status": 408},
        ErrorCode.CONNECTION_ERROR: {"mode": "cut"},
        ErrorCode.SERVICE_UNAVAILABLE: {"status": 503},
        ErrorCode.EXTERNAL_SERVICE_ERROR: {"status": 500},
        ErrorCode.AUTHENTICATION_ERROR: {"status": 401},
        ErrorCode.INVALID_REQUEST: {"status": 400},
        ErrorCode.INVALID_RESPONSE: {"mode": "refusal"},
    }

    def provider(self, *, latency_ms: int = 0, failing_with: ErrorCode | None = None) -> LLMProviderProtocol:
        server = self._stack.enter_context(OpenAIServer())
        server.behave(latency_ms=latency_ms, **(self._BEHAVIOURS[failing_with] if failing_with else {}))
        settings = {"openai_api_key": "sk-key", "openai_base_url": server.base_url}
        return self._closed_in_the_end(OpenAIProvider(Settings.model_validate(settings)))

    def unconfigured(self) -> LLMProviderProtocol:
        return OpenAIProvider(Settings(openai_api_key=None))


@pytest.fixture(params=[MockVendor, OpenAIVendor], ids=lambda kind: str(kind.name))
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    with ExitStack() as stack:
        made: Vendor = request.param(stack)
        yield made


def call(provider: LLMProviderProtocol, number: int = 0) -> ProviderCall:
    texts = ComparisonTexts(user_prompt=f"id={number} Which is better?", essay_a=ESSAY, essay_b=f"{ESSAY} So there.")
    return ProviderCall(texts=texts, model=provider.default_model)


def test_a_provider_knows_its_name_and_a_model(vendor: Vendor) -> None:
    """The name is the one on the wire, and a request that names no model can be served."""
    provider = vendor.provider()
    assert provider.name is vendor.name
    assert provider.default_model


def test_a_configured_provider_answers(vendor: Vendor) -> None:
    """With a verdict, tokens that add up, and a cost that is not negative."""
    provider = vendor.provider()
    assert provider.is_configured()
    assert provider.is_available()
    answer = provider.compare(call(provider), timeout_seconds=5)
    used = answer.token_usage
    assert answer.verdict.justification
    assert 1 <= answer.verdict.confidence_on_the_wire <= 5
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens > 0
    assert answer.cost_usd >= 0


def test_an_unconfigured_provider_says_so(vendor: Vendor) -> None:
    """It is not configured, and so not available either."""
    provider = vendor.unconfigured()
    assert not provider.is_configured()
    assert not provider.is_available()


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.RATE_LIMIT,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.TIMEOUT,
        ErrorCode.CONNECTION_ERROR,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.EXTERNAL_SERVICE_ERROR,
        ErrorCode.AUTHENTICATION_ERROR,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_RESPONSE,
    ],
)
def test_a_failure_is_a_provider_error_that_tells_nothing_confidential(vendor: Vendor, code: ErrorCode) -> None:
    """Each kind has its error code; message and details hold no essay."""
    provider = vendor.provider(failing_with=code)
    with pytest.raises(ProviderError) as raised:
        provider.compare(call(provider), timeout_seconds=5)
    assert raised.value.error_code is code
    assert raised.value.message
    assert SECRET not in repr(raised.value) + repr(vars(raised.value))


def test_waiting_helps_against_a_limit_but_not_against_an_empty_account(vendor: Vendor) -> None:
    """The class says whether to try again."""
    for code, meaning in ((ErrorCode.RATE_LIMIT, RateLimited), (ErrorCode.QUOTA_EXCEEDED, QuotaExceeded)):
        provider = vendor.provider(failing_with=code)
        with pytest.raises(ProviderError) as raised:
            provider.compare(call(provider), timeout_seconds=5)
        assert type(raised.value) is meaning
        assert raised.value.is_retryable is (meaning is RateLimited)


def test_a_slow_vendor_is_given_up_in_time(vendor: Vendor) -> None:
    """At the timeout, not when it answers at last."""
    provider = vendor.provider(latency_ms=5000)
    begin = time.monotonic()
    with pytest.raises(ProviderTimeout):
        provider.compare(call(provider), timeout_seconds=0.3)
    assert 0.3 <= time.monotonic() - begin < 0.8


def test_a_provider_serves_many_threads_at_once(vendor: Vendor) -> None:
    """Twenty calls of a fifth of a second do not wait for one another."""
    provider = vendor.provider(latency_ms=200)
    provider.compare(call(provider), timeout_seconds=5)
    begin = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: provider.compare(call(provider, n), timeout_seconds=5), range(20)))
    assert len(answers) == 20
    assert time.monotonic() - begin < 2.0


def test_closing_before_and_after_use_is_harmless(vendor: Vendor) -> None:
    """Whether or not anything was opened."""
    vendor.provider().close()
    used = vendor.provider()
    used.compare(call(used), timeout_seconds=5)
    used.close()
    used.close()
