"""The metrics: what one process says and what several say together."""

import os
import subprocess
import sys
from pathlib import Path

from llm_provider import metrics
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.admission import BreakerState, BreakerView, ProviderLoad
from llm_provider.bootstrap import ledger_timing
from llm_provider.config import Settings

COUNT_ONE = "from llm_provider.metrics import HTTP_REQUESTS; HTTP_REQUESTS.labels('POST', 'compare', 200).inc()"


def test_every_total_of_the_ledger_is_exported() -> None:
    """A total that is counted and not declared here would never be seen."""
    text = metrics.render(MemoryLedger(ledger_timing(Settings()))).decode()

    assert all(f"llm_provider_requests_{name}_total 0.0" in text for name in metrics.TOTALS)


def test_without_the_ledger_only_its_absence_is_told() -> None:
    """Zeros would look like an empty queue."""
    text = metrics.render(MemoryLedger(ledger_timing(Settings()), away=True)).decode()

    assert "llm_provider_ledger_up 0.0" in text
    assert "llm_provider_requests_open" not in text


def test_every_provider_tells_how_it_stands() -> None:
    """By its name; of one that nobody can be asked about nothing is told."""
    held = ProviderLoad(running=3, waiting=7, held_models={"a": 1.0, "b": 2.0})
    states = [
        ("openai", BreakerView(BreakerState.OPEN), held),
        ("google", BreakerView(), ProviderLoad()),
        ("anthropic", BreakerView(BreakerState.UNKNOWN), ProviderLoad()),
    ]
    text = metrics.render(MemoryLedger(ledger_timing(Settings())), lambda: states).decode()

    for name, openai, google in (
        ("circuit_closed", 0, 1),
        ("calls_running", 3, 0),
        ("calls_waiting", 7, 0),
        ("models_held", 2, 0),
    ):
        assert f'llm_provider_{name}{{provider="openai"}} {openai:.1f}' in text
        assert f'llm_provider_{name}{{provider="google"}} {google:.1f}' in text
    assert "anthropic" not in text


def test_several_processes_count_together(tmp_path: Path) -> None:
    """Whichever web process is scraped, it tells the sum of all of them."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT_ONE], env=environment, check=True)
    scrape = (
        "from llm_provider.metrics import render; from llm_provider.bootstrap import ledger_timing;"
        "from llm_provider.config import Settings; from llm_provider.adapters.memory_ledger import MemoryLedger;"
        "print(render(MemoryLedger(ledger_timing(Settings()))).decode())"
    )
    told = subprocess.run([sys.executable, "-c", scrape], env=environment, check=True, capture_output=True, text=True)

    assert 'llm_provider_http_requests_total{endpoint="compare",method="POST",status="200"} 2.0' in told.stdout


def test_processes_that_are_forked_later_share_a_directory_of_their_own(tmp_path: Path) -> None:
    """It is made although prometheus_client is imported already, is counted in, and goes with its maker."""
    program = (
        "import os; from llm_provider import metrics; metrics.share_among_processes();"
        "metrics.HTTP_REQUESTS.labels('POST', 'compare', 200).inc();"
        "print(*os.listdir(os.environ['PROMETHEUS_MULTIPROC_DIR']))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)

    assert "counter_" in made.stdout
    assert list(tmp_path.iterdir()) == []
