"""What every ledger does, whatever it is kept in: life-of-a-request.md, step by step."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from redis import Redis

from contracts.enums import CallbackStatus, QueueStatus
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.errors import LedgerUnavailable, QueueFull, RequestExpired
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import Acceptance, Action, ClaimState, Decision, Due, LedgerProtocol
from llm_provider.queue_models import QueuedRequest
from scripts.local_servers import free_port
from tests.ports.ledger_suite import SHORT, SOME_PROGRESS, TICK, Stage, Storm, action_of, at_once, ledger_outcome
from tests.unit.builders import SECRET, a_request, a_timing, a_verdict_for, an_error_for, some_texts

# --- accept


def test_an_accepted_request_waits_at_the_end_of_the_line(stage: Stage) -> None:
    """The answer tells the position from 1, and the view agrees."""
    ledger = stage.open()
    first, second = a_request(), a_request()
    assert ledger.accept(first, some_texts()).position == 1
    assert ledger.accept(second, some_texts()).position == 2
    view = ledger.view(second.queue_id)
    assert view is not None
    assert (view.request, view.status, view.position) == (second, QueueStatus.QUEUED, 2)
    assert view.callback_status is CallbackStatus.PENDING


def test_accepting_the_same_request_again_changes_nothing(stage: Stage) -> None:
    """One retry after a lost reply is safe, also when the ledger is full by then."""
    ledger = stage.open(high_watermark=2, low_watermark=1)
    request = stage.accept()
    stage.accept()
    again = ledger.accept(request, some_texts())
    assert again == Acceptance(position=1, decided_per_minute=0.0)
    figures = ledger.figures()
    assert (figures.open, figures.waiting, figures.totals) == (2, 2, {"accepted": 2})


@pytest.mark.parametrize("state", ["running", "suspended", "decided", "delivered"])
def test_accepting_again_does_not_take_a_request_back(stage: Stage, state: str) -> None:
    """A repeated acceptance that comes late finds what has happened meanwhile, and leaves it."""
    ledger = stage.open()
    made = getattr(stage, state)()
    request = made if isinstance(made, QueuedRequest) else made.request
    before = ledger.view(request.queue_id)
    ledger.accept(request, some_texts())
    after = ledger.view(request.queue_id)
    assert after is not None
    assert after == before
    assert ledger.figures().waiting == 0


def test_time_spent_before_the_acceptance_counts(stage: Stage) -> None:
    """A request that was asked for at once first has only the rest of its time, or none."""
    ledger, request, late = stage.open(), a_request(deadline_seconds=600.0), a_request(deadline_seconds=600.0)
    ledger.accept(request, some_texts(), seconds_left=590.0)
    ledger.accept(late, some_texts(), seconds_left=0.0)
    assert 580 < ledger.claim(request.queue_id, "first").seconds_left <= 590
    assert ledger.claim(late.queue_id, "first").state is ClaimState.EXPIRED


def test_a_full_ledger_refuses_until_enough_is_delivered(stage: Stage) -> None:
    """Above the high watermark nothing is accepted before the open requests are below the low one."""
    ledger = stage.open(high_watermark=4, low_watermark=2)
    decisions = [stage.decided() for _ in range(4)]
    for decision in decisions[:2]:
        with pytest.raises(QueueFull):
            stage.accept()
        ledger.mark_delivered(decision)
    with pytest.raises(QueueFull):
        stage.accept()
    ledger.mark_delivered(decisions[2])
    stage.accept()
    stage.accept()
    assert ledger.figures().open == 3


def test_a_refused_request_leaves_no_trace(stage: Stage) -> None:
    """What was answered with a refusal never runs."""
    ledger = stage.open(high_watermark=1, low_watermark=1)
    stage.accept()
    refused = a_request()
    with pytest.raises(QueueFull):
        ledger.accept(refused, some_texts())
    assert ledger.view(refused.queue_id) is None
    assert ledger.claim(refused.queue_id, "first").state is ClaimState.LEFT
    assert ledger.figures().totals == {"accepted": 1}


def test_what_was_not_answered_is_taken_back_and_does_not_come_later(stage: Stage) -> None:
    """Its acceptance may still be on its way: it is refused when it arrives, and no message of it finds anything."""
    ledger, late = stage.open(), a_request()
    request = stage.accept()
    assert ledger.retract(request.queue_id)
    assert ledger.retract(late.queue_id)
    for each in (request, late):
        with pytest.raises(LedgerUnavailable):
            ledger.accept(each, some_texts())
        assert ledger.claim(each.queue_id, "first").state is ClaimState.LEFT
    figures = ledger.figures()
    assert (figures.open, figures.waiting, figures.totals) == (0, 0, {"accepted": 1, "retracted": 1})


@pytest.mark.parametrize("how_far", ["running", "suspended", "decided", "delivered"])
def test_what_a_worker_has_taken_is_not_taken_back(stage: Stage, how_far: str) -> None:
    """It is paid already, and its caller is told."""
    ledger = stage.open()
    found = getattr(stage, how_far)()
    request = found.request if isinstance(found, Decision) else found
    before = ledger.view(request.queue_id)
    assert not ledger.retract(request.queue_id)
    assert ledger.view(request.queue_id) == before


# --- claim


def test_a_waiting_request_is_claimed_with_its_texts_and_its_time(stage: Stage) -> None:
    """The claim hands over all that the call to the provider needs."""
    ledger = stage.open()
    request = stage.accept(deadline_seconds=100.0)
    claim = ledger.claim(request.queue_id, "first")
    assert claim.state is ClaimState.CLAIMED
    assert (claim.request, claim.texts) == (request, some_texts())
    assert 90 < claim.seconds_left <= 100
    view = ledger.view(request.queue_id)
    assert view is not None
    assert (view.status, view.position) == (QueueStatus.PROCESSING, None)


def test_a_live_lease_keeps_others_away_but_not_its_holder(stage: Stage) -> None:
    """A second message of the same request leaves quietly; the same run may ask again after a lost reply."""
    ledger = stage.open()
    request = stage.running("first")
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT
    again = ledger.claim(request.queue_id, "first")
    assert (again.state, again.texts) == (ClaimState.CLAIMED, some_texts())


def test_a_lapsed_lease_is_taken_over(stage: Stage) -> None:
    """The worker that held it is taken for dead; from then on the lease is the other's, and that is counted."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    stage.wait(SHORT)
    taken = ledger.claim(request.queue_id, "second")
    assert (taken.state, taken.texts) == (ClaimState.CLAIMED, some_texts())
    assert ledger.claim(request.queue_id, "first").state is ClaimState.LEFT
    assert ledger.figures().totals == {"accepted": 1, "taken_over": 1}


