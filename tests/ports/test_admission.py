"""What every admission control does, whatever it is kept in."""

import threading
from collections import Counter

import pytest
from redis import Redis

from llm_provider.adapters.memory_admission import MemoryAdmission
from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.admission import (
    DOUBLED_AFTER_SECONDS,
    FIRST_INVITED,
    FIRST_RATE,
    INVITED_AHEAD_SECONDS,
    LATENESS_SECONDS,
    LEARNED_WAIT_SECONDS,
    LOOK_AGAIN_EACH_SECONDS,
    LOOK_AGAIN_SECONDS,
    SLOWEST_RATE,
    TICKET_KEPT_SECONDS,
    Admission,
    AdmissionProtocol,
    BreakerState,
    BreakerView,
    CallHealth,
    CallReport,
    Obstacle,
    ProviderLoad,
    learned_rate,
)
from llm_provider.config import RateLimit, VendorSettings
from llm_provider.errors import AdmissionUnavailable
from scripts.local_servers import free_port
from tests.ports.admission_stage import (
    ANTHROPIC,
    BAD,
    GOOD,
    LONG,
    OPENAI,
    POLICY,
    SAME_PROVIDER,
    SHORT,
    UNKNOWN,
    Process,
    Stage,
    memory_stage,
    redis_stage,
)
from tests.ports.ledger_suite import at_once

# What passes between two steps of a test on a busy machine.
SLACK = 0.25


@pytest.fixture(params=["memory", "redis"])
def stage(request: pytest.FixtureRequest, key_prefix: str) -> Stage:
    if request.param == "memory":
        return memory_stage()
    return redis_stage(request.getfixturevalue("redis_client"), key_prefix)


def about(seconds: float) -> object:
    """So many seconds, less what has passed since they were counted from."""
    return pytest.approx(seconds - SLACK / 2, abs=SLACK / 2 + 0.002)


def obstacles(admissions: list[Admission]) -> Counter[Obstacle | None]:
    return Counter(admission.obstacle for admission in admissions)


# --- the breaker


def test_without_failures_and_limits_every_call_is_admitted(stage: Stage) -> None:
    """At once, and with nothing to probe."""
    process = stage.process()
    assert {process.call(GOOD) for _ in range(20)} == {Admission(has_turn=True)}
    assert process.view == BreakerView(BreakerState.CLOSED)


def test_failures_in_a_row_open_the_breaker_for_every_process(stage: Stage) -> None:
    """Whoever asks is told how long the provider is left alone; another provider is not concerned."""
    one, other = stage.process(), stage.process()
    for process in (one, other, one):
        assert other.view.state is BreakerState.CLOSED
        process.call(BAD)
    told = other.ask()
    assert told == Admission(Obstacle.CIRCUIT_OPEN, told.wait_seconds)
    assert told.wait_seconds == about(SHORT)
    assert (other.view.state, other.view.failures) == (BreakerState.OPEN, 3)
    assert other.view.retry_in_seconds == about(SHORT)
    assert other.ask(target=ANTHROPIC).obstacle is None


def test_a_good_call_begins_the_count_anew(stage: Stage) -> None:
    """Only failures in a row count; what tells nothing neither counts nor breaks the row."""
    process = stage.process()
    for health in (BAD, BAD, GOOD, BAD, UNKNOWN, BAD):
        process.call(health)
    assert process.view == BreakerView(BreakerState.CLOSED, failures=2)
    process.call(BAD)
    assert process.view.state is BreakerState.OPEN


def test_a_turn_survives_an_open_breaker(stage: Stage) -> None:
    """Who has reserved one is told so, to say it again."""
    process = stage.process()
    process.break_circuit()
    assert process.ask(has_turn=True).has_turn
    assert not process.ask(has_turn=False).has_turn


def test_half_open_lets_exactly_one_probe_through(stage: Stage) -> None:
    """Of forty threads in two processes; the others are told to come back in about a second."""
    one = stage.half_open()
    processes = [one, stage.process()]
    assert one.view == BreakerView(BreakerState.HALF_OPEN, failures=3)
    told = at_once(40, lambda number: processes[number % 2].ask(f"asks-{number}"))
    assert obstacles(told) == {None: 1, Obstacle.CIRCUIT_OPEN: 39}
    assert [admission.is_probe for admission in told if admission.obstacle is None] == [True]
    assert all(0.7 < admission.wait_seconds < 1.3 for admission in told if admission.obstacle)


def test_as_many_good_probes_as_the_policy_says_close_the_breaker(stage: Stage) -> None:
    """One after another; then calls go on side by side, and the count of failures begins anew."""
    process = stage.half_open()
    for _ in range(POLICY.successes):
        assert process.view.state is BreakerState.HALF_OPEN
        assert process.call(GOOD).is_probe
    assert process.view == BreakerView(BreakerState.CLOSED)
    assert not any(admission.is_probe for admission in [process.ask(), process.ask()])


def test_a_bad_probe_opens_the_breaker_again(stage: Stage) -> None:
    """For the whole time; and good probes of before do not count any more."""
    process = stage.half_open()
    process.call(GOOD)
    process.call(BAD)
    assert process.ask().wait_seconds == about(SHORT)
    stage.wait(SHORT)
    process.call(GOOD)
    assert process.view.state is BreakerState.HALF_OPEN


def test_a_probe_that_tells_nothing_is_given_back(stage: Stage) -> None:
    """The next caller probes at once."""
    process = stage.half_open()
    process.call(UNKNOWN)
    assert process.view.state is BreakerState.HALF_OPEN
    assert process.ask().is_probe


def test_a_probe_given_up_is_free_for_the_next(stage: Stage) -> None:
    """Who leaves keeps nobody waiting."""
    process = stage.half_open()
    process.admission.leave(OPENAI, process.begin())
    assert process.ask().is_probe


def test_the_same_call_may_ask_for_its_probe_again(stage: Stage) -> None:
    """A request taken up from a dead worker goes on as the probe that it was."""
    one, other = stage.half_open(), stage.process()
    call_id = one.begin()
    assert other.ask().obstacle is Obstacle.CIRCUIT_OPEN
    assert other.ask(call_id).is_probe


def test_the_probe_of_a_dead_process_lapses_after_a_lease(stage: Stage) -> None:
    """Until then nobody else probes."""
    dead, alive = stage.half_open(lease_seconds=SHORT), stage.process(lease_seconds=SHORT)
    dead.begin()
    assert alive.ask().obstacle is Obstacle.CIRCUIT_OPEN
    stage.wait(SHORT)
    assert alive.ask().is_probe


def test_a_living_process_keeps_its_probe(stage: Stage) -> None:
    """However long the call takes, as it renews."""
    process = stage.half_open(lease_seconds=SHORT)
    process.begin()
    for _ in range(6):
        stage.wait(SHORT / 4)
        process.admission.renew()
    assert process.ask().obstacle is Obstacle.CIRCUIT_OPEN


