"""What a storm reads: options, records on a topic, logs and keys; and what its provider answers."""

import json
import re
from io import StringIO

import pytest
from rich.console import Console

from scripts.storm import forecast, kinds
from scripts.storms import provider
from scripts.storms.account import Account, Arrival, Asked, Broken
from scripts.storms.client import body, request
from scripts.storms.consumer import arrival
from scripts.storms.leftovers import undocumented
from scripts.storms.logbook import loud_lines
from scripts.storms.provider import Behaviour, Call, Provider
from scripts.storms.report import account_table, fault_table
from scripts.storms.schedule import USUAL_KINDS, Fault, FaultKind

# Options


def test_two_thousand_requests_and_every_fault_are_the_default() -> None:
    """What `make storm` runs."""
    usual = forecast([], {})
    assert (usual.requests, tuple(usual.weather.kinds)) == (2000, USUAL_KINDS)


def test_the_long_form_sends_ten_thousand() -> None:
    """STORM_LONG=1 make storm."""
    assert forecast([], {"STORM_LONG": "1"}).requests == 10_000


def test_the_environment_chooses_and_an_argument_wins() -> None:
    """make has no arguments to give."""
    environment = {"STORM_SEED": "5", "STORM_REQUESTS": "100", "STORM_FAULTS": "redis"}
    wanted = forecast(["--seed", "6"], environment)
    assert (wanted.seed, wanted.requests) == (6, 100)
    assert {kind.part for kind in wanted.weather.kinds} == {"redis"}


def test_a_kind_and_a_whole_part_can_be_named_together() -> None:
    """One row of the table, or all of a part's."""
    chosen = kinds("worker-kill, kafka")
    assert set(chosen) == {
        FaultKind.WORKER_KILL,
        FaultKind.KAFKA_RESTART,
        FaultKind.KAFKA_KILL,
        FaultKind.KAFKA_FREEZE,
    }


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--failover"], {}), ([], {"STORM_FAILOVER": "1"}), (["--faults", "redis-failover"], {})],
    ids=str,
)
def test_a_failover_is_asked_for_by_name(arguments: list[str], environment: dict[str, str]) -> None:
    """Its Redis is another one: with replicas and a Sentinel."""
    assert not forecast(["--faults", "redis"], {}).weather.fails_over
    weather = forecast(arguments, environment).weather
    assert weather.fails_over
    assert FaultKind.REDIS_FAILOVER in weather.possible