def test_a_lease_that_lapsed_during_an_outage_is_not_taken_over(stage: Stage) -> None:
    """While nobody has swept for half a lease the holder could not renew either, so nobody judges it."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT
    assert stage.sweep() == []
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT


def test_a_request_past_its_deadline_is_not_run(stage: Stage) -> None:
    """Whoever claims it is told to decide that; its texts are not handed out."""
    ledger = stage.open()
    request = stage.accept(deadline_seconds=SHORT)
    stage.wait(SHORT)
    claim = ledger.claim(request.queue_id, "first")
    assert (claim.state, claim.request, claim.texts) == (ClaimState.EXPIRED, request, None)


def test_a_live_lease_outlasts_the_deadline(stage: Stage) -> None:
    """A call that began in time may end a little late; nobody expires it meanwhile."""
    ledger = stage.open()
    request = stage.running(deadline_seconds=SHORT)
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT
    assert stage.sweep() == []


def test_a_lapsed_lease_past_the_deadline_is_expired_by_whoever_claims_it(stage: Stage) -> None:
    """There is no time left for a second call."""
    ledger = stage.open(lease=SHORT)
    request = stage.running(deadline_seconds=SHORT)
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.EXPIRED


def test_a_decided_request_is_delivered_by_one_claimer_at_a_time(stage: Stage) -> None:
    """Within the delivery window somebody delivers it; after that the next claim takes it, and only that one."""
    ledger = stage.open(delivery_window=SHORT)
    decision = stage.decided()
    queue_id = decision.request.queue_id
    assert ledger.claim(queue_id, "second").state is ClaimState.LEFT
    stage.wait(SHORT)
    claim = ledger.claim(queue_id, "second")
    assert (claim.state, claim.request, claim.outcome) == (ClaimState.DECIDED, decision.request, decision.outcome)
    assert claim.texts is None
    assert ledger.claim(queue_id, "third").state is ClaimState.LEFT


def test_nothing_is_left_to_do_for_a_delivered_or_unknown_request(stage: Stage) -> None:
    """A late message leaves quietly."""
    ledger = stage.open()
    delivered = stage.delivered()
    assert ledger.claim(delivered.request.queue_id, "second").state is ClaimState.LEFT
    assert ledger.claim(a_request().queue_id, "second").state is ClaimState.LEFT


def test_many_claims_at_once_give_one_lease(stage: Stage) -> None:
    """However many copies of a message arrive together, one calls the provider."""
    ledger = stage.open()
    request = stage.accept()
    states = at_once(16, lambda number: ledger.claim(request.queue_id, f"holder-{number}").state)
    assert sorted(states).count(ClaimState.CLAIMED) == 1
    assert set(states) == {ClaimState.CLAIMED, ClaimState.LEFT}


# --- renew


def test_a_renewed_lease_lives_on(stage: Stage) -> None:
    """One call prolongs all leases of a process."""
    ledger = stage.open(lease=3 * SHORT)
    held = {holder: stage.running(holder).queue_id for holder in ("first", "second", "third")}
    for _ in range(4):
        stage.wait(SHORT)
        assert stage.sweep() == []
        ledger.renew(held)
    assert [ledger.claim(queue_id, "other").state for queue_id in held.values()] == [ClaimState.LEFT] * 3


def test_a_holder_retakes_its_own_lapsed_lease(stage: Stage) -> None:
    """Redis was away longer than the lease, and the call still runs."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    stage.wait(SHORT)
    ledger.renew({"first": request.queue_id})
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT
    assert stage.sweep() == []


