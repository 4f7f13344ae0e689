"""GET /healthz and /metrics."""

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from llm_provider import metrics
from llm_provider.errors import LedgerUnavailable
from llm_provider.ledger import LedgerProtocol
from llm_provider.metrics import ProviderState
from llm_provider.provider_caller import ProviderCaller


class HealthViews:
    """What a supervisor and Prometheus ask."""

    def __init__(self, ledger: LedgerProtocol, caller: ProviderCaller) -> None:
        self._ledger = ledger
        self._caller = caller

    def blueprint(self) -> Blueprint:
        routes = Blueprint("health", __name__)
        routes.add_url_rule("/healthz", view_func=self.healthz)
        routes.add_url_rule("/metrics", view_func=self.metrics)
        return routes

    def healthz(self) -> Response:
        """503 while a request that must be queued would not be accepted; a restart of this process would not help."""
        try:
            self._ledger.check_accepts()
        except LedgerUnavailable as error:
            response = jsonify(status="degraded", ledger=error.reason)
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
            return response
        return jsonify(status="ok", ledger="ok")

    def metrics(self) -> Response:
        return Response(metrics.render(self._ledger, self._states), mimetype="text/plain; version=0.0.4")

    def _states(self) -> list[ProviderState]:
        caller = self._caller
        return [(p.name, caller.breaker(p), caller.load(p)) for p in caller.all() if p.is_configured()]
