"""Every Prometheus metric, declared once: what the web processes count, and what the ledger says when it is scraped."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llm_provider.admission import BreakerState, BreakerView, ProviderLoad
from llm_provider.errors import LedgerUnavailable
from llm_provider.ledger import LedgerProtocol

_SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

HTTP_REQUESTS = Counter("llm_provider_http_requests", "Requests answered.", ["method", "endpoint", "status"])
HTTP_SECONDS = Histogram("llm_provider_http_request_seconds", "Seconds from request to answer.", ["endpoint"])

TOTALS = {
    "accepted": "Requests accepted into the ledger.",
    "completed": "Requests decided with a verdict.",
    "failed": "Requests decided with an error.",
    "expired": "Requests decided because their deadline passed.",
    "taken_over": "Times that a lease lapsed while its request ran: a call that was open then may be paid twice.",
    "published": "Events acknowledged by Kafka, one a request.",
    "stored": "Results stored for polling.",
    "dropped": "Events that an operator gave up.",
    "retracted": "Requests taken back, since their acceptance could not be answered in time.",
}


def share_among_processes() -> None:
    """Let several web processes count together; called once, before they are forked and before anything is counted."""
    if _SHARED_DIRECTORY in os.environ:
        return
    directory = tempfile.mkdtemp(prefix="llm-provider-metrics-")
    atexit.register(_remove_in_its_maker, directory, os.getpid())
    # prometheus_client takes the directory from the environment only, and looked there when it was imported.
    os.environ[_SHARED_DIRECTORY] = directory
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def _remove_in_its_maker(directory: str, maker: int) -> None:
    # A process that was forked runs its parent's exit functions too.
    if os.getpid() == maker:
        shutil.rmtree(directory, ignore_errors=True)


# A provider that is configured here, with how its circuit stands and how much goes on there.
ProviderState = tuple[str, BreakerView, ProviderLoad]


class ProviderCollector(Collector):
    """The providers as admission control sees them for all processes; nothing while it cannot be asked."""

    def __init__(self, providers: Sequence[ProviderState]) -> None:
        self._providers = [state for state in providers if state[1].state is not BreakerState.UNKNOWN]

    def collect(self) -> Iterable[Metric]:
        of_provider = ["provider"]
        closed = GaugeMetricFamily("llm_provider_circuit_closed", "Whether calls are made.", labels=of_provider)
        running = GaugeMetricFamily("llm_provider_calls_running", "Limited calls that run.", labels=of_provider)
        waiting = GaugeMetricFamily("llm_provider_calls_waiting", "Requests to be called.", labels=of_provider)
        held = GaugeMetricFamily("llm_provider_models_held", "Models their vendor holds back.", labels=of_provider)
        for name, breaker, load in self._providers:
            closed.add_metric([name], float(breaker.lets_all_through))
            running.add_metric([name], load.running)
            waiting.add_metric([name], load.waiting)
            held.add_metric([name], len(load.held_models))
        return (closed, running, waiting, held)


class LedgerCollector(Collector):
    """The ledger's figures, asked when they are scraped: exact, whichever process did the work."""

    def __init__(self, ledger: LedgerProtocol) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        try:
            figures = self._ledger.figures()
        except LedgerUnavailable:
            yield GaugeMetricFamily("llm_provider_ledger_up", "Whether the ledger answers.", 0)
            return
        yield GaugeMetricFamily("llm_provider_ledger_up", "Whether the ledger answers.", 1)
        yield GaugeMetricFamily("llm_provider_requests_open", "Accepted and not yet delivered.", figures.open)
        yield GaugeMetricFamily("llm_provider_requests_waiting", "Accepted and not yet claimed.", figures.waiting)
        yield GaugeMetricFamily("llm_provider_dead_letters", "Dead letters that wait for an operator.", figures.dead)
        for name, meaning in TOTALS.items():
            yield CounterMetricFamily(f"llm_provider_requests_{name}", meaning, figures.totals.get(name, 0))


def render(ledger: LedgerProtocol, providers: Sequence[ProviderState] = ()) -> bytes:
    """The text that Prometheus scrapes: all web processes together, the ledger, and the providers."""
    registry = CollectorRegistry()
    if _SHARED_DIRECTORY in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(HTTP_REQUESTS)
        registry.register(HTTP_SECONDS)
    registry.register(LedgerCollector(ledger))
    registry.register(ProviderCollector(providers))
    return generate_latest(registry)
