"""The Flask application: the routes, the error documents, one log line and one count a request."""

import time
from dataclasses import dataclass
from http import HTTPMethod

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from llm_provider.api import correlation, problems
from llm_provider.api.bodies import content_limit
from llm_provider.api.comparisons import ComparisonViews
from llm_provider.api.health import HealthViews
from llm_provider.api.models import ModelViews, PricePerMillion
from llm_provider.api.providers import ProviderViews
from llm_provider.api.strangers import StrangerGuard
from llm_provider.config import Settings
from llm_provider.errors import ServiceError
from llm_provider.ledger import LedgerProtocol
from llm_provider.logs import unharmed
from llm_provider.metrics import HTTP_REQUESTS, HTTP_SECONDS
from llm_provider.model_manifest import ModelManifest
from llm_provider.orchestrator import LLMOrchestratorImpl
from llm_provider.protocols import ResultStoreProtocol
from llm_provider.provider_caller import ProviderCaller
from llm_provider.sync_threads import SyncThreads

log = structlog.get_logger(__name__)

# A supervisor and Prometheus ask every few seconds, by whatever name; their answers tell nothing in a log.
QUIET_ENDPOINTS = {"health.healthz", "health.metrics"}


@dataclass(frozen=True)
class WebParts:
    """What one web process runs."""

    settings: Settings
    orchestrator: LLMOrchestratorImpl
    caller: ProviderCaller
    trial_threads: SyncThreads
    ledger: LedgerProtocol
    results: ResultStoreProtocol
    manifest: ModelManifest
    price_per_million: PricePerMillion


def create_app(parts: WebParts) -> Flask:
    """Plain Flask: a body is validated by its model, and every error becomes a problem document."""
    app = Flask("llm_provider", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = content_limit(parts.settings.max_body_bytes)
    app.register_blueprint(ComparisonViews(parts.orchestrator, parts.ledger, parts.results).blueprint())
    app.register_blueprint(ProviderViews(parts.caller, parts.trial_threads).blueprint())
    app.register_blueprint(ModelViews(parts.manifest, parts.caller, parts.price_per_million).blueprint())
    app.register_blueprint(HealthViews(parts.ledger, parts.caller).blueprint())
    app.register_error_handler(ServiceError, problems.on_service_error)
    app.register_error_handler(HTTPException, problems.on_http_exception)
    app.register_error_handler(Exception, problems.on_unexpected)
    app.before_request(_note_start)
    app.before_request(StrangerGuard(parts.settings.host_names, QUIET_ENDPOINTS).check)
    app.after_request(_note_end)
    app.teardown_request(correlation.forget)
    if parts.settings.forwarded_prefix:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=0, x_proto=0, x_prefix=1)  # type: ignore[method-assign]
    return app


def _note_start() -> None:
    correlation.begin()
    g.started = time.monotonic()


def _note_end(response: Response) -> Response:
    """What only watches costs nobody an answer, which may have been paid for."""
    with unharmed("request_not_counted"):
        _count(response)
    with unharmed("request_not_logged"):
        _log(response)
    return response


def _count(response: Response) -> None:
    endpoint = request.endpoint or "unknown"
    # Only known methods: a caller must not be able to make new series by inventing some.
    method = request.method if request.method in HTTPMethod.__members__ else "other"
    HTTP_REQUESTS.labels(method, endpoint, response.status_code).inc()
    HTTP_SECONDS.labels(endpoint).observe(time.monotonic() - g.started)


def _log(response: Response) -> None:
    if request.endpoint not in QUIET_ENDPOINTS:
        log.info(
            "request_answered",
            endpoint=request.endpoint or "unknown",
            status=response.status_code,
            milliseconds=round((time.monotonic() - g.started) * 1000),
        )
