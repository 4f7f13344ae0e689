"""What every LLMProviderProtocol does, whoever is behind it.

Against local servers; with `-m live` against the vendors themselves, as far as LLM_PROVIDER_<VENDOR>_API_KEY is set.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, ClassVar, Protocol, Self

import pytest

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.adapters.providers.anthropic_provider import AnthropicProvider
from llm_provider.adapters.providers.google_provider import GoogleProvider
from llm_provider.adapters.providers.mock import MockProvider
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.adapters.providers.openrouter_provider import OpenRouterProvider
from llm_provider.config import PREFIX, VENDORS, Settings
from llm_provider.errors import ProviderError, ProviderTimeout, QuotaExceeded, RateLimited
from llm_provider.internal_models import ComparisonTexts, ProviderCall
from llm_provider.protocols import LLMProviderProtocol, RealProvider
from tests.conftest import GIVEN
from tests.integration.anthropic_server import AnthropicServer
from tests.integration.google_server import GoogleServer
from tests.integration.openai_server import OpenAIServer
from tests.integration.openrouter_server import OpenRouterServer
from tests.unit.builders import a_prompt

SECRET = "zebra-secret-zebra"
ESSAY = f"{SECRET} Uniforms help, because nobody has to choose; however, they hide who we are."


class Vendor(ABC):
    """A provider with something behind it that can be told how to behave."""

    name: LLMProviderType
    # Seconds in which a call that nobody disturbs gets its answer.
    patience = 5.0

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


class Server(Protocol):
    @property
    def base_url(self) -> str: ...

    def behave(self, **fields: Any) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class RealVendor(Vendor):
    """A provider with an SDK; a subclass names its classes, and how its server says what each says differently."""

    build: type[RealProvider]
    server: type[Server]
    no_money: ClassVar[dict[str, Any]]
    refusal: ClassVar[dict[str, Any]]

    def provider(self, *, latency_ms: int = 0, failing_with: ErrorCode | None = None) -> LLMProviderProtocol:
        server = self._stack.enter_context(self.server())
        server.behave(latency_ms=latency_ms, **(self._behaviours()[failing_with] if failing_with else {}))
        return self._closed_in_the_end(self.build(settings(self.name, api_key="sk-key", base_url=server.base_url)))

    def unconfigured(self) -> LLMProviderProtocol:
        return self.build(settings(self.name))

    def _behaviours(self) -> dict[ErrorCode, dict[str, Any]]:
        return {
            ErrorCode.RATE_LIMIT: {"status": 429},
            ErrorCode.QUOTA_EXCEEDED: self.no_money,
            ErrorCode.TIMEOUT: {"mode": "hang"},
            ErrorCode.CONNECTION_ERROR: {"mode": "cut"},
            ErrorCode.SERVICE_UNAVAILABLE: {"status": 503},
            ErrorCode.EXTERNAL_SERVICE_ERROR: {"status": 500},
            ErrorCode.AUTHENTICATION_ERROR: {"status": 401},
            ErrorCode.INVALID_REQUEST: {"status": 400},
            ErrorCode.INVALID_RESPONSE: self.refusal,
        }


class AnthropicVendor(RealVendor):
    name = LLMProviderType.ANTHROPIC
    build = AnthropicProvider
    server = AnthropicServer
    no_money: ClassVar[dict[str, Any]] = {"status": 429, "code": "enforced_spend_limit_reached"}
    refusal: ClassVar[dict[str, Any]] = {"message": {"stop_reason": "refusal", "content": []}}


class OpenAIVendor(RealVendor):
    name = LLMProviderType.OPENAI
    build = OpenAIProvider
    server = OpenAIServer
    no_money: ClassVar[dict[str, Any]] = {"status": 429, "code": "credit_balance_exhausted"}
    refusal: ClassVar[dict[str, Any]] = {"mode": "refusal"}


class GoogleVendor(RealVendor):
    name = LLMProviderType.GOOGLE
    build = GoogleProvider
    server = GoogleServer
    no_money: ClassVar[dict[str, Any]] = {"status": 402}
    refusal: ClassVar[dict[str, Any]] = {"mode": "SAFETY"}


class OpenRouterVendor(RealVendor):
    name = LLMProviderType.OPENROUTER
    build = OpenRouterProvider
    server = OpenRouterServer
    no_money: ClassVar[dict[str, Any]] = {"status": 402, "code": "openrouter_credits"}
    refusal: ClassVar[dict[str, Any]] = {"mode": "refusal"}


REAL_VENDORS: tuple[type[RealVendor], ...] = (AnthropicVendor, OpenAIVendor, GoogleVendor, OpenRouterVendor)
ALL_VENDORS: tuple[type[Vendor], ...] = (MockVendor, *REAL_VENDORS)


class LiveVendor(Vendor):
    """The vendor itself, with the key, the URL and the model of whoever runs the tests."""

    patience = 60.0

    def __init__(self, stack: ExitStack, kind: type[RealVendor]) -> None:
        super().__init__(stack)
        self.name = kind.name
        self._build = kind.build
        self._given = given_to(kind)

    def provider(self, *, latency_ms: int = 0, failing_with: ErrorCode | None = None) -> LLMProviderProtocol:
        provoking = {
            None: {},
            ErrorCode.AUTHENTICATION_ERROR: {"api_key": "sk-key-that-opens-nothing"},
            ErrorCode.INVALID_REQUEST: {"default_model": "no-such/model"},
        }
        if latency_ms or failing_with not in provoking:
            pytest.skip("Not run: a vendor cannot be told to be slow or to fail like that.")
        fields = self._given | provoking[failing_with]
        return self._closed_in_the_end(self._build(settings(self.name, **fields)))

    def unconfigured(self) -> LLMProviderProtocol:
        return self._build(settings(self.name))


def given_to(kind: type[RealVendor]) -> dict[str, str]:
    """The vendor's settings in the environment of whoever runs the tests."""
    prefix = f"{GIVEN}{PREFIX}{kind.name.upper()}_"
    return {name.removeprefix(prefix).lower(): value for name, value in os.environ.items() if name.startswith(prefix)}