def test_a_renewal_does_not_take_anothers_lease(stage: Stage) -> None:
    """Once somebody else took it over, the late holder neither gets it back nor prolongs it."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    stage.wait(SHORT / 2)
    ledger.renew({"first": request.queue_id})
    assert ledger.claim(request.queue_id, "first").state is ClaimState.LEFT
    stage.wait(SHORT / 2)
    assert ledger.claim(request.queue_id, "third").state is ClaimState.CLAIMED


def test_no_lease_is_prolonged_beyond_the_deadline_and_its_margin(stage: Stage) -> None:
    """A hung call does not keep its request for ever: the sweeper ends it."""
    ledger = stage.open(deadline_margin=SHORT)
    request = stage.running("first", deadline_seconds=SHORT)
    ledger.renew({"first": request.queue_id})
    stage.wait(2 * SHORT)
    ledger.renew({"first": request.queue_id})
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_no_lease_is_taken_beyond_the_deadline_and_its_margin(stage: Stage) -> None:
    """Nor does the first lease outlast them, however long a lease is."""
    stage.open(deadline_margin=SHORT)
    request = stage.running(deadline_seconds=SHORT)
    stage.wait(2 * SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_a_renewal_does_not_touch_what_is_decided(stage: Stage) -> None:
    """The keeper's last round may come after the commit; the delivery stays due when it was."""
    ledger = stage.open(delivery_window=SHORT)
    decision = stage.decided()
    ledger.renew({"first": decision.request.queue_id})
    stage.wait(SHORT)
    assert stage.sweep() == [Due(decision.request.queue_id, Action.DELIVER)]


# --- commit


def test_the_first_outcome_wins(stage: Stage) -> None:
    """A later one is answered with the first, and is not its caller's to deliver."""
    ledger = stage.open()
    request = stage.running()
    first, second = a_verdict_for(request), an_error_for(request)
    assert ledger.commit(request.queue_id, first) == Decision(request, first, mine=True)
    assert ledger.commit(request.queue_id, second) == Decision(request, first, mine=False)
    assert ledger.decided(request.queue_id) == Decision(request, first)


def test_the_same_outcome_again_is_still_ones_own(stage: Stage) -> None:
    """A commit repeated after a lost reply must not leave the delivery to nobody."""
    ledger = stage.open()
    decision = stage.decided()
    assert ledger.commit(decision.request.queue_id, decision.outcome) == decision
    assert ledger.figures().totals == {"accepted": 1, "completed": 1}


def test_the_same_outcome_again_has_a_delivery_window_of_its_own(stage: Stage) -> None:
    """Whoever waited long for the first answer begins to deliver only now."""
    ledger = stage.open(delivery_window=3 * SHORT)
    decision = stage.decided()
    stage.wait(2 * SHORT)
    ledger.commit(decision.request.queue_id, decision.outcome)
    stage.wait(2 * SHORT)
    assert stage.sweep() == []


def test_the_same_outcome_again_is_nobodys_once_it_is_delivered(stage: Stage) -> None:
    """There is nothing left to deliver, whether the ledger still holds the outcome or not."""
    ledger = stage.open()
    for decision in (stage.delivered(), stage.delivered(callback_topic=None)):
        late = ledger.commit(decision.request.queue_id, decision.outcome)
        assert late is None or not late.mine


def test_many_outcomes_at_once_leave_one(stage: Stage) -> None:
    """All committers learn the same outcome, and one of them delivers it."""
    ledger = stage.open()
    request = stage.running()
    offers = [a_verdict_for(request, justification=f"Reason {number}.") for number in range(16)]
    decisions = at_once(16, lambda number: ledger.commit(request.queue_id, offers[number]))
    assert [decision is not None and decision.mine for decision in decisions].count(True) == 1
    assert {decision.outcome.model_dump_json() for decision in decisions if decision} == {
        ledger_outcome(ledger, request).model_dump_json()
    }


def test_a_request_nobody_claimed_can_be_decided(stage: Stage) -> None:
    """Expiry and revocation end what still waits, and it waits no more."""
    ledger = stage.open()
    request = stage.accept()
    outcome = an_error_for(request)
    assert ledger.commit(request.queue_id, outcome) == Decision(request, outcome)
    assert ledger.figures().waiting == 0
    assert ledger.claim(request.queue_id, "first").state is ClaimState.LEFT


def test_a_commit_for_a_record_that_is_gone_is_none(stage: Stage) -> None:
    """An outcome of nothing is not stored."""
    ledger = stage.open()
    request = a_request()
    assert ledger.commit(request.queue_id, a_verdict_for(request)) is None
    assert ledger.figures().totals == {}