def test_the_late_result_of_a_lapsed_probe_tells_nothing(stage: Stage) -> None:
    """Another one probes by then, and its result counts; nor does a late one count when the breaker has closed."""
    process, other = stage.half_open(lease_seconds=SHORT), stage.process()
    late = process.begin()
    stage.wait(SHORT)
    probe = other.begin()
    process.settle(late, BAD, is_probe=True)
    assert other.view.state is BreakerState.HALF_OPEN
    assert other.ask().obstacle is Obstacle.CIRCUIT_OPEN
    other.settle(probe, GOOD, is_probe=True)
    assert other.call(GOOD).is_probe
    other.settle(late, BAD, is_probe=True)
    assert other.view == BreakerView(BreakerState.CLOSED)


@pytest.mark.parametrize("health", [GOOD, BAD])
def test_calls_from_before_it_opened_neither_prolong_nor_close_it(stage: Stage, health: CallHealth) -> None:
    """Not while it is open, not while it is half-open, and not after it has closed again."""
    process = stage.process()
    early = [process.begin() for _ in range(3 * POLICY.failures)]
    process.break_circuit()
    stage.wait(SHORT / 2)
    for call_id in early[: POLICY.failures]:
        process.settle(call_id, health)
    assert process.ask().wait_seconds == about(SHORT / 2)
    stage.wait(SHORT / 2)
    for call_id in early[POLICY.failures : -POLICY.failures]:
        process.settle(call_id, health)
    for _ in range(POLICY.successes):
        assert process.call(GOOD).is_probe
    process.call(BAD)
    for call_id in early[-POLICY.failures :]:
        process.settle(call_id, health)
    assert process.view == BreakerView(BreakerState.CLOSED, failures=1)


def test_a_call_that_went_on_without_admission_counts_while_the_breaker_is_closed(stage: Stage) -> None:
    """Redis was away when it began, and is back when it ends."""
    process = stage.process()
    for number in range(POLICY.failures):
        process.settle(f"never-asked-{number}", BAD)
    assert process.view.state is BreakerState.OPEN
    process.settle("never-asked", GOOD)
    assert process.view.state is BreakerState.OPEN


def test_a_call_that_has_to_wait_for_a_limit_takes_no_probe(stage: Stage) -> None:
    """Else it would keep others from probing while nothing is sent."""
    free, limited = stage.process(), stage.process(requests_per_minute=60)
    limited.begin()
    free.break_circuit()
    stage.wait(SHORT)
    assert limited.ask(patience_seconds=0).obstacle is Obstacle.RATE_LIMIT
    assert free.ask().is_probe


def test_a_call_that_has_to_wait_for_a_slot_takes_no_probe(stage: Stage) -> None:
    """Likewise."""
    free, limited = stage.process(), stage.process(max_concurrent_calls=1)
    limited.begin()
    free.break_circuit()
    stage.wait(SHORT)
    assert limited.ask().obstacle is Obstacle.CONCURRENCY
    assert free.ask().is_probe


# --- the rate limits


def test_requests_are_spread_evenly_after_a_small_burst(stage: Stage) -> None:
    """A second's worth at once, then one each tenth of a second, in the order of asking, whichever process asks."""
    processes = [stage.process(requests_per_minute=600), stage.process(requests_per_minute=600)]
    told = [processes[number % 2].ask() for number in range(40)]
    assert obstacles(told[:10]) == {None: 10}
    waits = [admission.wait_seconds for admission in told if admission.obstacle]
    assert len(waits) >= 40 - 10 - SLACK * 10
    assert waits[-1] == about(3.0)
    assert waits == sorted(waits)
    assert all(admission.has_turn for admission in told)


def test_who_has_a_turn_is_not_charged_again(stage: Stage) -> None:
    """It goes on when its time has come, and the turns of others stay where they were."""
    process = stage.process(requests_per_minute=60)
    process.ask("first")
    told = process.ask("second")
    assert told == Admission(Obstacle.RATE_LIMIT, told.wait_seconds, has_turn=True)
    assert told.wait_seconds == about(1.0)
    stage.wait(told.wait_seconds)
    assert process.ask("second", has_turn=True).obstacle is None
    assert process.ask("third").wait_seconds == about(1.0)


def test_a_turn_beyond_the_patience_is_not_reserved(stage: Stage) -> None:
    """The caller learns the wait, and nobody waits behind somebody who has gone."""
    process = stage.process(requests_per_minute=60)
    process.ask()
    for _ in range(3):
        told = process.ask(patience_seconds=0.1)
        assert told == Admission(Obstacle.RATE_LIMIT, told.wait_seconds, has_turn=False)
        assert told.wait_seconds == about(1.0)
    assert process.ask(patience_seconds=1.0).has_turn


def test_requests_and_tokens_are_reserved_together_or_not_at_all(stage: Stage) -> None:
    """A call that the tokens refuse takes no request, and the other way round."""
    process = stage.process(requests_per_minute=60, tokens_per_minute=60_000)
    assert process.ask(tokens=1000).obstacle is None
    assert process.ask(tokens=1000, patience_seconds=0).wait_seconds == about(1.0)
    assert process.ask(tokens=1, patience_seconds=0).wait_seconds == about(1.0)
    assert process.ask(tokens=1000).wait_seconds == about(1.0)
    assert process.ask(tokens=1000).wait_seconds == about(2.0)


def test_tokens_are_limited_without_a_limit_on_requests(stage: Stage) -> None:
    """Small calls pass side by side while the account lasts."""
    process = stage.process(tokens_per_minute=60_000)
    assert obstacles([process.ask(tokens=100) for _ in range(10)]) == {None: 10}
    assert process.ask(tokens=1000).wait_seconds == about(1.0)


def test_a_call_larger_than_the_limit_passes_and_leaves_a_debt(stage: Stage) -> None:
    """It would else wait for ever; those behind it wait for what it took."""
    process = stage.process(tokens_per_minute=6000)
    assert process.ask(tokens=10_000).obstacle is None
    assert process.ask(tokens=10_000).wait_seconds == about(100.0)
    assert process.ask(tokens=1).wait_seconds == about(199.0 + 0.01)


def test_the_tokens_really_used_correct_the_account(stage: Stage) -> None:
    """Both ways: what was not used comes back, what was used beyond it is missing."""
    process = stage.process(tokens_per_minute=60_000)
    thrifty, wasteful = process.ids(), process.ids()
    process.ask(thrifty, tokens=5000)
    process.settle(thrifty, GOOD, tokens_beyond_estimate=-4000)
    assert process.ask(tokens=1000, patience_seconds=0).wait_seconds == about(1.0)
    process.settle(wasteful, GOOD, tokens_beyond_estimate=3000)
    assert process.ask(tokens=1000, patience_seconds=0).wait_seconds == about(4.0)


