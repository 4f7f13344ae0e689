"""GET /providers, and a test call to one of them."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.api.bodies import check_declaration
from llm_provider.api.problems import problem
from llm_provider.errors import ComparisonError, ProviderNotConfigured, ThreadsBusy
from llm_provider.internal_models import ComparisonTexts
from llm_provider.protocols import LLMProviderProtocol
from llm_provider.provider_caller import ProviderCaller
from llm_provider.sync_threads import SyncThreads

# The shortest comparison that still asks for a whole verdict.
_TEST_TEXTS = ComparisonTexts(user_prompt="Which essay is better?", essay_a="Yes, because it rains.", essay_b="No.")


class ProviderViews:
    """What an operator asks about the vendors."""

    def __init__(self, caller: ProviderCaller, threads: SyncThreads) -> None:
        self._caller = caller
        self._threads = threads

    def blueprint(self) -> Blueprint:
        routes = Blueprint("providers", __name__, url_prefix="/api/v1/providers")
        routes.add_url_rule("", view_func=self.list)
        routes.add_url_rule("/<name>/test", view_func=self.test, methods=["POST"])
        return routes

    def list(self) -> Response:
        return jsonify(providers=[self._described(provider) for provider in self._caller.all()])

    def test(self, name: str) -> Response:
        """One real, cheap call; it may cost a fraction of a cent."""
        if request.content_type:
            # It needs no body, but a form of a stranger's page has one, and old browsers do not say whose it is.
            check_declaration()
        if name not in set(LLMProviderType):
            return problem(HTTPStatus.NOT_FOUND, f"No provider is called {name}.", ErrorCode.RESOURCE_NOT_FOUND)
        try:
            provider = self._caller.configured(LLMProviderType(name))
        except ProviderNotConfigured as error:
            # Here it is a part of the path, and no field of a body.
            raise ProviderNotConfigured(error.message) from error
        with self._threads.one() as is_free:
            if not is_free:
                raise ThreadsBusy("All threads that may wait for a provider are busy; try again in a moment.")
            return self._tried_out(provider)

    def _tried_out(self, provider: LLMProviderProtocol) -> Response:
        try:
            answer, milliseconds = self._caller.try_out(provider, _TEST_TEXTS)
        except ComparisonError as error:
            return jsonify(
                provider=provider.name,
                ok=False,
                model=provider.default_model,
                error_code=error.error_code,
                message=error.message,
                details=error.details,
                retry_after_seconds=error.retry_after_seconds,
                cost_estimate=error.cost_usd,
            )
        return jsonify(
            provider=provider.name,
            ok=True,
            model=provider.default_model,
            response_time_ms=milliseconds,
            cost_estimate=answer.cost_usd,
            message=f"{provider.default_model} answered in {milliseconds} ms.",
        )

    def _described(self, provider: LLMProviderProtocol) -> dict[str, Any]:
        breaker, load = self._caller.breaker(provider), self._caller.load(provider)
        return {
            "name": provider.name,
            "configured": provider.is_configured(),
            "available": provider.is_configured() and breaker.lets_all_through,
            "default_model": provider.default_model,
            "circuit_breaker": breaker.state,
            "retry_in_seconds": breaker.retry_in_seconds and round(breaker.retry_in_seconds, 1),
            "running_calls": load.running,
            "waiting_requests": load.waiting,
            "held_models": [
                {"model": model, "retry_in_seconds": round(seconds, 1)} for model, seconds in load.held_models.items()
            ],
            "slowed_models": [
                {"model": model, "seconds_between_calls": round(seconds, 2)}
                for model, seconds in load.slowed_models.items()
            ],
        }