def live(kind: type[RealVendor]) -> object:
    """Reported as not run without a key."""
    no_key = pytest.mark.skip(f"Not run: {PREFIX}{kind.name.upper()}_API_KEY is not set.")
    marks = [pytest.mark.live, *([] if given_to(kind).get("api_key") else [no_key])]
    return pytest.param(kind, id=f"live-{kind.name}", marks=marks)


def settings(name: LLMProviderType, **vendor: str) -> Settings:
    return Settings.model_validate({"vendors": {name: vendor}})


@pytest.fixture(
    params=[
        *(pytest.param(kind, id=kind.name) for kind in ALL_VENDORS),
        *(live(kind) for kind in REAL_VENDORS),
    ]
)
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    is_live = request.node.get_closest_marker("live") is not None
    with ExitStack() as stack:
        yield LiveVendor(stack, request.param) if is_live else request.param(stack)


def call(provider: LLMProviderProtocol, number: int = 0) -> ProviderCall:
    texts = ComparisonTexts(user_prompt=f"id={number} Which is better?", essay_a=ESSAY, essay_b=f"{ESSAY} So there.")
    return ProviderCall(texts=texts, prompt=a_prompt(texts), model=provider.default_model)


def test_every_vendor_is_in_this_suite() -> None:
    """One that is added needs its place above."""
    assert [kind.name for kind in REAL_VENDORS] == list(VENDORS)


def test_a_provider_knows_its_name_and_a_model(vendor: Vendor) -> None:
    """The name is the one on the wire, and a request that names no model can be served."""
    provider = vendor.provider()
    assert provider.name is vendor.name
    assert provider.default_model


def test_a_configured_provider_answers(vendor: Vendor) -> None:
    """With a verdict, tokens that add up, and a cost that is not negative."""
    provider = vendor.provider()
    assert provider.is_configured()
    answer = provider.compare(call(provider), timeout_seconds=vendor.patience)
    used = answer.token_usage
    assert answer.verdict.justification
    assert 1 <= answer.verdict.confidence_on_the_wire <= 5
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens > 0
    assert answer.cost_usd >= 0


def test_an_unconfigured_provider_says_so(vendor: Vendor) -> None:
    """It has no key, or is switched off."""
    assert not vendor.unconfigured().is_configured()


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
        provider.compare(call(provider), timeout_seconds=0.5 if code is ErrorCode.TIMEOUT else vendor.patience)
    assert raised.value.error_code is code
    assert raised.value.message
    assert SECRET not in repr(raised.value) + repr(vars(raised.value))


def test_waiting_helps_against_a_limit_but_not_against_an_empty_account(vendor: Vendor) -> None:
    """The class says whether to try again."""
    for code, meaning in ((ErrorCode.RATE_LIMIT, RateLimited), (ErrorCode.QUOTA_EXCEEDED, QuotaExceeded)):
        provider = vendor.provider(failing_with=code)
        with pytest.raises(ProviderError) as raised:
            provider.compare(call(provider), timeout_seconds=vendor.patience)
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
    used.compare(call(used), timeout_seconds=vendor.patience)
    used.close()
    used.close()