def test_what_is_given_back_makes_no_account_fuller_than_full(stage: Stage) -> None:
    """Estimates that were far too high do not add up to a burst."""
    process = stage.process(tokens_per_minute=60_000)
    for _ in range(5):
        process.settle(process.ids(), GOOD, tokens_beyond_estimate=-50_000)
    process.ask(tokens=1000)
    assert process.ask(tokens=1000).wait_seconds == about(1.0)


def test_each_model_has_a_limit_of_its_own(stage: Stage) -> None:
    """The vendor counts them apart, and so do we; one may have another limit than the others."""
    other = RateLimit(requests_per_minute=1)
    process = stage.process(requests_per_minute=60, model_limits={SAME_PROVIDER.model: other})
    process.ask()
    assert process.ask(target=SAME_PROVIDER).obstacle is None
    assert process.ask().wait_seconds == about(1.0)
    assert process.ask(target=SAME_PROVIDER).wait_seconds == about(60.0)


# --- a vendor that asks to be left alone


def test_a_held_model_is_left_alone_by_everybody(stage: Stage) -> None:
    """Also without a limit, and with a turn; what waits is spread behind the hold. Other models are not concerned."""
    one, early, late = stage.process(), stage.process(chance=0.0), stage.process(chance=1.0)
    one.call(UNKNOWN, hold_seconds=20.0)
    assert early.ask().obstacle is Obstacle.VENDOR_HOLD
    assert early.ask().wait_seconds == about(20.0)
    assert late.ask().wait_seconds == about(24.0)
    assert (early.ask().has_turn, early.ask(has_turn=True).has_turn) == (False, True)
    assert early.ask(has_turn=True).wait_seconds == about(20.0)
    assert early.ask(target=SAME_PROVIDER).obstacle is None


def test_a_hold_ends_by_itself(stage: Stage) -> None:
    """No call is needed to end it."""
    process = stage.process()
    process.call(UNKNOWN, hold_seconds=SHORT)
    assert process.ask().obstacle is Obstacle.VENDOR_HOLD
    stage.wait(SHORT)
    assert process.ask().obstacle is None
    assert process.admission.load(OPENAI.provider).held_models == {}


def test_turns_behind_a_hold_come_at_the_pace_of_the_limit(stage: Stage) -> None:
    """The first when it ends, without a burst."""
    process = stage.process(requests_per_minute=600, tokens_per_minute=60_000_000)
    process.call(UNKNOWN, hold_seconds=20.0)
    told = [process.ask() for _ in range(30)]
    assert told[0].wait_seconds == about(20.0)
    assert told[-1].wait_seconds == about(22.9)
    assert {admission.obstacle for admission in told} == {Obstacle.VENDOR_HOLD}
    assert all(admission.has_turn for admission in told)
    assert process.ask(patience_seconds=5).has_turn is False


def test_two_holds_do_not_add_up(stage: Stage) -> None:
    """Ten calls that are turned away at once ask for one pause; the one that ends last counts."""
    process = stage.process(chance=0.0)
    calls = [process.begin() for _ in range(4)]
    for call_id, hold in zip(calls, (10.0, 20.0, 20.0, 5.0), strict=True):
        process.settle(call_id, UNKNOWN, hold_seconds=hold)
    assert process.ask().wait_seconds == about(20.0)


def test_everybody_sees_what_is_held(stage: Stage) -> None:
    """By model, with the seconds that are left of the longest wish; other providers have their own."""
    one, other = stage.process(), stage.process(requests_per_minute=600)
    one.call(UNKNOWN, hold_seconds=20.0)
    one.call(UNKNOWN, SAME_PROVIDER, hold_seconds=5.0)
    assert other.admission.load(OPENAI.provider).held_models == {
        OPENAI.model: about(20.0),
        SAME_PROVIDER.model: about(5.0),
    }
    assert other.admission.load(ANTHROPIC.provider).held_models == {}


def test_an_operator_can_release_a_provider(stage: Stage) -> None:
    """Its circuit is closed and its models may be called at once; other providers keep what they have."""
    one, other = stage.process(), stage.process(requests_per_minute=600)
    one.call(UNKNOWN, hold_seconds=20.0)
    one.call(UNKNOWN, ANTHROPIC, hold_seconds=20.0)
    one.break_circuit(SAME_PROVIDER)
    assert other.ask().obstacle is Obstacle.CIRCUIT_OPEN
    other.admission.release(OPENAI.provider)
    assert one.view == BreakerView()
    assert one.ask().obstacle is None
    assert other.ask().obstacle is None
    assert one.admission.load(OPENAI.provider).held_models == {}
    assert one.ask(target=ANTHROPIC).obstacle is Obstacle.VENDOR_HOLD
    one.call(BAD)
    assert one.view.failures == 1


def test_releasing_what_is_not_held_is_nothing(stage: Stage) -> None:
    """An operator may be too late, or type it twice."""
    process = stage.process()
    process.admission.release(OPENAI.provider)
    process.admission.release(OPENAI.provider)
    assert process.ask().obstacle is None


# --- concurrent calls


def test_no_more_calls_run_at_once_than_the_limit_says(stage: Stage) -> None:
    """Of all models of a provider together, in all processes; whoever ends makes room."""
    processes = [stage.process(max_concurrent_calls=2), stage.process(max_concurrent_calls=2)]
    first = processes[0].begin()
    processes[1].begin(SAME_PROVIDER)
    told = processes[1].ask("waits")
    assert told == Admission(Obstacle.CONCURRENCY, told.wait_seconds, has_turn=True)
    assert 0.04 < told.wait_seconds <= 1.0
    assert processes[0].ask(target=ANTHROPIC).obstacle is None
    processes[0].settle(first, GOOD)
    assert processes[1].ask("waits").obstacle is None
    assert processes[0].ask().obstacle is Obstacle.CONCURRENCY


def test_many_threads_get_exactly_as_many_places_as_there_are(stage: Stage) -> None:
    """Forty threads of two processes ask for ten."""
    processes = [stage.process(max_concurrent_calls=10), stage.process(max_concurrent_calls=10)]
    told = at_once(40, lambda number: processes[number % 2].ask(f"asks-{number}"))
    assert obstacles(told) == {None: 10, Obstacle.CONCURRENCY: 30}


