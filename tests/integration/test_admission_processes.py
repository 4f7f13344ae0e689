"""Admission control seen from two processes that share nothing but Redis, one of them killed.

What happened is read from a file that every caller appends to, not from Redis; all processes of a host share the
monotonic clock.
"""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import quantiles

import pytest

from contracts.enums import LLMProviderType
from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.admission import Admission, AdmissionProtocol, BreakerPolicy, CallAsk, CallHealth, CallReport
from llm_provider.background import PeriodicThread
from llm_provider.config import VendorSettings
from llm_provider.internal_models import ComparisonTarget
from tests.ports.ledger_suite import Server

TARGET = ComparisonTarget(provider=LLMProviderType.OPENAI, model="gpt-one")
LEASE_SECONDS = 1.5
POLICY = BreakerPolicy(failures=3, open_seconds=0.3, successes=2)
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Terms:
    """What a process needs to know of the others."""

    url: str
    prefix: str
    diary: Path
    limits: dict[str, int]
    threads: int = 20
    seconds: float = 2.0
    call_seconds: float = 0.1

    def admission(self) -> RedisAdmission:
        vendor = VendorSettings.model_construct(**self.limits)  # type: ignore[arg-type] # Names are checked by use.
        client = connect_redis(self.url, timeout_seconds=2)
        return RedisAdmission(
            client, prefix=self.prefix, breaker=POLICY, limits=lambda _: vendor, lease_seconds=LEASE_SECONDS
        )

    def note(self, **entry: object) -> None:
        """One line, in one write, so that not even a kill tears it."""
        line = json.dumps({"pid": os.getpid(), "at": time.monotonic(), **entry}) + "\n"
        with self.diary.open("ab", buffering=0) as diary:
            diary.write(line.encode())

    def entries(self, what: str) -> list[dict[str, float]]:
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["what"] == what]


def ask(admission: AdmissionProtocol, call_id: str, *, has_turn: bool = False, is_late: bool = False) -> Admission:
    return admission.ask(CallAsk(TARGET, call_id, 1000, 600, has_turn=has_turn, is_late=is_late))


def wait_for_admission(admission: AdmissionProtocol, call_id: str) -> Admission:
    told = ask(admission, call_id)
    while told.obstacle is not None:
        time.sleep(told.wait_seconds)
        told = ask(admission, call_id, has_turn=told.has_turn, is_late=told.is_late)
    return told


def call_for_a_while(terms: Terms) -> None:
    """A process whose threads call one after another, and renew what they hold."""
    admission, end = terms.admission(), time.monotonic() + terms.seconds
    keeper = PeriodicThread("keeper", lambda: bool(admission.renew()), LEASE_SECONDS / 4)
    keeper.start()

    def call(thread: int) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            call_id, asked = f"{os.getpid()}-{thread}-{number}", time.monotonic()
            told = wait_for_admission(admission, call_id)
            terms.note(what="begins", call=call_id, waited=time.monotonic() - asked, is_probe=told.is_probe)
            time.sleep(terms.call_seconds)
            terms.note(what="ends", call=call_id)
            admission.settle(TARGET, call_id, CallReport(CallHealth.GOOD, is_probe=told.is_probe))

    with ThreadPoolExecutor(terms.threads) as pool:
        list(pool.map(call, range(terms.threads)))


def ask_together(terms: Terms, start: float) -> None:
    """A process whose threads all ask once, at the same moment as those of the other one."""
    admission = terms.admission()
    gate = threading.Barrier(terms.threads)

    def once(thread: int) -> None:
        gate.wait(10)
        time.sleep(max(0.0, start - time.monotonic()))
        told = ask(admission, f"{os.getpid()}-{thread}")
        terms.note(what="told", admitted=told.obstacle is None, is_probe=told.is_probe)

    with ThreadPoolExecutor(terms.threads) as pool:
        list(pool.map(once, range(terms.threads)))


@dataclass
class Company:
    """Starts processes, and leaves none behind."""

    new_terms: Callable[..., Terms]
    _processes: list[SpawnProcess] = field(default_factory=list)

    def start(self, work: Callable[..., None], *args: object) -> SpawnProcess:
        process = _SPAWN.Process(target=work, args=args)
        process.start()
        self._processes.append(process)
        return process

    def join(self) -> None:
        for process in self._processes:
            process.join(60)
            assert process.exitcode == 0

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(10)


@pytest.fixture
def company(redis_server: Server, key_prefix: str, tmp_path: Path) -> Iterator[Company]:
    def new_terms(**changes: object) -> Terms:
        limits = {name: changes.pop(name) for name in list(changes) if name not in Terms.__annotations__}
        return Terms(redis_server.url, key_prefix, tmp_path / "diary", limits, **changes)  # type: ignore[arg-type] # A test's own.

    company = Company(new_terms)
    yield company
    company.end()


def break_circuit(admission: AdmissionProtocol) -> None:
    for number in range(POLICY.failures):
        admission.settle(TARGET, f"failed-{number}", CallReport(CallHealth.BAD))
    time.sleep(POLICY.open_seconds)


