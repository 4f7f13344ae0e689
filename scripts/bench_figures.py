"""What a benchmark measured, and how it is told: each figure of the service beside the bare chain's."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass
class Run:
    """One chain under one case's load, once."""

    chain: str
    case: str
    accepted_per_second: float = math.nan
    end_to_end_per_second: float = math.nan
    loaded_ms: list[float] = field(default_factory=list)
    unloaded_ms: list[float] = field(default_factory=list)
    web_cpu_ms: float = math.nan
    worker_cpu_ms: float = math.nan
    redis_cpu_ms: float = math.nan
    web_scripts: float = math.nan
    worker_scripts: float = math.nan
    messages: float = math.nan
    others_share: float = math.nan
    in_flight: int = 0
    in_flight_kb: float = math.nan
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """One line of a table; `of` makes one number of the runs of one chain under one case."""

    title: str
    of: Callable[[Sequence[Run]], float]
    decimals: int = 1
    aim: str = ""
    met: Callable[[float, float], bool] | None = None


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _mean_of(name: str) -> Callable[[Sequence[Run]], float]:
    return lambda runs: mean(getattr(run, name) for run in runs)


def _latency(name: str, share: float) -> Callable[[Sequence[Run]], float]:
    # The median over the rounds: another program's burst in one of them must not be the figure.
    return lambda runs: median(percentile(getattr(run, name), share) for run in runs)


def _cpu(runs: Sequence[Run]) -> float:
    return mean(run.web_cpu_ms + run.worker_cpu_ms for run in runs)


FIGURES = (
    Figure("accepted / s", _mean_of("accepted_per_second"), 0, ">= 0.90 x", lambda bare, ours: ours >= 0.9 * bare),
    Figure("end to end / s", _mean_of("end_to_end_per_second"), 0, ">= 0.90 x", lambda bare, ours: ours >= 0.9 * bare),
    Figure("answer to event under load, p50 ms", _latency("loaded_ms", 0.50)),
    Figure("answer to event under load, p99 ms", _latency("loaded_ms", 0.99)),
    Figure("answer to event one at a time, p50 ms", _latency("unloaded_ms", 0.50)),
    Figure(
        "answer to event one at a time, p99 ms",
        _latency("unloaded_ms", 0.99),
        aim="<= 2 x + 5 ms",
        met=lambda bare, ours: ours <= 2 * bare + 5,
    ),
    Figure("CPU web + worker, ms a request", _cpu, 2, "<= 1.11 x", lambda bare, ours: ours <= bare / 0.9),
    Figure("    of it web", _mean_of("web_cpu_ms"), 2),
    Figure("    of it worker", _mean_of("worker_cpu_ms"), 2),
    Figure("CPU Redis, ms a request", _mean_of("redis_cpu_ms"), 2),
    Figure("ledger scripts in web, a request", _mean_of("web_scripts"), 2, "1", lambda _, ours: ours < 1.05),
    Figure("ledger scripts in worker, a request", _mean_of("worker_scripts"), 2, "3", lambda _, ours: ours < 3.15),
    Figure("Celery messages, a request", _mean_of("messages"), 2, "1", lambda _, ours: ours < 1.05),
    Figure("calls in flight, most", lambda runs: max(run.in_flight for run in runs), 0),
    Figure("CPU taken by other programs, %", _mean_of("others_share"), 0),
    Figure("kB a call in flight", _mean_of("in_flight_kb"), 0, "< 100", lambda _, ours: ours < 100),
)


def table(case: str, bare: Sequence[Run], ours: Sequence[Run]) -> Table:
    """One case's figures; a figure that the case does not have is left out."""
    shown = Table(title=case, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for title in ("bare chain", "service", "ratio", "aim"):
        shown.add_column(title, justify="right", no_wrap=True)
    for figure in FIGURES:
        if not math.isnan(figure.of(ours)) and figure.of(ours):
            shown.add_row(*_row(figure, figure.of(bare), figure.of(ours)))
    return shown


def _row(figure: Figure, bare: float, ours: float) -> tuple[str, ...]:
    ratio = f"{ours / bare:.2f}" if bare else "-"
    aim = figure.aim and f"{figure.aim} {'met' if figure.met and figure.met(bare, ours) else 'MISSED'}"
    return figure.title, f"{bare:,.{figure.decimals}f}", f"{ours:,.{figure.decimals}f}", ratio, aim


def summary(run: Run) -> str:
    """A line for those who wait for the table."""
    return (
        f"{run.accepted_per_second:.0f} accepted/s, {run.end_to_end_per_second:.0f} end to end/s,"
        f" {run.web_cpu_ms + run.worker_cpu_ms:.2f} ms CPU a request,"
        f" {run.others_share:.0f} % of the CPU taken by other programs"
    )
