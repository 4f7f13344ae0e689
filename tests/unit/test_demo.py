"""What the demo shows and how it stops, and the example consumer it runs."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psutil
import pytest

from contracts.errors import ErrorCode, ErrorDetail
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1
from examples.consumer import Event, line, results
from scripts.demos.comparisons import ESSAYS, Comparison, comparisons
from scripts.demos.environment import port
from scripts.demos.errors import DemoError
from scripts.demos.verdict import verdict
from scripts.local_servers import HOST, free_port
from scripts.programs import Interrupted, Interrupts, Program, ProgramError, procfile, stop

TOPICS = ["class-7a", "class-7b"]


def result(**changes: Any) -> LLMComparisonResultV1:
    completed = datetime.now(UTC) - timedelta(seconds=2)
    fields: dict[str, Any] = {
        "request_id": str(uuid4()),
        "correlation_id": uuid4(),
        "winner": "Essay B",
        "justification": "It answers the objection.",
        "confidence": 3.5,
        "provider": "mock",
        "model": "mock-1",
        "response_time_ms": 400,
        "cost_estimate": 0.0,
        "requested_at": completed - timedelta(milliseconds=420),
        "completed_at": completed,
    }
    return LLMComparisonResultV1(**{**fields, **changes})


def failure() -> LLMComparisonResultV1:
    detail = ErrorDetail(
        error_code=ErrorCode.RATE_LIMIT,
        message="The provider asks for patience.",
        correlation_id=uuid4(),
        timestamp=datetime.now(UTC),
        service="llm_provider_service",
        operation="compare",
    )
    return result(winner=None, justification=None, confidence=None, error_detail=detail)


def event(data: LLMComparisonResultV1) -> Event:
    return EventEnvelope[LLMComparisonResultV1](event_type="t", source_service="s", data=data)


class Record(NamedTuple):
    topic: str
    value: bytes


class FakeConsumer:
    """As much of a KafkaConsumer as the example uses; each poll brings the next batch."""

    def __init__(self, *batches: list[bytes]) -> None:
        self._batches = iter(batches)
        self.commits = 0

    def poll(self, timeout_ms: int) -> dict[str, list[Record]]:
        batch = next(self._batches, [])
        return {"partition": [Record(TOPICS[0], value) for value in batch]} if batch else {}

    def commit(self) -> None:
        self.commits += 1


# The example consumer


def test_a_consumer_sees_a_result_once_however_often_it_is_delivered() -> None:
    """Delivery is at least once, so the same bytes may come again, at once or later."""
    value = event(result()).model_dump_json().encode()
    consumer, handled = FakeConsumer([value, value], [value]), set[UUID]()
    seen = [*results(consumer, handled), *results(consumer, handled)]
    assert len(seen) == 1


def test_a_consumer_commits_results_only_after_all_were_handled() -> None:
    """A consumer that dies while it handles a result must get it again."""
    consumer = FakeConsumer([event(result()).model_dump_json().encode() for _ in range(2)])
    commits_while_handling = [consumer.commits for _ in results(consumer, set())]
    assert commits_while_handling == [0, 0]
    assert consumer.commits == 1


def test_a_consumer_goes_on_after_a_record_that_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    """It says so without quoting the record, and commits past it."""
    good = event(result())
    consumer = FakeConsumer([b'{"data": "a secret"}', good.model_dump_json().encode()])
    assert [seen.event_id for _, seen in results(consumer, set())] == [good.event_id]
    said = capsys.readouterr().err
    assert "skipped" in said
    assert "secret" not in said
    assert consumer.commits == 1


def test_a_consumer_prints_one_line_for_success_and_for_failure() -> None:
    """Both kinds of outcome arrive on the same topic."""
    won, failed = result(), failure()
    assert line(event(won)) == f"{won.request_id} Essay B (confidence 3.5): It answers the objection."
    assert line(event(failed)) == f"{failed.request_id} FAILED RATE_LIMIT: The provider asks for patience."


# Essays and requests


def test_a_dozen_essays_of_150_to_500_words_ship_with_the_project() -> None:
    """What the demo and the benchmark compare must look like what students hand in."""
    lengths = [len(essay.read_text().split()) for essay in ESSAYS.glob("essay-*.md")]
    assert len(lengths) == 12
    assert all(150 <= words <= 500 for words in lengths)


def test_the_demo_asks_in_every_way_and_names_every_topic() -> None:
    """No pair comes twice, and only requests that are called back name a topic."""
    asked = comparisons(TOPICS)
    assert {one.how for one in asked} == {"callback", "at once", "polled"}
    assert {one.topic for one in asked if one.how == "callback"} == set(TOPICS)
    assert {one.topic for one in asked if one.how != "callback"} == {None}
    assert len({frozenset(one.essays) for one in asked}) == len(asked)


def answered(topic: str = TOPICS[0]) -> Comparison:
    one = comparisons(TOPICS)[0]
    one.topic = topic
    one.arrived(topic, event(result()))
    return one


def test_an_event_tells_the_winner_and_both_times() -> None:
    """Essay B of the request is the second file; 420 ms lie before the answer and 2 s after it."""
    one = answered()
    assert one.winner == one.essays[1].stem.removeprefix("essay-")
    assert one.answer_ms == pytest.approx(420, abs=1)
    assert one.event_ms is not None
    assert 2000 <= one.event_ms < 4000


@pytest.mark.parametrize(
    ("topic", "outcome", "problem"),
    [(TOPICS[1], result, "came on class-7b instead of class-7a"), (TOPICS[0], failure, "RATE_LIMIT")],
)
def test_an_event_that_is_not_what_was_asked_for_is_a_problem(
    topic: str, outcome: Callable[[], LLMComparisonResultV1], problem: str
) -> None:
    """The wrong topic, or a failure, must not pass for an answer."""
    one = comparisons(TOPICS)[0]
    one.arrived(topic, event(outcome()))
    assert problem in one.problem


def test_the_verdict_is_one_line_when_all_is_well() -> None:
    """It counts what came in which way."""
    assert "2 as events on 2 topics" in verdict([answered(TOPICS[0]), answered(TOPICS[1])])


def test_the_verdict_names_what_is_missing() -> None:
    """One event that did not arrive makes the demo fail."""
    missing = comparisons(TOPICS)[1]
    missing.problem = "accepted, but its event did not arrive"
    with pytest.raises(DemoError, match=f"(?s)1 of 2 .*{missing.names}.*did not arrive"):
        verdict([answered(), missing])


# Programs and signals


def test_only_a_demo_that_stays_takes_the_usual_port_and_only_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's curl knows the port by heart; demos that run at once must not meet on it."""
    usual = free_port()
    monkeypatch.delenv("KEEP", raising=False)
    passing = port(usual)
    monkeypatch.setenv("KEEP", "1")
    staying = port(usual)
    with socket.create_server((HOST, usual)):
        second = port(usual)

    assert staying == usual
    assert usual not in {passing, second}


