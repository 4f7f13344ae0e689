"""Every Prometheus metric, declared once: what the web processes count, and what the ledger says when it is scraped."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llm_provider.admission import BreakerState, BreakerView, ProviderLoad
from llm_provider.count_file import CountFile
from llm_provider.errors import ConfigurationError, LedgerUnavailable
from llm_provider.ledger import LedgerProtocol
from llm_provider.logs import unharmed

_SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

values.MmapedDict = CountFile  # type: ignore[assignment, attr-defined]

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
    "lost": "Requests whose record had gone before they were delivered.",
    "restored": "Answers whose record had gone, stored anew with their request.",
    "retracted": "Requests taken back, since their acceptance could not be answered in time.",
}


def share_among_processes() -> None:
    """Let several web processes count together; called once, before they are forked and before anything is counted.

    Raises ConfigurationError when there is no folder for it.
    """
    given = os.environ.get(_SHARED_DIRECTORY)
    try:
        directory = given or tempfile.mkdtemp(prefix="llm-provider-metrics-")
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigurationError(f"{_SHARED_DIRECTORY}: cannot be written to as a folder ({error.strerror})") from None
    if not given:
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

    def __init__(self, providers: Callable[[], Sequence[ProviderState]]) -> None:
        self._providers = providers

    def collect(self) -> Iterable[Metric]:
        of_provider = ["provider"]
        closed = GaugeMetricFamily("llm_provider_circuit_closed", "Whether calls are made.", labels=of_provider)
        running = GaugeMetricFamily("llm_provider_calls_running", "Limited calls that run.", labels=of_provider)
        waiting = GaugeMetricFamily("llm_provider_calls_waiting", "Requests to be called.", labels=of_provider)
        held = GaugeMetricFamily("llm_provider_models_held", "Models their vendor holds back.", labels=of_provider)
        for name, breaker, load in self._providers():
            if breaker.state is BreakerState.UNKNOWN:
                continue
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
        yield GaugeMetricFamily("llm_provider_records_quarantined", "Records that cannot be read.", figures.quarantined)
        yield CounterMetricFamily(
            "llm_provider_ledger_replaced",
            "Times that Redis was found to be another one, or emptied.",
            figures.totals.get("replaced", 0),
        )
        for name, meaning in TOTALS.items():
            yield CounterMetricFamily(f"llm_provider_requests_{name}", meaning, figures.totals.get(name, 0))


class SharedCollector(Collector):
    """What all web processes have counted; a file that cannot be read costs what is in it."""

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(os.environ[_SHARED_DIRECTORY]).glob("*.db") if _is_readable(file)]
        merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _is_readable(file: Path) -> bool:
    with unharmed(f"{file.name}_not_readable"):
        multiprocess.MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
        return True
    return False


class HarmlessCollector(Collector):
    """Whatever breaks in another one costs its own series only."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        with unharmed(f"{type(self._collector).__name__}_broke"):
            return list(self._collector.collect())
        return []


def render(ledger: LedgerProtocol, providers: Callable[[], Sequence[ProviderState]] = tuple) -> bytes:
    """The text that Prometheus scrapes: all web processes together, the ledger, and the providers."""
    registry = CollectorRegistry()
    counted = (SharedCollector(),) if _SHARED_DIRECTORY in os.environ else (HTTP_REQUESTS, HTTP_SECONDS)
    for collector in (*counted, LedgerCollector(ledger), ProviderCollector(providers)):
        registry.register(HarmlessCollector(collector))
    return generate_latest(registry)