def test_what_is_decided_is_told_as_pending_no_more(stage: Stage) -> None:
    """`pending` and `decided` are each other's complement until the delivery."""
    ledger = stage.open()
    request = stage.running()
    assert (ledger.pending(request.queue_id), ledger.decided(request.queue_id)) == (CallProgress(), None)
    decision = ledger.commit(request.queue_id, a_verdict_for(request))
    assert decision is not None
    assert (ledger.pending(request.queue_id), ledger.decided(request.queue_id)) == (None, decision)
    ledger.mark_delivered(decision)
    assert (ledger.pending(request.queue_id), ledger.decided(request.queue_id)) == (None, None)


# --- deliver


def test_a_delivered_request_is_not_open_any_more(stage: Stage) -> None:
    """It is counted once, however often the delivery is noted."""
    ledger = stage.open()
    published, stored = stage.decided(), stage.decided(callback_topic=None)
    for decision in (published, stored, published, stored):
        ledger.mark_delivered(decision)
    figures = ledger.figures()
    assert (figures.open, figures.waiting) == (0, 0)
    assert figures.totals == {"accepted": 2, "completed": 2, "published": 1, "stored": 1}
    stage.wait(SHORT)
    assert stage.sweep(queue_is_empty=True) == []


def test_a_delivery_is_not_noted_before_there_is_an_outcome(stage: Stage) -> None:
    """A mistaken note does not end a request that still runs."""
    ledger = stage.open()
    request = stage.running()
    ledger.mark_delivered(Decision(request, a_verdict_for(request)))
    view = ledger.view(request.queue_id)
    assert view is not None
    assert (view.status, ledger.figures().open) == (QueueStatus.PROCESSING, 1)


def test_a_delivered_record_is_forgotten_after_its_retention(stage: Stage) -> None:
    """Without a result to poll for, the record goes when its own retention ends."""
    ledger = stage.open(record_retention=SHORT, result_expires=60.0)
    decision = stage.delivered()
    assert ledger.view(decision.request.queue_id) is not None
    stage.wait(SHORT)
    assert ledger.view(decision.request.queue_id) is None


def test_the_record_of_a_polled_request_outlives_its_result(stage: Stage) -> None:
    """Its retention begins when the result expires, so that an expired result can be told from an unknown id."""
    ledger = stage.open(record_retention=SHORT, result_expires=SHORT)
    decision = stage.delivered(callback_topic=None)
    stage.wait(SHORT)
    assert ledger.view(decision.request.queue_id) is not None
    stage.wait(SHORT)
    assert ledger.view(decision.request.queue_id) is None


def test_a_polled_result_leaves_the_ledger_with_its_delivery(stage: Stage) -> None:
    """From then on the result store keeps it; until then the ledger serves it."""
    ledger = stage.open()
    decision = stage.decided(callback_topic=None)
    assert ledger_outcome(ledger, decision.request) == decision.outcome
    ledger.mark_delivered(decision)
    view = ledger.view(decision.request.queue_id)
    assert view is not None
    assert (view.status, view.outcome) == (QueueStatus.COMPLETED, None)


def test_a_polled_error_stays_in_the_ledger(stage: Stage) -> None:
    """The status goes on telling why there is no result."""
    ledger = stage.open()
    request = stage.running(callback_topic=None)
    decision = ledger.commit(request.queue_id, an_error_for(request))
    assert decision is not None
    ledger.mark_delivered(decision)
    assert ledger_outcome(ledger, request) == decision.outcome


# --- postpone


def test_the_waits_grow_with_real_attempts_only(stage: Stage) -> None:
    """An attempt takes the next wait, the last one repeats; being passed over takes the first."""
    ledger = stage.open(delivery_retry=(SHORT, 2 * SHORT), delivery_window=0.01)
    queue_id = stage.decided().request.queue_id
    for attempted, steps in ((False, 1), (True, 1), (True, 2), (False, 1), (True, 2)):
        ledger.postpone(queue_id, attempted=attempted)
        assert slept_until_due(stage, queue_id) == steps


def slept_until_due(stage: Stage, queue_id: str) -> int:
    """How many SHORTs pass before the request is due."""
    for steps in range(1, 5):
        assert stage.sweep() == []
        stage.wait(SHORT)
        if stage.sweep() == [Due(queue_id, Action.DELIVER)]:
            return steps
    raise AssertionError("It was never due.")


@pytest.mark.parametrize("state", ["accept", "running", "suspended", "delivered"])
def test_only_an_undelivered_outcome_is_postponed(stage: Stage, state: str) -> None:
    """Nothing else becomes due by it."""
    ledger = stage.open(delivery_retry=(0.01,))
    made = getattr(stage, state)()
    request = made if isinstance(made, QueuedRequest) else made.request
    ledger.postpone(request.queue_id, attempted=True)
    stage.wait(SHORT)
    assert stage.sweep() == []


# --- sweep