def test_the_procfile_names_what_an_operator_relies_on() -> None:
    """Every line replaces its shell, so that a signal to the process reaches the program itself."""
    lines = procfile()
    assert set(lines) == {"release", "web", "worker", "flower"}
    assert all(command.startswith("exec ") for command in lines.values())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    programs: list[Program] = []

    def start(command: str) -> Program:
        programs.append(Program.start("program", command, os.environ, tmp_path))
        return programs[-1]

    yield start
    stop(programs, seconds=0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.01)


def test_a_program_that_ends_by_itself_is_reported_with_its_last_words(start: Callable[[str], Program]) -> None:
    """Nobody should have to look for the log of what died."""
    program = start("echo no such setting; exit 3")
    program.process.wait(10)
    with pytest.raises(ProgramError, match="program ended by itself with exit code 3") as failed:
        program.check()
    assert failed.value.tail() == "no such setting"


IGNORES_THE_REQUEST = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


def test_stopping_ends_all_that_a_program_started(start: Callable[[str], Program]) -> None:
    """A child that outlives its parent and ignores SIGTERM goes all the same."""
    program = start(f"{sys.executable} -c '{IGNORES_THE_REQUEST}' & sleep 60")
    until(lambda: program.says("1"))
    children = psutil.Process(program.process.pid).children()
    stop([program], seconds=0.2)
    assert len(children) == 2
    until(lambda: all(ended(child) for child in children))


def ended(process: psutil.Process) -> bool:
    # Without a parent that asks for it, a process that ended may stay listed as a zombie.
    return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in signals]
    interrupts = Interrupts()
    interrupts.install()
    yield interrupts
    for signum, handler in zip(signals, before, strict=True):
        signal.signal(signum, handler)


def interrupted_by(signum: signal.Signals) -> bool:
    try:
        signal.raise_signal(signum)
    except Interrupted:
        return True
    return False


def test_an_interrupt_waits_until_what_was_started_is_noted(interrupts: Interrupts) -> None:
    """Otherwise a process started just then would be left behind."""
    noted: list[str] = []

    def start_and_note() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            noted.append("program")

    with pytest.raises(Interrupted) as interrupted:
        start_and_note()
    assert noted == ["program"]
    assert interrupted.value.exit_code == 128 + signal.SIGTERM


def test_a_second_interrupt_does_not_cut_the_clean_up_short(interrupts: Interrupts) -> None:
    """The first one ends the run; people press Ctrl-C more than once."""
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
    assert not interrupted_by(signal.SIGINT)


def test_an_interrupt_during_the_clean_up_of_a_finished_run_is_ignored(interrupts: Interrupts) -> None:
    """What is being stopped is stopped to the end."""
    interrupts.ignore()
    assert not interrupted_by(signal.SIGTERM)