def test_a_place_goes_to_whoever_asked_first(stage: Stage) -> None:
    """Not to who comes by when it gets free; the further behind, the longer the suggested wait."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    waits = [process.ask(f"asks-{number}").wait_seconds for number in range(12)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (about_exactly(0.05), about_exactly(1.0))
    process.settle(running, GOOD)
    assert process.ask("comes-by").obstacle is Obstacle.CONCURRENCY
    assert process.ask("asks-1").obstacle is Obstacle.CONCURRENCY
    assert process.ask("asks-0").obstacle is None


def about_exactly(seconds: float) -> object:
    """Redis counts in milliseconds."""
    return pytest.approx(seconds, abs=0.0011)


def test_several_free_places_are_kept_for_as_many_heads_of_the_line(stage: Stage) -> None:
    """The second one need not wait for the first one to come back."""
    process = stage.process(max_concurrent_calls=2)
    running = [process.begin(), process.begin()]
    for number in range(3):
        process.ask(f"asks-{number}")
    for call_id in running:
        process.settle(call_id, GOOD)
    assert process.ask("asks-2").obstacle is Obstacle.CONCURRENCY
    assert process.ask("asks-1").obstacle is None
    assert process.ask("asks-0").obstacle is None


def test_who_does_not_come_back_in_time_keeps_nobody_waiting(stage: Stage) -> None:
    """It may be dead, or wait elsewhere; when it does come back it is before those who asked later."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    process.ask("away")
    stage.wait(0.05 + LATENESS_SECONDS)
    process.ask("second")
    process.ask("third")
    process.settle(running, GOOD)
    assert process.ask("second").obstacle is None
    assert process.ask("away").obstacle is Obstacle.CONCURRENCY
    process.settle("second", GOOD)
    assert process.ask("third").obstacle is Obstacle.CONCURRENCY
    assert process.ask("away").obstacle is None


def test_who_leaves_the_line_keeps_nobody_waiting(stage: Stage) -> None:
    """At once; and when it asks again, it is behind those who stayed."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    process.ask("leaves")
    process.ask("stays")
    process.admission.leave(OPENAI, "leaves")
    process.ask("leaves")
    process.settle(running, GOOD)
    assert process.ask("leaves").obstacle is Obstacle.CONCURRENCY
    assert process.ask("stays").obstacle is None


def test_who_leaves_gives_back_its_slot(stage: Stage) -> None:
    """A call that was admitted and is not made after all."""
    process = stage.process(max_concurrent_calls=1)
    process.admission.leave(OPENAI, process.begin())
    assert process.ask().obstacle is None


def test_the_same_call_holds_one_place_however_often_it_asks(stage: Stage) -> None:
    """A request taken up from a dead worker goes on in the place that it has."""
    one, other = stage.process(max_concurrent_calls=2), stage.process(max_concurrent_calls=2)
    call_id = one.begin()
    assert other.ask(call_id).obstacle is None
    assert other.ask().obstacle is None
    assert other.ask(call_id).obstacle is None
    assert other.ask().obstacle is Obstacle.CONCURRENCY


def test_the_places_of_a_dead_process_come_back_after_a_lease(stage: Stage) -> None:
    """Those of a living one stay its own, however long its calls take."""
    terms = {"max_concurrent_calls": 2, "lease_seconds": SHORT}
    dead, alive = stage.process(**terms), stage.process(**terms)
    dead.begin()
    alive.begin()
    for _ in range(3):
        assert alive.ask("waits").obstacle is Obstacle.CONCURRENCY
        stage.wait(SHORT / 4)
        alive.admission.renew()
    stage.wait(SHORT / 3)
    alive.admission.renew()
    assert alive.ask("waits").obstacle is None
    assert alive.ask().obstacle is Obstacle.CONCURRENCY


def test_a_lapsed_place_is_taken_again_by_the_call_that_still_runs(stage: Stage) -> None:
    """Redis, or the process, stood still for longer than a lease."""
    process = stage.process(max_concurrent_calls=1, lease_seconds=SHORT)
    call_id = process.begin()
    stage.wait(SHORT)
    process.admission.renew()
    assert process.ask("waits").obstacle is Obstacle.CONCURRENCY
    process.settle(call_id, GOOD)
    assert process.ask("waits").obstacle is None


def test_calls_that_end_while_leases_are_renewed_leave_no_place_taken(stage: Stage) -> None:
    """Nobody would renew it, but it would be missing for a lease."""
    process, over = stage.process(max_concurrent_calls=8), threading.Event()

    def run(number: int) -> None:
        while number == 0 and not over.is_set():
            process.admission.renew()
        for _ in range(60 if number else 0):
            call_id = process.ids()
            if process.ask(call_id).obstacle is None:
                process.settle(call_id, GOOD)
            else:
                process.admission.leave(OPENAI, call_id)
        if number == 1:
            over.set()

    at_once(9, run)
    assert obstacles([process.ask() for _ in range(8)]) == {None: 8}


def test_who_waits_for_a_slot_has_had_its_turn(stage: Stage) -> None:
    """The rate limits are passed first, and not charged again with each look at the slots."""
    process = stage.process(max_concurrent_calls=1, requests_per_minute=120)
    running = process.begin()
    told = process.ask("waits")
    assert (told.obstacle, told.has_turn) == (Obstacle.CONCURRENCY, True)
    for _ in range(5):
        told = process.ask("waits", has_turn=told.has_turn)
        assert told.obstacle is Obstacle.CONCURRENCY
    process.settle(running, GOOD)
    assert process.ask("waits", has_turn=True).obstacle is None
    assert process.ask().wait_seconds == about(0.5)


# --- who sleeps until it is invited


def test_who_sleeps_is_invited_as_soon_as_a_place_is_free(stage: Stage) -> None:
    """By whoever makes room, in the order of asking, one for each place, which is kept for it."""
    one, other = stage.process(max_concurrent_calls=2), stage.process(max_concurrent_calls=2)
    running = [one.begin(), one.begin()]
    told = [other.ask(f"sleeps-{number}", can_sleep=True) for number in range(3)]
    assert [(each.obstacle, each.sleeps) for each in told] == [(Obstacle.CONCURRENCY, True)] * 3
    waits = [each.wait_seconds for each in told]
    assert waits == [about_exactly(LOOK_AGAIN_SECONDS + LOOK_AGAIN_EACH_SECONDS * before) for before in range(3)]
    assert one.settle(running[0], GOOD) == ["sleeps-0"]
    assert one.ask("comes-by", can_sleep=True).sleeps
    assert one.settle(running[1], GOOD) == ["sleeps-1"]
    assert other.ask("sleeps-0", can_sleep=True).obstacle is None
    assert other.ask("sleeps-1", can_sleep=True).obstacle is None
    assert one.settle("sleeps-0", GOOD) == ["sleeps-2"]
    assert one.settle("sleeps-1", GOOD) == ["comes-by"]


def test_a_place_is_kept_for_who_was_invited_for_a_moment(stage: Stage) -> None:
    """Its message takes its time, or has got lost: then it is the ledger that sends it again."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    for name in ("late", "second"):
        process.ask(name, can_sleep=True)
    assert process.settle(running, GOOD) == ["late"]
    assert process.admission.invite_next(OPENAI.provider) == []
    assert process.ask("second", can_sleep=True).sleeps
    stage.end_invitations()
    assert process.admission.invite_next(OPENAI.provider) == ["second"]
    assert process.ask("late", can_sleep=True).obstacle is None


