"""Speed, CPU and memory of the running service beside a bare chain: `make bench`.

Starts a Redis and a Kafka of its own, puts both chains under the same load in alternating order, prints a table for
each case, and stops all it started. It judges no time: it fails only when something is lost or broken.
docs/benchmarks.md says what is measured and how to read it.
"""

import argparse
import logging
import multiprocessing
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

if __name__ == "__main__":
    # Until there is something to clean up, Ctrl-C may end us at once, and without a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Run as a script, Python would look for our modules in scripts/ only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from redis import Redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.bench_clients import post, receive
from scripts.bench_figures import Run, summary, table
from scripts.bench_provider import serve
from scripts.bench_trial import (
    BARE,
    SERVICE,
    START_SECONDS,
    TOPIC,
    BenchError,
    Case,
    Chain,
    Place,
    measure,
    plain_environment,
)
from scripts.local_servers import KafkaBroker, LocalServer, RedisServer, ServerError, state_directory
from scripts.programs import Interrupted, Interrupts, Program, ProgramError, procfile

LOGS_KEPT = 3


def run(given: argparse.Namespace, stack: ExitStack, interrupts: Interrupts, console: Console, logs: Path) -> int:
    """All runs and the tables; the number of things that were lost or broken."""
    place = prepare(stack, interrupts, console, logs)
    cases = [
        Case("fast", "the provider answers at once", 0, given.concurrency, given.requests, given.singles),
        Case("slow", "the provider takes 2 s", 2000, given.slow_concurrency, given.requests, 0),
    ]
    cases = [case for case in cases if given.case in {"both", case.key}]
    runs: list[Run] = []
    with progress_on(console) as progress:
        for number, case in product(range(given.rounds), cases):
            # Whoever comes second finds warmer caches, so they take turns.
            for chain in (BARE, SERVICE) if number % 2 == 0 else (SERVICE, BARE):
                title = f"round {number + 1}: {chain.name}, {case.name}"
                runs.append(one_run(place, chain, case, progress, title))
    return tell(console, cases, runs)


def one_run(place: Place, chain: Chain, case: Case, progress: Progress, title: str) -> Run:
    task = progress.add_task(title, total=case.requests)
    done = measure(place, chain, case, lambda arrived: progress.update(task, completed=arrived))
    progress.remove_task(task)
    progress.console.print(f"{title}: {summary(done)}", soft_wrap=True)
    return done


def tell(console: Console, cases: list[Case], runs: list[Run]) -> int:
    for case in cases:
        of_case = [run for run in runs if run.case == case.name]
        bare, ours = ([run for run in of_case if run.chain == chain.name] for chain in (BARE, SERVICE))
        console.print()
        console.print(table(f"{case.requests:,} requests, {case.name}, {case.concurrency} at once", bare, ours))
    troubles = [f"{run.chain}, {run.case}: {trouble}" for run in runs for trouble in run.troubles]
    for trouble in troubles:
        console.print(f"[bold]{trouble}[/bold]")
    console.print("Something was lost or broken." if troubles else "Nothing was lost and nothing came twice.")
    return len(troubles)


def prepare(stack: ExitStack, interrupts: Interrupts, console: Console, logs: Path) -> Place:
    # Benchmarked are servers that nobody else uses, and that start empty.
    redis, kafka = RedisServer(logs / "redis"), KafkaBroker(logs / "kafka")
    for server in (redis, kafka):
        start(server, stack, console)
    environment = plain_environment() | {redis.variable: redis.address, kafka.variable: kafka.address}
    create_topic(environment, logs)
    client = stack.enter_context(Redis.from_url(redis.url))
    # Spawned and not forked, for there may be threads here; daemons, which end with us.
    context = multiprocessing.get_context("spawn")
    counts = context.Array("l", 2)  # Shared; each number has one writer.

    def help_with(target: Callable[..., None], *arguments: object) -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        process.start()
        stack.callback(process.join, 5)
        stack.callback(process.terminate)
        return ours

    provider, orders = help_with(serve, counts), help_with(post)
    arrivals = help_with(receive, kafka.bootstrap_servers, TOPIC)
    arrivals.recv()
    return Place(environment, client, interrupts, logs, provider.recv(), counts, orders, arrivals)


def start(server: LocalServer, stack: ExitStack, console: Console) -> None:
    console.print(f"Starting {server.name} ...")
    stack.callback(server.stop)
    server.start()


def create_topic(environment: dict[str, str], logs: Path) -> None:
    release = Program.start("release", f"{procfile()['release']} {TOPIC}", environment, logs)
    if release.process.wait(START_SECONDS) != 0:
        raise BenchError(f"The topic could not be created; see {release.log}.")


def progress_on(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        # Drawing takes CPU from what is measured.
        refresh_per_second=2,
        disable=not console.is_terminal,
    )


def guarded(given: argparse.Namespace) -> int:
    """Run, clean up whatever happens, and say in words what happened; the exit code."""
    # What kafka-python would tell us is told by us, or by the servers' logs.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    console, interrupts = Console(highlight=False, emoji=False), Interrupts()
    console.width = console.width if console.is_terminal else 120
    logs = new_logs()
    try:
        with ExitStack() as stack:
            try:
                interrupts.install()
                return 1 if run(given, stack, interrupts, console, logs) else 0
            finally:
                interrupts.ignore()
                console.print("Stopping what was started ...")
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (BenchError, ProgramError, ServerError) as error:
        console.print(f"The benchmark failed. {error} Its logs are in {logs}.", markup=False)
        return 1


def new_logs() -> Path:
    """A directory for this run's logs and servers; the oldest go."""
    parent = state_directory() / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    earlier = sorted(parent.iterdir(), key=lambda directory: directory.stat().st_mtime, reverse=True)
    for directory in earlier[LOGS_KEPT - 1 :]:
        shutil.rmtree(directory, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix="run-"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="requests of each run (2000)")
    parser.add_argument("--case", choices=("both", "fast", "slow"), default="both", help="how the provider answers")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each chain in each case (2)")
    parser.add_argument("--singles", type=int, default=200, help="requests sent one at a time in each run (200)")
    parser.add_argument("--concurrency", type=int, default=100, help="calls at once to the provider (100)")
    parser.add_argument("--slow-concurrency", type=int, default=500, help="the same when it takes 2 s (500)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(guarded(arguments()))