def test_a_lapsed_lease_is_dispatched_again_and_again(stage: Stage) -> None:
    """When it lapses, then once per redispatch time: the new message may get lost, too."""
    stage.open(lease=2 * SHORT, redispatch_after=2 * SHORT)
    request = stage.running()
    for _ in range(3):
        assert stage.sweep() == []
        assert stage.sweep_until_due() == [Due(request.queue_id, Action.DISPATCH)]


def test_what_no_worker_takes_over_is_expired_at_its_deadline(stage: Stage) -> None:
    """However long its next message may take, its caller is told in time."""
    stage.open(lease=2 * SHORT, redispatch_after=60.0)
    request = stage.running(deadline_seconds=4 * SHORT)
    assert stage.sweep_until_due() == [Due(request.queue_id, Action.DISPATCH)]
    assert stage.sweep_until_due() == [Due(request.queue_id, Action.EXPIRE)]


def test_an_undelivered_outcome_is_delivered_after_its_window(stage: Stage) -> None:
    """The handler had its time, the sweeper takes it, and the next sweeper leaves it alone for as long."""
    stage.open(delivery_window=SHORT)
    queue_id = stage.decided().request.queue_id
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(queue_id, Action.DELIVER)]
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(queue_id, Action.DELIVER)]


def test_a_request_that_waits_past_its_deadline_is_expired(stage: Stage) -> None:
    """Its caller is told, though no worker ever had time for it."""
    stage.open(delivery_window=SHORT)
    request = stage.accept(deadline_seconds=SHORT)
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_a_run_that_died_past_its_deadline_is_expired(stage: Stage) -> None:
    """There is no time left to try again."""
    stage.open(lease=SHORT)
    request = stage.running(deadline_seconds=SHORT)
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_an_expiry_nobody_decided_comes_back(stage: Stage) -> None:
    """A task that was told so and died is followed by the sweeper."""
    ledger = stage.open(delivery_window=SHORT)
    request = stage.accept(deadline_seconds=SHORT)
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "first").state is ClaimState.EXPIRED
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_two_sweeps_at_once_never_take_the_same(stage: Stage) -> None:
    """However many workers sweep, each due request is taken once and none is left."""
    ledger = stage.open(delivery_window=1.5, sweep_batch=20, settle=0.0)
    ids = [stage.decided().request.queue_id for _ in range(100)]
    lost = [stage.accept().queue_id for _ in range(10)]
    stage.wait(1.5)
    taken = [item for due in at_once(12, lambda _: ledger.sweep(queue_is_empty=True)) for item in due]
    assert sorted(item.queue_id for item in taken) == sorted(ids + lost)


def test_a_sweep_takes_no_more_than_its_batch(stage: Stage) -> None:
    """What was due first goes first, and the rest is not forgotten."""
    stage.open(sweep_batch=3, delivery_window=2 * SHORT)
    ids = []
    for _ in range(5):
        ids.append(stage.decided().request.queue_id)
        stage.wait(TICK)
    stage.wait(2 * SHORT)
    assert [item.queue_id for item in stage.sweep()] == ids[:3]
    assert [item.queue_id for item in stage.sweep()] == ids[3:]


# --- lost messages


def test_a_message_that_got_lost_is_missed_when_the_queue_is_empty(stage: Stage) -> None:
    """It has had time to arrive, and nothing waits: at most once per redispatch time it is sent again."""
    stage.open(settle=SHORT, redispatch_after=SHORT)
    request = stage.accept()
    assert stage.sweep(queue_is_empty=True) == []
    stage.wait(SHORT)
    assert stage.sweep(queue_is_empty=False) == []
    assert stage.sweep(queue_is_empty=True) == [Due(request.queue_id, Action.DISPATCH)]
    assert stage.sweep(queue_is_empty=True) == []
    stage.wait(SHORT)
    assert stage.sweep(queue_is_empty=True) == [Due(request.queue_id, Action.DISPATCH)]


def test_a_message_that_others_overtook_by_far_is_missed(stage: Stage) -> None:
    """The queue keeps its order, so what was passed by more than some disorder explains got lost."""
    ledger = stage.open(settle=0.0, overtaken_by=5)
    lost, passed = stage.accept(), stage.accept()
    later = [stage.accept().queue_id for _ in range(5)]
    for queue_id in later[:-1]:
        ledger.claim(queue_id, "first")
    assert stage.sweep() == []
    ledger.claim(later[-1], "first")
    assert stage.sweep() == [Due(lost.queue_id, Action.DISPATCH)]
    assert ledger.claim(passed.queue_id, "first").state is ClaimState.CLAIMED


def test_a_long_queue_is_not_dispatched_again_for_waiting(stage: Stage) -> None:
    """A backlog that is worked off in order is healthy, however long it takes."""
    ledger = stage.open(settle=0.0, redispatch_after=0.0)
    waiting = [stage.accept().queue_id for _ in range(300)]
    for queue_id in waiting[:50]:
        ledger.claim(queue_id, "first")
        assert stage.sweep() == []
    assert ledger.figures().waiting == 250