def test_who_comes_late_still_stands_before_those_behind_it(stage: Stage) -> None:
    """Whoever was invited in its stead has the place, and it has the next one."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    for name in ("late", "second", "third"):
        process.ask(name, can_sleep=True)
    process.settle(running, GOOD)
    stage.end_invitations()
    process.admission.invite_next(OPENAI.provider)
    assert process.ask("second", can_sleep=True).obstacle is None
    assert process.ask("late", can_sleep=True).sleeps
    assert process.settle("second", GOOD) == ["late"]


def test_nobody_waits_for_guests_that_do_not_come(stage: Stage) -> None:
    """Their workers are dead, or busy with another provider: whoever is there has the places."""
    process = stage.process(max_concurrent_calls=2)
    running = [process.begin(), process.begin()]
    for number in range(5):
        process.ask(f"sleeps-{number}", can_sleep=True)
    for call_id in running:
        process.settle(call_id, GOOD)
    assert process.ask("is-there").obstacle is Obstacle.CONCURRENCY
    process.admission.leave(OPENAI, "is-there")
    stage.end_invitations()
    assert obstacles([process.ask() for _ in range(3)]) == {None: 2, Obstacle.CONCURRENCY: 1}


def test_who_is_invited_and_meets_a_hold_lets_the_next_one_come(stage: Stage) -> None:
    """Its place would be of no use while the vendor wants its model left alone."""
    process = stage.process(max_concurrent_calls=1, chance=0.0)
    running, refused = process.begin(), process.ids()
    for name in ("held", "held-too"):
        process.ask(name, can_sleep=True)
    process.ask("other-model", SAME_PROVIDER, can_sleep=True)
    process.settle(refused, UNKNOWN, hold_seconds=20.0)
    assert process.settle(running, GOOD) == ["held"]
    told = process.ask("held", has_turn=True, can_sleep=True)
    assert (told.obstacle, told.invited) == (Obstacle.VENDOR_HOLD, ("held-too",))
    assert process.ask("held-too", has_turn=True, can_sleep=True).invited == ("other-model",)
    assert process.ask("other-model", SAME_PROVIDER, can_sleep=True).obstacle is None


def test_who_is_asleep_and_who_is_awake_stand_in_one_line(stage: Stage) -> None:
    """Whoever asked first has the place, whether it is invited or comes by itself."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    assert process.ask("awake").obstacle is Obstacle.CONCURRENCY
    assert process.ask("asleep", can_sleep=True).sleeps
    assert process.settle(running, GOOD) == []
    assert process.ask("awake").obstacle is None
    assert process.settle("awake", GOOD) == ["asleep"]


def test_who_asks_finds_others_to_be_invited(stage: Stage) -> None:
    """A place that lapsed, with its process, belongs to the head of the line."""
    terms = {"max_concurrent_calls": 1, "lease_seconds": SHORT}
    dead, alive = stage.process(**terms), stage.process(**terms)
    dead.begin()
    alive.ask("sleeps", can_sleep=True)
    stage.wait(SHORT)
    told = alive.ask("comes-by", can_sleep=True)
    assert (told.sleeps, told.invited) == (True, ("sleeps",))
    assert alive.ask("sleeps", can_sleep=True).obstacle is None