def test_an_unknown_fault_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip must not become a calm run."""
    with pytest.raises(SystemExit):
        forecast(["--faults", "earthquake"], {})
    assert "no such fault: earthquake" in capsys.readouterr().err


def test_the_same_options_give_the_same_faults() -> None:
    """The seed is all one needs to tell."""
    assert forecast(["--seed", "9"], {}).faults() == forecast(["--seed", "9"], {}).faults() != forecast([], {}).faults()


# Records

EVENT = {
    "event_id": "e-1",
    "data": {
        "request_id": "q-1",
        "correlation_id": "c-1",
        "winner": "Essay B",
        "error_detail": None,
        "request_metadata": {"number": 1},
    },
}


def record(**changes: object) -> bytes:
    return json.dumps({**EVENT, "data": {**EVENT["data"], **changes}}).encode()  # type: ignore[dict-item]


def test_a_record_tells_whose_it_is() -> None:
    """The number leads back to the post, the queue id to its answer."""
    assert arrival("t", b"c-1", record(), 5.0) == Arrival("t", "c-1", record(), 5.0, 1, "q-1", "e-1", "c-1")


def test_an_error_event_tells_its_code() -> None:
    """An error is an answer too."""
    failed = record(winner=None, error_detail={"error_code": "TIMEOUT"})
    assert arrival("t", b"c-1", failed, 5.0).error_code == "TIMEOUT"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        record(winner=None),
        record(error_detail={"error_code": "TIMEOUT"}),
        record(request_metadata={}),
    ],
    ids=["nothing", "a list", "no data", "neither outcome", "both outcomes", "foreign metadata"],
)
def test_an_unreadable_record_belongs_to_nobody(value: bytes) -> None:
    """The account counts it as misdirected."""
    assert arrival("t", b"c-1", value, 5.0) == Arrival("t", "c-1", value, 5.0)


def test_neighbours_share_a_correlation_id() -> None:
    """It is never an idempotency key, and the storm must notice if it became one."""
    assert request(6).correlation_id == request(7).correlation_id != request(8).correlation_id


def test_a_post_names_its_request_to_the_provider_and_to_the_account() -> None:
    """The prompt travels to the provider, the metadata to the event."""
    posted = json.loads(body(request(12)))
    assert "id=req12 " in posted["user_prompt"]
    assert posted["metadata"] == {"number": 12}


# Keys and logs


def test_only_documented_keys_may_stay_for_ever() -> None:
    """docs/architecture.md names them."""
    documented = ["ledger:turns", "ledger:totals", "_kombu.binding.comparisons", "unacked_index", "ledger:open"]
    keys = [f"llm-provider:{name}" for name in documented]
    strays = ["llm-provider:request:1", "other", "llm-provider:ledger:stray"]
    assert undocumented([*keys, *strays]) == sorted(strays)


def test_only_what_is_louder_than_info_is_counted() -> None:
    """Numbers do not make two lines of one kind different."""
    lines = [
        '{"level": "info", "event": "request_accepted"}',
        '{"level": "warning", "event": "Retry in 2 s"}',
        '{"level": "warning", "event": "Retry in 4 s"}',
        '{"level": "error", "event": "sweep_broke", "error": "KeyError"}',
        "Traceback (most recent call last):",
        " -------------- celery@host",
    ]
    assert loud_lines(lines) == {
        ("warning", "Retry in # s"): 2,
        ("error", "sweep_broke (KeyError)"): 1,
        ("plain", "Traceback (most recent call last):"): 1,
    }


# Tables


def test_the_tables_tell_the_figures_of_an_account() -> None:
    """One fault of two seconds, recovered a second after its end; one event, no loss."""
    asked = Asked(4, "topic-b", "c-4", status=202, queue_id="q-4", answered_at=10.0, seconds=0.4)
    event = Arrival("topic-b", "c-4", b"bytes", 13.0, 4, "q-4", "e-4", "c-4")
    fault = Broken(Fault(0, FaultKind.REDIS_FREEZE, 0.0, 2.0), "redis-freeze", began=10.0, ended=12.0, note="a note")
    account = Account([asked], [event], broken=[fault])
    shown = Console(width=120, file=StringIO())
    shown.print(fault_table(account, begin=5.0), account_table(account))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"redis-freeze +5\.0 +2\.0 +1\.0 +0\.4 +a note", text)
    assert re.search(r"accepted \(202\) +1\b", text)
    assert re.search(r"lost +0\b", text)


# The provider


def test_a_share_of_the_calls_is_troubled_the_same_ones_every_time() -> None:
    """Which ones, the request's number decides."""
    server = Provider(Behaviour("500", share=0.4))
    troubled = [server.next_answer(Call(number, "worker-1", 0.0))[0] == "500" for number in range(500)]
    assert 0.3 < sum(troubled) / len(troubled) < 0.5
    assert troubled == [server.next_answer(Call(number, "worker-2", 9.0))[0] == "500" for number in range(500)]


def test_a_rate_limit_says_when_to_come_again() -> None:
    """As vendors do."""
    assert provider.answer("429").startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1\r\n" in provider.answer("429")


def test_a_cut_answer_is_shorter_than_it_says() -> None:
    """The connection breaks in the middle of the body."""
    head, _, rest = provider.answer(provider.CUT).partition(b"\r\n\r\n")
    assert 0 < len(rest) < int(head.rpartition(b"content-length: ")[2])


def test_an_invalid_answer_is_whole_and_no_json() -> None:
    """As long as it says, and unreadable."""
    head, _, rest = provider.answer(provider.INVALID).partition(b"\r\n\r\n")
    assert len(rest) == int(head.rpartition(b"content-length: ")[2])
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(rest)


def test_the_first_end_of_a_call_stands() -> None:
    """A caller that leaves after its answer did not abandon it."""
    call = Call(1, "worker-1", 0.0)
    call.end(1.0, "ok")
    call.end(2.0, provider.ABANDONED)
    assert (call.ended, call.how) == (1.0, "ok")
