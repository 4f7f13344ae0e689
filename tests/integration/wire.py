"""A provider on the wire: the real SDK, over HTTP, against its vendor's local server."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from llm_provider.adapters.providers.anthropic_provider import AnthropicProvider
from llm_provider.adapters.providers.google_provider import GoogleProvider
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.adapters.providers.openrouter_provider import OpenRouterProvider
from llm_provider.adapters.providers.sdk_provider import SDKProvider
from llm_provider.config import Settings
from llm_provider.errors import ProviderError
from llm_provider.internal_models import ComparisonTexts, ProviderAnswer, ProviderCall
from llm_provider.model_manifest import ModelManifest
from tests.integration.anthropic_server import AnthropicServer
from tests.integration.google_server import GoogleServer
from tests.integration.openai_server import OpenAIServer
from tests.integration.openrouter_server import OpenRouterServer
from tests.integration.vendor_server import VendorServer
from tests.unit.builders import a_prompt

KEY = "sk-key-that-opens-nothing"
SECRET = "zebra-secret-zebra"
TEXTS = ComparisonTexts(user_prompt=f"{SECRET} {{essay_a}} or {{essay_b}}", essay_a="Cats.", essay_b="Dogs.")
DEADLINE = 0.4
TOLERANCE = 0.4


@dataclass(frozen=True)
class Wire:
    """A vendor's provider and its server, and what their tests have to know of both."""

    build: type[SDKProvider[Any]]
    server: type[VendorServer[Any]]
    key_header: tuple[str, str] = ("authorization", "Bearer {}")
    # Where the vendor's SDK looks for a key that nobody gave it.
    key_variables: tuple[str, ...] = ()
    threads: int = 200
    # How many tolerances its SDK may take beyond a deadline that many threads have at once.
    slack: int = 2
    manifest: ModelManifest | None = None

    @contextmanager
    def asking(
        self, base_url: str, key: str = KEY, manifest: ModelManifest | None = None, **settings: Any
    ) -> Iterator[Any]:
        """The provider, pointed at a server."""
        vendor = {"api_key": key, "base_url": base_url, **settings}
        vendors = Settings.model_validate({"vendors": {self.build.name: vendor}})
        provider = self.build(vendors, manifest or self.manifest)
        try:
            yield provider
        finally:
            provider.close()

    def fixtures(self) -> tuple[Any, Any, Any]:
        """`running`, `server` and `provider` of a module: one server for all its tests, at rest before each."""

        @pytest.fixture(scope="module")
        def running() -> Iterator[VendorServer[Any]]:
            with self.server() as server:
                yield server

        @pytest.fixture
        def server(running: VendorServer[Any]) -> VendorServer[Any]:
            return running.at_rest()

        @pytest.fixture
        def provider(server: VendorServer[Any]) -> Iterator[Any]:
            with self.asking(server.base_url) as provider:
                yield provider

        return running, server, provider


ANTHROPIC = Wire(AnthropicProvider, AnthropicServer, key_variables=("ANTHROPIC_API_KEY",), threads=50)
GOOGLE = Wire(GoogleProvider, GoogleServer, ("x-goog-api-key", "{}"), ("GOOGLE_API_KEY", "GEMINI_API_KEY"), slack=3)
OPENAI = Wire(OpenAIProvider, OpenAIServer, key_variables=("OPENAI_API_KEY",))
OPENROUTER = Wire(OpenRouterProvider, OpenRouterServer, key_variables=("OPENAI_API_KEY", "OPENROUTER_API_KEY"))
WIRES = (ANTHROPIC, GOOGLE, OPENAI, OPENROUTER)


def a_call(model: str, texts: ComparisonTexts = TEXTS, **fields: Any) -> ProviderCall:
    return ProviderCall(**{"texts": texts, "prompt": a_prompt(texts), "model": model, **fields})


def ask(provider: SDKProvider[Any], seconds: float = 5.0, call: ProviderCall | None = None) -> ProviderAnswer:
    return provider.compare(call or a_call(provider.default_model), timeout_seconds=seconds)


def failure_of(provider: SDKProvider[Any], seconds: float = 5.0, call: ProviderCall | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        ask(provider, seconds, call)
    return raised.value


def seconds_until_failure(
    provider: SDKProvider[Any],
    *expected: type[ProviderError],
    seconds: float = DEADLINE,
    call: ProviderCall | None = None,
) -> float:
    begin = time.monotonic()
    assert type(failure_of(provider, seconds, call)) in expected
    return time.monotonic() - begin