def most_at_once(terms: Terms) -> int:
    """How many calls ran at the same time, by what their callers wrote down."""
    # At the same instant an end comes first: it was written before its place was given back.
    changes = [(entry["at"], 1) for entry in terms.entries("begins")]
    changes += [(entry["at"], -1) for entry in terms.entries("ends")]
    running, most = 0, 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def wait_until_noted(terms: Terms, what: str, count: int) -> None:
    end = time.monotonic() + 20
    while len(terms.entries(what)) < count:
        assert time.monotonic() < end, f"{count} times {what!r} expected, so far {len(terms.entries(what))}."
        time.sleep(0.02)


def test_one_of_forty_threads_in_two_processes_probes(company: Company) -> None:
    """A half-open breaker is no stampede."""
    terms = company.new_terms()
    break_circuit(terms.admission())
    start = time.monotonic() + 3
    for _ in range(2):
        company.start(ask_together, terms, start)
    company.join()
    told = terms.entries("told")
    assert len(told) == 40
    assert [(entry["admitted"], entry["is_probe"]) for entry in told if entry["admitted"]] == [(True, True)]


def test_the_probe_of_a_killed_process_comes_back_after_a_lease(company: Company) -> None:
    """While it lives nobody else probes, for longer than a lease; nor is the provider cut off for ever."""
    terms = company.new_terms(call_seconds=30.0, threads=1)
    admission = terms.admission()
    break_circuit(admission)
    prober = company.start(call_for_a_while, terms)
    wait_until_noted(terms, "begins", 1)
    time.sleep(1.2 * LEASE_SECONDS)
    assert ask(admission, "other").obstacle is not None
    prober.kill()
    killed = time.monotonic()
    assert wait_for_admission(admission, "other").is_probe
    # It had renewed within the last quarter; the wait between two looks is up to 1.25 s.
    assert 0.5 * LEASE_SECONDS < time.monotonic() - killed < LEASE_SECONDS + 2


def test_no_more_than_the_limit_run_at_once_in_all_processes(company: Company) -> None:
    """All the places are used nearly all the time, and no thread is left behind the others."""
    terms = company.new_terms(max_concurrent_calls=10, call_seconds=0.5, seconds=4.0)
    for _ in range(2):
        company.start(call_for_a_while, terms)
    company.join()
    assert most_at_once(terms) == 10
    begins, ends = terms.entries("begins"), terms.entries("ends")
    span = max(entry["at"] for entry in ends) - min(entry["at"] for entry in begins)
    utilisation = len(begins) * terms.call_seconds / (10 * span)
    *_, p99 = quantiles([entry["waited"] for entry in begins], n=100)
    print(f"{len(begins)} calls, {utilisation:.0%} of the places used, 99 % waited less than {p99:.2f} s")  # noqa: T201 - The figures of the run.
    assert utilisation > 0.7
    # Forty threads, ten places: three calls go before one's own, and none more.
    assert p99 < 2 * 3 * terms.call_seconds


def test_the_places_of_a_killed_process_come_back_after_a_lease(company: Company) -> None:
    """Those of its callers that waited in the line do not keep anybody waiting either."""
    terms = company.new_terms(max_concurrent_calls=10, call_seconds=30.0, seconds=30.0)
    admission = terms.admission()
    victim = company.start(call_for_a_while, terms)
    wait_until_noted(terms, "begins", 10)
    time.sleep(1.2 * LEASE_SECONDS)
    assert ask(admission, "comes-first").obstacle is not None
    assert len(terms.entries("begins")) == 10
    victim.kill()
    killed = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: wait_for_admission(admission, f"waits-{number}"), range(10)))
    assert 0.5 * LEASE_SECONDS < time.monotonic() - killed < LEASE_SECONDS + 2


def test_turns_are_dealt_out_fairly_at_the_rate_of_the_limit(company: Company) -> None:
    """Ten a second, to 32 threads of two processes: nobody waits much longer than the others."""
    terms = company.new_terms(requests_per_minute=600, call_seconds=0.0, threads=16, seconds=5.0)
    for _ in range(2):
        company.start(call_for_a_while, terms)
    company.join()
    begins = terms.entries("begins")
    times = [entry["at"] for entry in begins]
    span = max(times) - min(times)
    # A second's worth at once, and then the rate.
    assert len(begins) <= 10 * (span + 1) + 1
    assert len(begins) > 0.8 * 10 * span
    waits = sorted(entry["waited"] for entry in begins[len(begins) // 3 :])
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    print(f"{len(begins)} turns in {span:.1f} s, waits p50 {p50:.2f} s, p99 {p99:.2f} s")  # noqa: T201 - The figures of the run.
    assert p99 < 1.5 * p50
    by_process = {pid: sum(entry["pid"] == pid for entry in begins) for pid in {entry["pid"] for entry in begins}}
    assert min(by_process.values()) > 0.35 * len(begins)
