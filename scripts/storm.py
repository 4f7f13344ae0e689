"""Proof under faults: `make storm`. Nothing accepted is lost, nothing is paid twice without a reason.

Starts a Redis, a Kafka, web and worker processes and a counting provider of its own on loopback, sends requests while
it breaks one part after another by a schedule that the seed determines, and ends with the account; exit code 1 when a
promise was broken. Options come as arguments or from the environment (STORM_SEED, STORM_REQUESTS, STORM_RATE,
STORM_FAULTS, ...); docs/reliability.md says what is promised.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    # Until there is something to clean up, Ctrl-C may end us at once, and without a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Run as a script, Python would look for our modules in scripts/ only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.local_servers import ServerError, state_directory
from scripts.programs import Interrupted, Interrupts
from scripts.storms.logbook import lines_of, loud_lines
from scripts.storms.report import account_table, fault_table, log_table
from scripts.storms.schedule import ALL_KINDS, USUAL_KINDS, Crew, Fault, FaultKind, Weather
from scripts.storms.screen import Screen
from scripts.storms.storm import Aftermath, Forecast, Storm, StormError

LOGS_KEPT = 5
LONG_REQUESTS, LONG_RATE = 10_000, 25.0


def forecast(arguments: Sequence[str], environment: "os._Environ[str] | dict[str, str]" = os.environ) -> Forecast:
    """What was asked for; an argument wins over the environment."""
    given = _parser(environment).parse_args(arguments)
    if given.failover:
        given.faults += (FaultKind.REDIS_FAILOVER,)
    if given.long:
        given.requests, given.rate = LONG_REQUESTS, LONG_RATE
    return Forecast(
        seed=given.seed,
        requests=given.requests,
        rate=given.rate,
        latency_ms=given.latency_ms,
        provider_timeout=given.provider_timeout,
        weather=Weather(given.faults, given.gap, given.overlap, Crew(given.workers, given.prefork_workers)),
    )


def _parser(environment: "os._Environ[str] | dict[str, str]") -> argparse.ArgumentParser:
    def option(name: str, default: object, kind: type, told: str) -> None:
        variable = f"STORM_{name.upper().replace('-', '_')}"
        value = environment.get(variable) or default
        parser.add_argument(f"--{name}", type=kind, default=value, metavar="N", help=f"{told} [{value}] ({variable})")

    usual = Forecast()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option("seed", usual.seed, int, "determines which faults come when")
    option("requests", usual.requests, int, "how many requests are sent")
    option("rate", usual.rate, float, "requests a second")
    option("gap", usual.weather.gap, float, "mean seconds between the end of a fault and the next one")
    option("overlap", usual.weather.overlap, float, "share of faults that begin while another part is broken")
    option("latency-ms", usual.latency_ms, float, "about how long the provider takes")
    option("provider-timeout", usual.provider_timeout, float, "seconds the service waits for the provider")
    option("workers", usual.weather.crew.threads, int, "worker processes of the recommended pool")
    option("prefork-workers", usual.weather.crew.prefork, int, "worker processes with the prefork pool")
    parser.add_argument(
        "--faults",
        type=kinds,
        default=environment.get("STORM_FAULTS") or "all",
        help="kinds or parts, separated by commas; all, none, or of: " + " ".join(ALL_KINDS) + " (STORM_FAULTS)",
    )
    is_long = environment.get("STORM_LONG") == "1"
    told = f"{LONG_REQUESTS:,} requests at {LONG_RATE:g}/s (STORM_LONG=1)"
    parser.add_argument("--long", action="store_true", default=is_long, help=told)
    fails_over = environment.get("STORM_FAILOVER") == "1"
    told = "a Redis with two replicas and a Sentinel, and redis-failover among the faults (STORM_FAILOVER=1)"
    parser.add_argument("--failover", action="store_true", default=fails_over, help=told)
    return parser


def kinds(text: str) -> tuple[FaultKind, ...]:
    """`worker-kill,kafka` means that kind and all of that part; redis-failover has to be asked for by name."""
    if text in {"all", "none"}:
        return USUAL_KINDS if text == "all" else ()
    wanted = [name.strip() for name in text.split(",")]
    unknown = [name for name in wanted if name not in ALL_KINDS and name not in {kind.part for kind in ALL_KINDS}]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(unknown)}")
    return tuple(kind for kind in ALL_KINDS if kind in wanted or (kind.part in wanted and kind in USUAL_KINDS))


def tell(screen: Screen, aftermath: Aftermath, logs: Path) -> int:
    """The tables and the verdict; how many promises were broken."""
    account, console = aftermath.account, screen.console
    console.print(fault_table(account, aftermath.begin))
    console.print(log_table(loud_lines(lines_of(logs))))
    console.print(account_table(account))
    troubles = account.faults_of_the_service
    troubles += [f"The storm's own fault failed: {one.name}: {one.note}" for one in account.broken if one.failed]
    for trouble in troubles:
        console.print(trouble, style="bold", soft_wrap=True)
    verdict = "Promises were broken." if troubles else "Nothing was lost, and nothing was paid twice without a reason."
    console.print(verdict, style="bold")
    console.print(f"Logs: {logs}", soft_wrap=True)
    return len(troubles)


def schedule_lines(faults: Sequence[Fault]) -> list[str]:
    return [f"{fault.at:6.1f} s  {fault.kind} {fault.target or ''} for {fault.seconds:.1f} s" for fault in faults]


def new_logs() -> Path:
    """A directory for this run, servers' data included; the oldest go."""
    folder = state_directory() / "storm"
    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted((directory for directory in folder.iterdir() if directory.is_dir()), reverse=True)
    for directory in earlier[LOGS_KEPT - 1 :]:
        shutil.rmtree(directory, ignore_errors=True)
    logs = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    logs.mkdir()
    return logs


def main(arguments: Sequence[str]) -> int:
    # What kafka-python would tell of an absent broker, the storm itself tells.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    wanted, screen, interrupts = forecast(arguments), Screen(), Interrupts()
    screen.say(f"Seed {wanted.seed}.")
    logs = new_logs()
    try:
        with ExitStack() as stack:
            try:
                interrupts.install()
                aftermath = Storm(wanted, screen, interrupts, logs, stack).run()
            finally:
                interrupts.ignore()
                screen.say("Stopping what was started ...")
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (StormError, ServerError) as error:
        screen.say(f"The storm could not take place. {error}\nLogs: {logs}")
        return 1
    return 1 if tell(screen, aftermath, logs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