def test_who_sleeps_gives_up_when_its_time_ends(stage: Stage) -> None:
    """It will not come any more, so that nobody waits behind it."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    process.ask("expires", can_sleep=True, patience_seconds=SHORT)
    process.ask("stays", can_sleep=True)
    assert process.admission.load(OPENAI.provider).waiting == 2
    stage.wait(SHORT)
    assert process.admission.load(OPENAI.provider).waiting == 1
    assert process.settle(running, GOOD) == ["stays"]


def test_who_leaves_makes_room_for_the_next(stage: Stage) -> None:
    """Also with the place that was kept for it."""
    process = stage.process(max_concurrent_calls=1)
    running = process.begin()
    process.ask("leaves", can_sleep=True)
    process.ask("stays", can_sleep=True)
    process.settle(running, GOOD)
    assert process.admission.leave(OPENAI, "leaves") == ["stays"]


def test_an_open_circuit_is_slept_through(stage: Stage) -> None:
    """Then one is invited to probe, the next when that went well, and all when it is closed."""
    process = stage.process()
    process.break_circuit()
    told = process.ask("first", can_sleep=True)
    assert (told.obstacle, told.sleeps) == (Obstacle.CIRCUIT_OPEN, True)
    assert told.wait_seconds == about(SHORT + LOOK_AGAIN_SECONDS)
    for name in ("second", "third", "fourth"):
        process.ask(name, can_sleep=True)
    assert process.admission.invite_next(OPENAI.provider) == []
    stage.wait(SHORT)
    assert process.admission.invite_next(OPENAI.provider) == ["first"]
    assert process.admission.invite_next(OPENAI.provider) == []
    assert process.ask("first", can_sleep=True).is_probe
    assert process.ask("comes-by", can_sleep=True).sleeps
    assert process.settle("first", GOOD, is_probe=True) == ["second"]
    assert process.ask("second", can_sleep=True).is_probe
    assert process.settle("second", GOOD, is_probe=True) == ["third", "fourth", "comes-by"]
    assert process.admission.invite_next(OPENAI.provider) == []


def test_a_circuit_that_opens_again_invites_nobody(stage: Stage) -> None:
    """Whoever waits goes on waiting."""
    process = stage.process()
    process.break_circuit()
    for name in ("first", "second"):
        process.ask(name, can_sleep=True)
    stage.wait(SHORT)
    process.admission.invite_next(OPENAI.provider)
    process.ask("first", can_sleep=True)
    assert process.settle("first", BAD, is_probe=True) == []
    assert process.admission.invite_next(OPENAI.provider) == []


def test_who_has_no_time_for_an_open_circuit_is_told_so(stage: Stage) -> None:
    """It would sleep for nothing."""
    process = stage.process()
    process.break_circuit()
    told = process.ask("hurries", can_sleep=True, patience_seconds=SHORT / 4)
    assert (told.obstacle, told.sleeps) == (Obstacle.CIRCUIT_OPEN, False)
    assert told.wait_seconds == about(SHORT)


def test_behind_a_closed_circuit_they_come_slowly_first(stage: Stage) -> None:
    """Five in the first second, and twice as many in each further one; nobody is invited twice."""
    process = stage.process()
    process.break_circuit()
    for number in range(60):
        process.ask(f"sleeps-{number:02}", can_sleep=True)
    process.admission.release(OPENAI.provider)
    invited = [*process.admission.invite_next(OPENAI.provider)]
    first = len(invited)
    for _ in range(40):
        stage.wait(0.1)
        invited += process.admission.invite_next(OPENAI.provider)
        if len(invited) == 60:
            break
    assert first == FIRST_INVITED
    assert invited == [f"sleeps-{number:02}" for number in range(60)]


@pytest.mark.parametrize(("limit", "first"), [(2, 2), (50, FIRST_INVITED)])
def test_behind_a_closed_circuit_places_are_limited_all_the_same(stage: Stage, limit: int, first: int) -> None:
    """As many are invited as there are places, and no more than without a limit."""
    process = stage.process(max_concurrent_calls=limit)
    process.break_circuit()
    for number in range(8):
        process.ask(f"sleeps-{number}", can_sleep=True)
    process.admission.release(OPENAI.provider)
    assert process.admission.invite_next(OPENAI.provider) == [f"sleeps-{number}" for number in range(first)]
    assert process.admission.invite_next(OPENAI.provider) == []


def test_while_all_places_are_taken_nobody_is_invited_to_probe(stage: Stage) -> None:
    """It could not, and would be invited again and again."""
    process = stage.process(max_concurrent_calls=1)
    process.begin()
    process.break_circuit_by_others()
    process.ask("sleeps", can_sleep=True)
    stage.wait(SHORT)
    assert process.admission.invite_next(OPENAI.provider) == []
    told = process.ask("sleeps", can_sleep=True)
    assert (told.obstacle, told.sleeps, told.invited) == (Obstacle.CONCURRENCY, True, ())


def test_slowly_first_ends_with_as_many_as_there_are_places(stage: Stage) -> None:
    """A circuit that closed long ago is no reason to come slowly whenever places get free."""
    process = stage.process(max_concurrent_calls=FIRST_INVITED + 1)
    process.break_circuit()
    for number in range(4 * FIRST_INVITED):
        process.ask(f"sleeps-{number:02}", can_sleep=True)
    process.admission.release(OPENAI.provider)
    assert len(process.admission.invite_next(OPENAI.provider)) == FIRST_INVITED
    stage.wait(1.1)
    assert len(process.admission.invite_next(OPENAI.provider)) == 1
    # So long after its last second a slow start would begin anew.
    stage.wait(11)
    assert len(process.admission.invite_next(OPENAI.provider)) == FIRST_INVITED + 1


def test_a_process_without_a_limit_invites_nobody_to_the_places_of_others(stage: Stage) -> None:
    """As while a limit is introduced, process by process."""
    limited, unlimited = stage.process(max_concurrent_calls=1), stage.process()
    limited.begin()
    for number in range(3):
        limited.ask(f"sleeps-{number}", can_sleep=True)
    assert unlimited.admission.invite_next(OPENAI.provider) == []
    running = unlimited.begin()
    assert unlimited.settle(running, GOOD) == []
    assert limited.admission.load(OPENAI.provider).waiting == 3


def test_a_forgotten_call_is_not_renewed(stage: Stage) -> None:
    """Nobody could be told that it is over, so its place lapses."""
    terms = {"max_concurrent_calls": 1, "lease_seconds": SHORT}
    process = stage.process(**terms)
    process.admission.forget(process.begin())
    process.admission.renew()
    stage.wait(SHORT)
    assert process.ask().obstacle is None


def test_the_load_of_a_provider_is_seen_by_all(stage: Stage) -> None:
    """What runs, or is about to, and what waits to be invited; of other providers nothing."""
    one, other = stage.process(max_concurrent_calls=1), stage.process(max_concurrent_calls=1)
    one.begin()
    for number in range(3):
        one.ask(f"sleeps-{number}", can_sleep=True)
    assert other.admission.load(OPENAI.provider) == ProviderLoad(running=1, waiting=3)
    assert other.admission.load(ANTHROPIC.provider) == ProviderLoad()


# --- who is late for its turn


def test_turns_that_come_late_together_pass_one_after_the_other(stage: Stage) -> None:
    """Their workers were dead, or the circuit was open; the limit holds over any stretch of time."""
    process = stage.process(requests_per_minute=600)
    reserved = [name for name in (f"late-{number}" for number in range(30)) if process.ask(name).obstacle]
    stage.wait(3.5)
    told = {name: process.ask(name, has_turn=True) for name in reserved}
    passed = [name for name, each in told.items() if each.obstacle is None]
    waits = [each.wait_seconds for each in told.values() if each.obstacle]
    assert passed == reserved[: len(passed)]
    assert 10 <= len(passed) <= 10 + SLACK * 10
    assert all(each.is_late for each in told.values() if each.obstacle)
    assert waits == sorted(waits)
    assert waits[-1] == about(0.1 * (len(reserved) - len(passed)))


def test_who_comes_on_time_stands_behind_those_who_are_late(stage: Stage) -> None:
    """An interruption moves everybody back by its length, and nobody to the end."""
    process = stage.process(requests_per_minute=60)
    names = [f"asks-{number}" for number in range(8)]
    for name in names:
        process.ask(name)
    stage.wait(3.5)
    late = [process.ask(name, has_turn=True) for name in names[1:4]]
    assert [each.obstacle for each in late] == [None, Obstacle.RATE_LIMIT, Obstacle.RATE_LIMIT]
    stage.wait(0.6)
    on_time = process.ask(names[4], has_turn=True)
    assert on_time.is_late
    assert on_time.wait_seconds > late[-1].wait_seconds - 0.6


def test_who_was_late_passes_when_it_comes_again(stage: Stage) -> None:
    """And is not charged another turn for it."""
    process = stage.process(requests_per_minute=600)
    names = [f"asks-{number}" for number in range(13)]
    for name in names:
        process.ask(name)
    stage.wait(1.5)
    for number in range(10):
        process.ask(f"between-{number}", has_turn=True)
    told = process.ask(names[10], has_turn=True)
    assert told.is_late
    stage.wait(told.wait_seconds)
    assert process.ask(names[10], has_turn=True, is_late=True).obstacle is None


# --- a vendor that turns calls away


def test_a_model_whose_calls_are_turned_away_is_asked_more_slowly(stage: Stage) -> None:
    """By all processes, one call after the other; other models are not."""
    one, other = stage.process(), stage.process()
    one.call(UNKNOWN, turned_away=True)
    told = [other.ask() for _ in range(2)]
    assert {each.obstacle for each in told} == {Obstacle.VENDOR_HOLD}
    assert [each.wait_seconds for each in told] == [about(number / FIRST_RATE) for number in (1, 2)]
    assert other.ask(target=SAME_PROVIDER).obstacle is None
    assert slowed(other) == about_exactly(1 / FIRST_RATE)


def slowed(process: Process) -> float | None:
    """Seconds between two calls."""
    return process.admission.load(OPENAI.provider).slowed_models.get(OPENAI.model)


def refuse(stage: Stage, process: Process) -> None:
    """The next call that may be made is turned away."""
    call_id = process.ids()
    stage.grant(process, call_id)
    process.settle(call_id, UNKNOWN, turned_away=True)


def test_a_call_that_is_refused_makes_it_slower_by_a_part(stage: Stage) -> None:
    """As slow as that was at which it was refused, and a third more."""
    process = stage.process()
    refuse(stage, process)
    refuse(stage, process)
    assert slowed(process) == pytest.approx(1 / FIRST_RATE / 0.7, rel=0.15)


def test_refusals_of_calls_that_ran_together_count_once(stage: Stage) -> None:
    """A hundred that are turned away at the same moment say the same."""
    process = stage.process()
    calls = [process.begin() for _ in range(20)]
    for call_id in calls:
        process.settle(call_id, UNKNOWN, turned_away=True)
    assert slowed(process) == about_exactly(1 / FIRST_RATE)


def test_calls_make_it_faster(stage: Stage) -> None:
    """So the vendor's own limit is found; time in which nobody calls tells nothing."""
    process = stage.process()
    refuse(stage, process)
    stage.wait(1.2)
    process.begin()
    once = slowed(process)
    assert once is not None
    assert 1 / FIRST_RATE > once >= 1 / (FIRST_RATE * 2 ** (1.1 / DOUBLED_AFTER_SECONDS))
    stage.grant(process, "another")
    assert slowed(process) < once  # type: ignore[operator] # It is slowed.