def test_what_is_overtaken_is_sent_again_once_per_redispatch_time(stage: Stage) -> None:
    """Sent again, it needs time to arrive."""
    ledger = stage.open(settle=0.0, overtaken_by=0, redispatch_after=SHORT)
    lost = stage.accept()
    ledger.claim(stage.accept().queue_id, "first")
    assert stage.sweep() == [Due(lost.queue_id, Action.DISPATCH)]
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(lost.queue_id, Action.DISPATCH)]


# --- after an outage


def test_after_an_outage_nobody_judges_leases_at_once(stage: Stage) -> None:
    """The last sweep is long ago: running requests get half a lease more, and a holder that lives renews in it."""
    ledger = stage.open(lease=4 * SHORT)
    alive, dead = stage.running("alive"), stage.running("dead")
    assert stage.sweep() == []
    stage.wait(4 * SHORT)
    assert stage.sweep() == []
    ledger.renew({"alive": alive.queue_id})
    stage.wait(SHORT)
    assert stage.sweep() == []
    assert stage.sweep_until_due() == [Due(dead.queue_id, Action.DISPATCH)]
    assert ledger.claim(alive.queue_id, "second").state is ClaimState.LEFT
    assert ledger.claim(dead.queue_id, "second").state is ClaimState.CLAIMED


def test_an_outage_does_not_delay_what_is_decided_or_waits(stage: Stage) -> None:
    """Only leases are in doubt then."""
    stage.open(lease=SHORT, delivery_window=SHORT, settle=SHORT)
    decided, expired, lost = stage.decided(), stage.accept(deadline_seconds=SHORT), stage.accept()
    assert stage.sweep() == []
    stage.wait(SHORT)
    due = stage.sweep(queue_is_empty=True)
    assert action_of(due, decided.request.queue_id) == [Action.DELIVER]
    assert Action.EXPIRE in action_of(due, expired.queue_id)
    assert action_of(due, lost.queue_id) == [Action.DISPATCH]


# --- what is not there


def test_no_step_brings_an_unknown_request_into_being(stage: Stage) -> None:
    """A record that expired between two steps stays gone."""
    ledger = stage.open()
    request = a_request()
    decision = Decision(request, a_verdict_for(request))
    ledger.claim(request.queue_id, "first")
    ledger.renew({"first": request.queue_id})
    ledger.suspend(request.queue_id, "first", wait_seconds=0.0, progress=SOME_PROGRESS)
    ledger.commit(request.queue_id, decision.outcome)
    ledger.mark_delivered(decision)
    ledger.postpone(request.queue_id, attempted=True)
    assert ledger.view(request.queue_id) is None
    assert (ledger.pending(request.queue_id), ledger.decided(request.queue_id)) == (None, None)
    figures = ledger.figures()
    assert (figures.open, figures.waiting, figures.totals) == (0, 0, {})


def test_no_step_keeps_a_forgotten_record_alive(stage: Stage) -> None:
    """Whatever comes late, a delivered record goes when its retention ends."""
    ledger = stage.open(record_retention=SHORT)
    decision = stage.delivered()
    queue_id = decision.request.queue_id
    ledger.claim(queue_id, "second")
    ledger.renew({"first": queue_id})
    ledger.suspend(queue_id, "first", wait_seconds=0.0, progress=SOME_PROGRESS)
    ledger.commit(queue_id, an_error_for(decision.request))
    ledger.postpone(queue_id, attempted=True)
    ledger.mark_delivered(decision)
    assert ledger_outcome(ledger, decision.request) == decision.outcome
    stage.wait(SHORT)
    ledger.claim(queue_id, "second")
    assert ledger.commit(queue_id, decision.outcome) is None
    assert ledger.view(queue_id) is None
    assert ledger.figures().open == 0


# --- what may be told


def test_the_view_tells_the_deadline_until_there_is_an_outcome(stage: Stage) -> None:
    """After that only a result kept for polling has an end."""
    ledger = stage.open(result_expires=500.0)
    request = stage.running(callback_topic=None, deadline_seconds=100.0)
    assert 95 < seconds_until_expiry(ledger, request) <= 100
    decision = ledger.commit(request.queue_id, a_verdict_for(request))
    assert decision is not None
    view = ledger.view(request.queue_id)
    assert view is not None
    assert view.expires_at is None
    ledger.mark_delivered(decision)
    assert 495 < seconds_until_expiry(ledger, request) <= 500


def seconds_until_expiry(ledger: LedgerProtocol, request: QueuedRequest) -> float:
    view = ledger.view(request.queue_id)
    assert view is not None
    assert view.expires_at is not None
    return (view.expires_at - datetime.now(UTC)).total_seconds()


