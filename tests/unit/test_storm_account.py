"""The account of a storm: every broken promise is seen, and nothing else is called one."""

from dataclasses import replace

import pytest

from scripts.storms.account import Account, Arrival, Asked, Broken, Kill, Pause, ProviderCall, Repetitions
from scripts.storms.schedule import Fault, FaultKind

ACCEPTED = Asked(4, "topic-b", "c-4", status=202, queue_id="q-4", answered_at=10.0)
EVENT = Arrival("topic-b", "c-4", b"bytes", 12.0, 4, "q-4", "e-4", "c-4")
CALL = ProviderCall(4, "worker-1", begun=10.0, ended=11.0, how="ok")
AGAIN = replace(CALL, worker="worker-2", begun=20.0, ended=21.0)


def test_an_answered_request_breaks_no_promise() -> None:
    """One post, one call, one event."""
    assert Account([ACCEPTED], [EVENT], [CALL]).faults_of_the_service == []


def test_an_accepted_request_without_an_event_is_lost() -> None:
    """The first promise."""
    account = Account([ACCEPTED], [])
    assert account.lost == ["q-4"]
    assert "1 accepted and never answered by an event: q-4" in account.faults_of_the_service


@pytest.mark.parametrize("status", [0, 503])
def test_a_request_that_was_not_accepted_is_not_lost(status: int) -> None:
    """Its caller sends it again."""
    asked = replace(ACCEPTED, status=status, queue_id="")
    assert Account([asked], []).faults_of_the_service == []


@pytest.mark.parametrize("status", [0, 503])
def test_the_event_of_a_post_without_a_202_is_counted_apart(status: int) -> None:
    """It may have been accepted before the answer got lost; a 503 and no answer are told apart."""
    account = Account([replace(ACCEPTED, status=status, queue_id="")], [EVENT])
    assert account.faults_of_the_service == []
    assert (account.accepted_after(503), account.accepted_after(0)) == ((1, 0) if status else (0, 1))


def test_identical_copies_are_no_fault() -> None:
    """At least once on the wire: consumers drop the copy."""
    account = Account([ACCEPTED], [EVENT, replace(EVENT, at=15.0)])
    assert account.duplicates == 1
    assert account.faults_of_the_service == []


def test_copies_that_differ_are_a_fault() -> None:
    """A consumer could not tell which one holds."""
    account = Account([ACCEPTED], [EVENT, replace(EVENT, value=b"others")])
    assert account.differing == ["q-4"]
    assert account.faults_of_the_service


def test_two_events_under_one_id_are_a_fault() -> None:
    """A consumer would drop one of them for a copy; a failover that forgot a request could bring that about."""
    other = replace(ACCEPTED, number=5, queue_id="q-5")
    events = [EVENT, replace(EVENT, number=5, queue_id="q-5", value=b"others")]
    account = Account([ACCEPTED, other], events)
    assert account.ambiguous_ids == ["e-4"]
    assert account.faults_of_the_service


@pytest.mark.parametrize(
    "change",
    [
        {"topic": "topic-a"},
        {"key": "c-5"},
        {"correlation_id": "c-5"},
        {"number": 5},
        {"number": -1},
        {"event_id": ""},
    ],
    ids=str,
)
def test_an_event_that_belongs_nowhere_is_a_fault(change: dict[str, object]) -> None:
    """A wrong topic, key or request, or bytes that nobody can read."""
    wrong = replace(EVENT, **change)  # type: ignore[arg-type]
    assert Account([ACCEPTED], [wrong]).misdirected == [wrong]


def test_an_event_under_another_queue_id_than_the_answer_s_is_a_fault() -> None:
    """The same post accepted twice would be paid twice."""
    account = Account([ACCEPTED], [EVENT, replace(EVENT, queue_id="q-5")])
    assert len(account.misdirected) == 1


def test_a_second_call_without_a_kill_is_a_fault() -> None:
    """The second promise: nothing is paid twice."""
    account = Account([ACCEPTED], [EVENT], [CALL, AGAIN])
    assert account.repetitions == Repetitions(unexplained=[AGAIN])
    assert account.faults_of_the_service


@pytest.mark.parametrize("status", ["429", "500"])
def test_a_call_that_was_refused_may_be_made_again(status: str) -> None:
    """Nothing was billed for the first; an answer that came, broken or whole, is no such excuse."""
    account = Account([ACCEPTED], [EVENT], [replace(CALL, how=status), AGAIN])
    assert account.repetitions == Repetitions(after_refusals=[AGAIN])
    assert account.faults_of_the_service == []
    assert Account([ACCEPTED], [EVENT], [replace(CALL, how="cut"), AGAIN]).repetitions.unexplained == [AGAIN]


@pytest.mark.parametrize(
    ("kill", "explains"),
    [
        (Kill("worker-1", 10.5), True),
        (Kill("worker-1", 11.9), True),
        (Kill("worker-1", 12.1), False),
        (Kill("worker-1", 9.0), False),
        (Kill("worker-2", 10.5), False),
    ],
    ids=["in flight", "within the second after the answer", "long after it", "before it", "of another worker"],
)
def test_only_the_kill_that_cut_the_first_call_off_explains_the_second(kill: Kill, explains: bool) -> None:
    """A kill somewhere else at some other time is no excuse."""
    found = Account([ACCEPTED], [EVENT], [CALL, AGAIN], [kill]).repetitions
    assert (found.after_kills, found.unexplained) == (([AGAIN], []) if explains else ([], [AGAIN]))