def test_what_was_learned_is_forgotten_when_it_holds_nobody_back(stage: Stage) -> None:
    """An operator's release, too."""
    process = stage.process()
    refuse(stage, process)
    process.admission.release(OPENAI.provider)
    assert (slowed(process), process.ask().obstacle) == (None, None)


@pytest.mark.parametrize(
    ("refused_rate", "seconds", "rate"),
    [
        (0.0, 0.0, FIRST_RATE),
        (0.0, 3 * DOUBLED_AFTER_SECONDS, 8 * FIRST_RATE),
        (10.0, 0.0, 7.0),
        (10.0, 3.0, 10.0),
        (10.0, 6.0, 13.0),
        (1.0, 30.0, 1.0),
        (0.1, 0.0, SLOWEST_RATE),
    ],
)
def test_the_rate_that_is_learned(refused_rate: float, seconds: float, rate: float) -> None:
    """Doubled until a call is refused; then a part less, back after thirty calls or three seconds, and beyond."""
    assert learned_rate(refused_rate, seconds) == pytest.approx(rate)


def test_who_would_wait_for_long_sleeps_and_is_invited(stage: Stage) -> None:
    """A moment before it may come, in the order of asking, and no more of them than may come then."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True)
    told = [process.ask(f"asks-{number}", can_sleep=True) for number in range(10)]
    awake = [f"asks-{number}" for number in range(10) if not told[number].sleeps]
    assert len(awake) == 2
    assert [each.obstacle for each in told] == [Obstacle.VENDOR_HOLD] * 10
    assert process.admission.load(OPENAI.provider).waiting == 8
    assert process.ask("comes-by").wait_seconds >= LEARNED_WAIT_SECONDS / 2
    assert process.admission.invite_next(OPENAI.provider) == []
    stage.wait(2 / FIRST_RATE)
    invited = [*process.admission.invite_next(OPENAI.provider)]
    assert invited == [f"asks-{number}" for number in range(2, 2 + len(invited))]
    assert 1 <= len(invited) <= 1 + FIRST_RATE * INVITED_AHEAD_SECONDS
    assert process.admission.invite_next(OPENAI.provider) == []


def test_who_was_refused_comes_back_to_where_it_stood(stage: Stage) -> None:
    """Before those who asked later, and with its place in the line kept over its wait."""
    process = stage.process()
    first, refused = process.begin(), process.begin()
    process.settle(first, UNKNOWN, turned_away=True)
    for number in range(6):
        process.ask(f"asks-{number}", can_sleep=True)
    process.settle(refused, UNKNOWN, turned_away=True)
    stage.grant(process, refused)
    assert process.ask("asks-5", can_sleep=True).sleeps


def test_who_failed_comes_back_to_where_it_stood(stage: Stage) -> None:
    """A retry is no reason to wait for all who asked meanwhile."""
    process = stage.process(max_concurrent_calls=1)
    process.ask("fails")
    process.ask("behind")
    process.settle("fails", BAD)
    assert process.ask("behind").obstacle is None
    for name in ("newcomer", "fails"):
        assert process.ask(name, can_sleep=True).sleeps
    assert process.settle("behind", GOOD) == ["fails"]


def test_whoever_asks_invites_those_who_sleep_before_it(stage: Stage) -> None:
    """Also where nobody sweeps: a synchronous caller is not kept back by those whom no worker brings."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True)
    for number in range(4):
        process.ask(f"asks-{number}", can_sleep=True)
    stage.wait(5 / FIRST_RATE)
    told = process.ask("synchronous")
    assert told.invited == ("asks-2", "asks-3")
    assert told.obstacle is None


def test_who_was_refused_without_admission_stands_behind_those_who_wait(stage: Stage) -> None:
    """When Redis was away at first, nobody knows since when."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True)
    for number in range(4):
        process.ask(f"asks-{number}", can_sleep=True)
    process.settle("blind", UNKNOWN, turned_away=True)
    assert process.ask("blind", can_sleep=True).sleeps
    stage.wait(4 / FIRST_RATE)
    invited = [*process.admission.invite_next(OPENAI.provider)]
    assert invited[:2] == ["asks-2", "asks-3"]


def test_who_sleeps_for_a_pace_is_invited_to_probe(stage: Stage) -> None:
    """When nobody else is there to find out that the provider is well."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True)
    for number in range(6):
        process.ask(f"asks-{number}", can_sleep=True)
    process.break_circuit_by_others()
    assert process.admission.invite_next(OPENAI.provider) == []
    stage.wait(SHORT + 2 / FIRST_RATE)
    invited = [*process.admission.invite_next(OPENAI.provider)]
    assert len(invited) == 1
    assert process.admission.invite_next(OPENAI.provider) == []