def test_the_view_tells_how_it_ended_and_whether_the_caller_knows(stage: Stage) -> None:
    """The outcome's kind is the status; delivery is a field of its own."""
    ledger = stage.open()
    request = stage.running()
    late = an_error_for(request, RequestExpired("Too late."))
    for outcome, expected in (
        (a_verdict_for(request), QueueStatus.COMPLETED),
        (an_error_for(request), QueueStatus.FAILED),
        (late, QueueStatus.EXPIRED),
    ):
        other = stage.running()
        decision = ledger.commit(other.queue_id, outcome)
        assert decision is not None
        assert status_of(ledger, other) == (expected, CallbackStatus.PENDING)
        ledger.mark_delivered(decision)
        assert status_of(ledger, other) == (expected, CallbackStatus.PUBLISHED)


def test_a_polled_request_has_no_callback(stage: Stage) -> None:
    """Neither before nor after its outcome is stored for polling."""
    ledger = stage.open()
    decision = stage.decided(callback_topic=None)
    assert status_of(ledger, decision.request) == (QueueStatus.COMPLETED, CallbackStatus.NONE)
    ledger.mark_delivered(decision)
    assert status_of(ledger, decision.request) == (QueueStatus.COMPLETED, CallbackStatus.NONE)


def status_of(ledger: LedgerProtocol, request: QueuedRequest) -> tuple[QueueStatus, CallbackStatus]:
    view = ledger.view(request.queue_id)
    assert view is not None
    return view.status, view.callback_status


def test_positions_move_up_as_those_before_are_claimed(stage: Stage) -> None:
    """A position is the place among those that wait, not the turn."""
    ledger = stage.open()
    requests = [stage.accept() for _ in range(3)]
    ledger.claim(requests[0].queue_id, "first")
    views = [ledger.view(request.queue_id) for request in requests]
    assert [view and view.position for view in views] == [None, 1, 2]


def test_the_recent_pace_tells_how_long_to_wait(stage: Stage) -> None:
    """Three decided in the last minute and six before it: two minutes."""
    ledger = stage.open()
    for _ in range(3):
        stage.decided()
    acceptances = [ledger.accept(a_request(), some_texts()) for _ in range(6)]
    assert 2.9 < acceptances[-1].decided_per_minute <= 3
    assert [acceptance.estimated_wait_minutes for acceptance in acceptances[:3]] == [1, 1, 1]
    assert acceptances[-1].estimated_wait_minutes in {2, 3}


def test_the_figures_count_what_is_there_and_what_ever_was(stage: Stage) -> None:
    """Totals by name: accepted, then how each ended, then how each was delivered."""
    ledger = stage.open()
    stage.accept()
    stage.running()
    stage.delivered()
    failed = stage.running(callback_topic=None)
    decision = ledger.commit(failed.queue_id, an_error_for(failed))
    assert decision is not None
    ledger.mark_delivered(decision)
    figures = ledger.figures()
    assert (figures.open, figures.waiting) == (2, 1)
    assert figures.totals == {"accepted": 4, "completed": 1, "failed": 1, "published": 1, "stored": 1}


# --- any order of steps, and any death between them


@pytest.mark.parametrize("seed", range(4))
def test_whatever_dies_in_between_every_request_ends_with_its_first_outcome(stage: Stage, seed: int) -> None:
    """Nobody is forgotten, no outcome changes, no two hold a live lease: 400 random steps, then a worker that lives."""
    storm = Storm(stage, seed)
    for _ in range(400):
        storm.step()
    storm.sweep_until_all_is_delivered()
    for known in storm.all.values():
        view = storm.ledger.view(known.request.queue_id)
        assert view is not None
        assert (known.delivered, view.is_finished) == (True, True)
        assert view.outcome == (None if known.is_kept_elsewhere else known.first)


# --- Redis alone


def stored_text(client: Redis, prefix: str) -> str:
    """Every value under the prefix, whatever its type."""
    return "\n".join(read_value(client, key) for key in keys(client, prefix))


def keys(client: Redis, prefix: str) -> list[str]:
    return sorted(client.scan_iter(f"{prefix}*", count=1000))


def read_value(client: Redis, key: str) -> str:
    match client.type(key):
        case "hash":
            return str(client.hgetall(key))
        case "zset":
            return str(client.zrange(key, 0, -1, withscores=True))
        case _:
            return str(client.get(key))