@pytest.mark.parametrize(
    ("pause", "explains"),
    [
        (Pause("worker-1", 10.5, 23.0), True),
        (Pause("worker-1", 11.9, 23.0), True),
        (Pause("worker-2", 8.0, 19.6), True),
        (Pause("worker-1", 12.1, 23.0), False),
        (Pause("worker-1", 20.5, 33.0), False),
        (Pause("worker-2", 10.5, 18.0), False),
        (Pause("worker-3", 10.5, 23.0), False),
    ],
    ids=[
        "in flight",
        "within the second after the answer",
        "the second call is one that it was about to send",
        "long after the answer",
        "after the second call",
        "long over when the second call was made",
        "of another worker",
    ],
)
def test_only_a_pause_that_held_one_of_the_calls_explains_the_second(pause: Pause, explains: bool) -> None:
    """No vendor takes a fencing token: a worker that stands still for longer than a lease cannot be held back."""
    found = Account([ACCEPTED], [EVENT], [CALL, AGAIN], pauses=[pause]).repetitions
    assert (found.after_pauses, found.unexplained) == (([AGAIN], []) if explains else ([], [AGAIN]))


@pytest.mark.parametrize(
    ("kind", "explains"), [(FaultKind.REDIS_KILL, True), (FaultKind.KAFKA_KILL, False)], ids=["Redis", "Kafka"]
)
def test_an_answer_that_waits_for_redis_on_a_killed_worker_is_gone(kind: FaultKind, explains: bool) -> None:
    """It cannot be stored before Redis is back; without Kafka it can."""
    away = Broken(Fault(0, kind, 0.0, 5.0), kind, began=10.8, ended=15.0)
    kill = Kill("worker-1", 15.4)
    found = Account([ACCEPTED], [EVENT], [CALL, AGAIN], [kill], [away]).repetitions
    assert bool(found.after_kills) == explains


def test_a_call_that_never_ended_is_in_flight_for_ever() -> None:
    """A provider that hangs answers nobody."""
    hanging = replace(CALL, ended=None)
    found = Account([ACCEPTED], [EVENT], [hanging, AGAIN], [Kill("worker-1", 19.0)]).repetitions
    assert found.after_kills == [AGAIN]


def test_each_further_call_needs_a_kill_of_its_own() -> None:
    """The third call is explained by the end of the second, not by that of the first."""
    third = replace(AGAIN, begun=30.0, ended=31.0)
    account = Account([ACCEPTED], [EVENT], [CALL, AGAIN, third], [Kill("worker-1", 10.5)])
    assert account.repetitions == Repetitions(after_kills=[AGAIN], unexplained=[third])


def test_recovery_lasts_until_the_last_request_accepted_before_the_end_has_its_event() -> None:
    """What was accepted later has nothing to do with it."""
    late = Asked(5, "topic-c", "c-5", status=202, queue_id="q-5", answered_at=11.5)
    late_event = Arrival("topic-c", "c-5", b"bytes", 99.0, 5, "q-5", "e-5", "c-5")
    account = Account([ACCEPTED, late], [EVENT, late_event])
    assert account.seconds_to_recover(11.0) == pytest.approx(1.0)


def test_nothing_recovers_from_a_loss() -> None:
    """There is no number for it."""
    assert Account([ACCEPTED], []).seconds_to_recover(11.0) is None


def test_recovery_is_immediate_when_nothing_was_waiting() -> None:
    """A fault in a quiet moment."""
    assert Account([ACCEPTED], [EVENT]).seconds_to_recover(12.5) == 0.0


def test_the_slowest_post_of_a_fault_is_one_that_waited_during_it() -> None:
    """Others may have waited for something else."""
    posts = [
        replace(ACCEPTED, answered_at=at, seconds=seconds) for at, seconds in [(8.0, 9.0), (11.0, 3.0), (20.0, 4.0)]
    ]
    assert Account(posts, []).slowest_post(10.0, 12.0) == 3.0


@pytest.mark.parametrize(
    ("kind", "seconds", "is_held_up"),
    [
        (FaultKind.WEB_SLOW_CLIENTS, 6.0, True),
        (FaultKind.WEB_SLOW_CLIENTS, 4.0, False),
        (FaultKind.WEB_KILL, 6.0, False),
    ],
)
def test_a_post_that_slow_clients_hold_up_is_a_fault(kind: FaultKind, seconds: float, is_held_up: bool) -> None:
    """Whoever takes his time must cost nobody else any."""
    post = replace(ACCEPTED, answered_at=10.0 + seconds, seconds=seconds)
    account = Account([post], [EVENT], broken=[Broken(Fault(0, kind, 0.0, 5.0), kind, began=9.0, ended=14.0)])
    assert bool(account.held_up) == bool(account.faults_of_the_service) == is_held_up


@pytest.mark.parametrize(
    "more",
    [
        {"silences": [11.0]},
        {"deaths": ["worker-1 (exit code 1)"]},
        {"undocumented_keys": ["llm-provider:stray"]},
        {"open_at_end": 1},
    ],
    ids=str,
)
def test_what_is_silent_or_left_behind_is_a_fault(more: dict[str, object]) -> None:
    """A look at /healthz without an answer, a dead process, a key that stays for ever, a request that is owed."""
    account = Account([ACCEPTED], [EVENT], [CALL], **more)  # type: ignore[arg-type]
    assert len(account.faults_of_the_service) == 1
