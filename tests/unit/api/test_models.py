"""GET /models: what may be asked for, with limits and prices."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from contracts.enums import LLMProviderType
from llm_provider.api import correlation, problems
from llm_provider.api.models import ModelViews
from llm_provider.errors import ServiceError
from llm_provider.internal_models import ProviderAnswer, ProviderCall
from llm_provider.model_manifest import ModelManifest, ModelPrice, ModelRow, StructuredOutput

ANTHROPIC, MOCK, OPENAI = LLMProviderType.ANTHROPIC, LLMProviderType.MOCK, LLMProviderType.OPENAI

MANIFEST = ModelManifest(
    as_of=date(2026, 11, 23),
    models=(
        ModelRow(
            provider=ANTHROPIC,
            model="judge-4",
            context_tokens=200_000,
            max_output_tokens=64_000,
            structured_output=StructuredOutput.FORCED_TOOL,
            accepts_sampling=False,
        ),
        ModelRow(
            provider=OPENAI,
            model="thinker-1",
            context_tokens=922_000,
            max_output_tokens=128_000,
            structured_output=StructuredOutput.JSON_SCHEMA,
            accepts_sampling=True,
            sampling_effort="none",
            reasoning_efforts=("none", "low"),
            default_effort="low",
        ),
    ),
)
PRICES = {"thinker-1": ModelPrice(2.0, 10.0, has_tiers=True), "mock-1": ModelPrice(0.0, 0.0, has_tiers=False)}


@dataclass
class IdleProvider:
    """LLMProviderProtocol that is listed and never called."""

    name: LLMProviderType
    default_model: str
    configured: bool = True

    def is_configured(self) -> bool:
        return self.configured

    def is_available(self) -> bool:
        raise AssertionError("Nobody asked.")

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        raise AssertionError("Listing models calls nobody.")

    def close(self) -> None:
        pass


class Providers:
    """Those of an installation with a key for anthropic and none for openai."""

    def all(self) -> list[IdleProvider]:
        return [
            IdleProvider(ANTHROPIC, "judge-4-20251001"),
            IdleProvider(OPENAI, "thinker-9", configured=False),
            IdleProvider(MOCK, "mock-1"),
        ]


@pytest.fixture
def client() -> FlaskClient:
    """The one view, with the service's way of answering errors."""
    app = Flask("models")
    views = ModelViews(MANIFEST, Providers(), lambda _, model: PRICES.get(model))
    app.register_blueprint(views.blueprint())
    app.register_error_handler(ServiceError, problems.on_service_error)
    app.before_request(correlation.begin)
    app.teardown_request(correlation.forget)
    return app.test_client()


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/api/v1/models{query}")
    assert response.status_code == 200
    models: list[dict[str, Any]] = json.loads(response.data)["models"]
    return models


def test_a_model_is_described_wholly(client: FlaskClient) -> None:
    """Limits, what it takes, what it costs, and of which day all that is."""
    (found,) = (model for model in listed(client) if model["model"] == "thinker-1")

    assert found == {
        "provider": "openai",
        "model": "thinker-1",
        "configured": False,
        "is_default": False,
        "context_tokens": 922_000,
        "max_output_tokens": 128_000,
        "structured_output": "json_schema",
        "accepts_sampling": True,
        "sampling_effort": "none",
        "reasoning_efforts": ["none", "low"],
        "default_effort": "low",
        "input_usd_per_million": 2.0,
        "output_usd_per_million": 10.0,
        "price_has_tiers": True,
        "as_of": "2026-11-23",
    }


def test_a_model_whose_price_is_unknown_has_none(client: FlaskClient) -> None:
    """Null, which is not 0."""
    (found,) = (model for model in listed(client) if model["model"] == "judge-4")

    prices = found["input_usd_per_million"], found["output_usd_per_million"], found["price_has_tiers"]
    assert prices == (None, None, None)
    assert (found["accepts_sampling"], found["reasoning_efforts"]) == (False, [])


def test_a_default_that_is_a_snapshot_is_its_models(client: FlaskClient) -> None:
    """The model's row is marked, and the snapshot is not listed beside it."""
    assert [(model["model"], model["is_default"]) for model in listed(client, "?provider=anthropic")] == [
        ("judge-4", True)
    ]


def test_a_default_that_the_manifest_lacks_is_listed_all_the_same(client: FlaskClient) -> None:
    """It may be asked for; what nobody knows is null, and a price of nothing stays one."""
    unknown, known = listed(client, "?provider=openai")
    (mock,) = listed(client, "?provider=mock")

    assert (unknown["model"], unknown["is_default"], known["is_default"]) == ("thinker-9", True, False)
    assert {unknown[name] for name in ("context_tokens", "accepts_sampling", "default_effort", "as_of")} == {None}
    assert unknown["reasoning_efforts"] is None
    assert (mock["model"], mock["input_usd_per_million"], mock["price_has_tiers"]) == ("mock-1", 0.0, False)


def test_all_models_are_listed_when_no_provider_is_named(client: FlaskClient) -> None:
    """Configured or not: that is said of each."""
    assert [(model["provider"], model["configured"]) for model in listed(client)] == [
        ("anthropic", True),
        ("openai", False),
        ("openai", False),
        ("mock", True),
    ]


@pytest.mark.parametrize("name", ["acme", "", "OpenAI", "openai%0a"])
def test_an_unknown_provider_is_a_bad_request(client: FlaskClient, name: str) -> None:
    """It says which there are; what was sent is not repeated."""
    response = client.get(f"/api/v1/models?provider={name}")

    assert (response.status_code, response.mimetype) == (400, "application/problem+json")
    problem = json.loads(response.data)
    assert (problem["error_code"], problem["errors"][0]["field"]) == ("VALIDATION_ERROR", "provider")
    assert "anthropic, openai, google, openrouter, mock" in problem["detail"]
    assert "acme" not in response.text


def test_a_known_provider_that_is_not_part_of_this_service_has_no_models(client: FlaskClient) -> None:
    """The name is right, and there is nothing behind it here."""
    assert listed(client, "?provider=google") == []