def test_the_texts_leave_redis_with_the_commit(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """Not a word of a prompt or an essay is anywhere under the prefix once the outcome is stored."""
    on_redis.open()
    request = on_redis.running()
    assert stored_text(redis_client, key_prefix).count(SECRET) == 4
    on_redis.ledger.commit(request.queue_id, a_verdict_for(request))
    assert request.queue_id in stored_text(redis_client, key_prefix)
    assert SECRET not in stored_text(redis_client, key_prefix)


def test_after_the_last_delivery_only_two_counters_stay_for_ever(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """The turn that the next request takes, the totals and the epoch; every other key is gone or has an end."""
    on_redis.open()
    on_redis.delivered()
    on_redis.delivered(callback_topic=None)
    with suppress(QueueFull):
        on_redis.open(high_watermark=0).accept(a_request(), some_texts())
    on_redis.sweep(queue_is_empty=True)
    lasting = {key.removeprefix(key_prefix) for key in keys(redis_client, key_prefix) if redis_client.ttl(key) < 0}
    assert lasting == {"ledger:turns", "ledger:totals", "ledger:epoch"}


def test_all_that_is_not_yet_delivered_has_no_end(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """An undelivered outcome is kept for as long as Kafka is away."""
    on_redis.open()
    ids = [on_redis.accept().queue_id, on_redis.running().queue_id, on_redis.decided().request.queue_id]
    assert [redis_client.ttl(f"{key_prefix}request:{queue_id}") for queue_id in ids] == [-1, -1, -1]


def test_the_pace_forgets_old_minutes(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """A trickle that never lets its key expire does not make it grow either."""
    on_redis.open()
    minute = int(time.time() // 60)
    redis_client.hset(f"{key_prefix}ledger:pace", mapping={str(minute - ago): 1 for ago in (2, 3, 4)})
    on_redis.decided()
    assert set(redis_client.hkeys(f"{key_prefix}ledger:pace")) <= {str(minute), str(minute + 1), str(minute - 1)}


def test_the_scripts_come_back_by_themselves(on_redis: Stage, redis_client: Redis) -> None:
    """A restarted Redis has forgotten them."""
    on_redis.open()
    redis_client.script_flush()
    on_redis.delivered()


def test_an_orphan_in_an_index_is_tidied_away(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """An operator who deletes a record leaves nothing that comes back for ever."""
    on_redis.open(settle=0.0)
    waiting, running = on_redis.accept(), on_redis.running()
    redis_client.delete(*(f"{key_prefix}request:{each.queue_id}" for each in (waiting, running)))
    redis_client.zadd(f"{key_prefix}ledger:open", {running.queue_id: 0, waiting.queue_id: 0})
    assert on_redis.sweep(queue_is_empty=True) == []
    figures = on_redis.ledger.figures()
    assert (figures.open, figures.waiting) == (0, 0)


def test_an_early_look_does_not_take_a_live_lease(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """The record's own lease decides, whatever the index says."""
    on_redis.open()
    request = on_redis.running()
    redis_client.zadd(f"{key_prefix}ledger:open", {request.queue_id: 0})
    assert on_redis.sweep() == []
    assert on_redis.ledger.claim(request.queue_id, "second").state is ClaimState.LEFT


def test_steps_on_an_unknown_request_write_no_key(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """Half a record without an end would stay in Redis for ever."""
    ledger = on_redis.open()
    request = a_request()
    decision = Decision(request, a_verdict_for(request))
    for step in STEPS.keys() - {"accept", "sweep"}:
        STEPS[step](ledger, decision)
    assert keys(redis_client, key_prefix) == []


STEPS: dict[str, Callable[[LedgerProtocol, Decision], object]] = {
    "accept": lambda ledger, decision: ledger.accept(decision.request, some_texts()),
    "claim": lambda ledger, decision: ledger.claim(decision.request.queue_id, "first"),
    "renew": lambda ledger, decision: ledger.renew({"first": decision.request.queue_id}),
    "suspend": lambda ledger, decision: ledger.suspend(
        decision.request.queue_id, "first", wait_seconds=0.0, progress=SOME_PROGRESS
    ),
    "commit": lambda ledger, decision: ledger.commit(decision.request.queue_id, decision.outcome),
    "decided": lambda ledger, decision: ledger.decided(decision.request.queue_id),
    "pending": lambda ledger, decision: ledger.pending(decision.request.queue_id),
    "mark_delivered": lambda ledger, decision: ledger.mark_delivered(decision),
    "postpone": lambda ledger, decision: ledger.postpone(decision.request.queue_id, attempted=True),
    "sweep": lambda ledger, decision: ledger.sweep(queue_is_empty=True),
    "view": lambda ledger, decision: ledger.view(decision.request.queue_id),
    "figures": lambda ledger, decision: ledger.figures(),
    "ping": lambda ledger, decision: ledger.ping(),
}


def ledger_nobody_answers_for(kind: str) -> LedgerProtocol:
    if kind == "memory":
        return MemoryLedger(a_timing(), away=True)
    client = connect_redis(f"redis://127.0.0.1:{free_port()}/0", timeout_seconds=0.5)
    return RedisLedger(client, prefix="test:", timing=a_timing())


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.parametrize("step", STEPS)
def test_a_ledger_that_is_away_says_so_at_once(kind: str, step: str) -> None:
    """Every step raises the one error its callers know, soon enough for a web request to be answered."""
    ledger = ledger_nobody_answers_for(kind)
    request = a_request()
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable) as raised:
        STEPS[step](ledger, Decision(request, a_verdict_for(request)))
    assert time.monotonic() - started < 1.5
    assert "127.0.0.1" not in raised.value.message