def test_who_is_invited_and_over_keeps_nobody_waiting(stage: Stage) -> None:
    """Whoever leaves while it sleeps is not invited."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True)
    for number in range(5):
        process.ask(f"asks-{number}", can_sleep=True)
    for number in range(2, 4):
        process.admission.leave(OPENAI, f"asks-{number}")
    stage.wait(2 / FIRST_RATE)
    assert process.admission.invite_next(OPENAI.provider) == ["asks-4"]


def test_a_hold_beyond_the_patience_is_not_slept_through(stage: Stage) -> None:
    """Its caller hears at once when the vendor may be asked again."""
    process = stage.process()
    process.call(UNKNOWN, turned_away=True, hold_seconds=60.0)
    told = process.ask("hurries", can_sleep=True, patience_seconds=30.0)
    assert (told.obstacle, told.sleeps, told.wait_seconds) == (Obstacle.VENDOR_HOLD, False, about(60.0))
    told = process.ask("waits", can_sleep=True)
    assert (told.sleeps, told.wait_seconds) == (True, about(60.0 + LOOK_AGAIN_SECONDS))
    assert process.admission.invite_next(OPENAI.provider) == []


def test_a_limit_that_is_configured_holds_beside_what_was_learned(stage: Stage) -> None:
    """The stricter one of the two; what is learned changes no turn that was given."""
    process = stage.process(requests_per_minute=6)
    process.call(UNKNOWN, turned_away=True)
    told = process.ask()
    assert (told.obstacle, told.wait_seconds) == (Obstacle.RATE_LIMIT, about(10.0))


def test_a_vendor_that_grants_others_turns_away_because_they_are_too_many(stage: Stage) -> None:
    """Whoever was turned away is told, to know whether waiting for its turn is worth it."""
    process = stage.process()

    def refused() -> bool:
        return process.admission.settle(OPENAI, process.ids(), CallReport(UNKNOWN, turned_away=True)).is_granting

    assert not refused()
    process.call(UNKNOWN, turned_away=True)
    assert not refused()
    stage.grant(process, "granted")
    process.settle("granted", GOOD)
    assert refused()
    assert not process.admission.settle(SAME_PROVIDER, "other", CallReport(UNKNOWN, turned_away=True)).is_granting


# --- when nobody can be asked


def away_on_redis() -> AdmissionProtocol:
    client = connect_redis(f"redis://127.0.0.1:{free_port()}/0", timeout_seconds=0.2)
    return RedisAdmission(
        client, prefix="", breaker=POLICY, limits=lambda _: VendorSettings.model_construct(), lease_seconds=LONG
    )


@pytest.mark.parametrize("admission", [MemoryAdmission(away=True), away_on_redis()], ids=["memory", "redis"])
def test_an_outage_is_told_as_such(admission: AdmissionProtocol) -> None:
    """The caller decides what to do without; the message tells no address."""
    process = Process(admission, lambda: "call")
    for ask in (
        process.ask,
        lambda: process.settle("call", GOOD),
        lambda: admission.leave(OPENAI, "call"),
        lambda: admission.breaker(OPENAI.provider),
        lambda: admission.load(OPENAI.provider),
        lambda: admission.release(OPENAI.provider),
        lambda: admission.invite_next(OPENAI.provider),
    ):
        with pytest.raises(AdmissionUnavailable) as error:
            ask()
        assert "127.0.0.1" not in str(error.value)


# --- what only Redis has


@pytest.fixture
def on_redis(redis_client: Redis, key_prefix: str) -> Stage:
    return redis_stage(redis_client, key_prefix)


def test_every_key_is_ours_and_expires(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """A service that is switched off leaves nothing behind."""
    process = on_redis.process(requests_per_minute=600, tokens_per_minute=600_000, max_concurrent_calls=1)
    process.break_circuit()
    on_redis.wait(SHORT)
    running = process.begin()
    process.admission.renew()
    process.settle(running, GOOD, is_probe=True, tokens_beyond_estimate=200, hold_seconds=0.2)
    on_redis.wait(0.3)
    process.begin()
    process.settle("never-asked", UNKNOWN)
    on_redis.process(max_concurrent_calls=1).admission.leave(OPENAI, "nobody")
    elsewhere = on_redis.process(max_concurrent_calls=1)
    running = elsewhere.begin(ANTHROPIC)
    assert elsewhere.ask("waits", ANTHROPIC).obstacle is Obstacle.CONCURRENCY
    assert elsewhere.ask("sleeps", ANTHROPIC, can_sleep=True).sleeps
    elsewhere.admission.release(ANTHROPIC.provider)
    elsewhere.settle(running, GOOD, ANTHROPIC)
    lives = lives_of(redis_client, key_prefix)
    on_redis.wait(LATENESS_SECONDS + 0.1)
    assert elsewhere.admission.invite_next(ANTHROPIC.provider) == ["sleeps"]
    assert process.ask("sleeps", has_turn=True, is_late=True, can_sleep=True).sleeps
    other = on_redis.process()
    other.call(UNKNOWN, ANTHROPIC, turned_away=True)
    for number in range(4):
        other.ask(f"paced-{number}", ANTHROPIC, can_sleep=True)
    lives |= lives_of(redis_client, key_prefix)
    assert lives[f"{key_prefix}admission:ticket:anthropic:waits"] == pytest.approx(
        (LONG + TICKET_KEPT_SECONDS) * 1000, abs=1000
    )
    on_redis.end_invitations()
    elsewhere.admission.invite_next(ANTHROPIC.provider)
    lives |= lives_of(redis_client, key_prefix)
    kinds = {name.removeprefix(f"{key_prefix}admission:").split(":")[0] for name in lives}
    assert kinds == {"breaker", "pace", "held", "slots", "line", "due", "asleep", "flow", "ticket"} | {
        "invited",
        "unheard",
        "slowed",
        "paced",
        "models",
    }
    assert all(0 < life <= 2 * 3_600_000 for life in lives.values()), lives


def lives_of(redis_client: Redis, key_prefix: str) -> dict[str, int]:
    """Milliseconds until each key expires."""
    return {str(key): redis_client.pttl(key) for key in redis_client.scan_iter(f"{key_prefix}*")}


def test_without_limits_a_healthy_provider_leaves_nothing_in_redis(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """Then nothing is written at all."""
    process = on_redis.process()
    for _ in range(3):
        process.call(GOOD, tokens_beyond_estimate=500)
    process.admission.renew()
    assert list(redis_client.scan_iter(f"{key_prefix}*")) == []


def test_as_many_threads_as_a_worker_has_ask_at_once(on_redis: Stage) -> None:
    """A connection for each of them: one too few would make the whole process go on without limits."""
    process = on_redis.process(max_concurrent_calls=1)
    for _ in range(3):
        told = at_once(250, lambda number: process.ask(f"asks-{number}"))
        assert obstacles(told) == {None: 1, Obstacle.CONCURRENCY: 249}
