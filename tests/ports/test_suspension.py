"""What every ledger does with a request whose next call is due later: it waits without a thread, and is not lost."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from contracts.enums import CallbackStatus, QueueStatus
from llm_provider.internal_models import CallProgress
from llm_provider.ledger import Action, ClaimState, Decision, Due, LedgerProtocol, Woken
from llm_provider.queue_models import QueuedRequest
from tests.ports.ledger_suite import SHORT, SOME_PROGRESS, TICK, Stage, action_of, at_once
from tests.unit.builders import a_request, a_verdict_for, an_error_for, some_texts


def suspend(
    ledger: LedgerProtocol,
    request: QueuedRequest,
    holder: str = "first",
    wait_seconds: float = 60.0,
    *,
    sleeps: bool = False,
) -> bool:
    return ledger.suspend(request.queue_id, holder, wait_seconds=wait_seconds, progress=SOME_PROGRESS, sleeps=sleeps)


def dispatched(request: QueuedRequest) -> list[Due]:
    return [Due(request.queue_id, Action.DISPATCH)]


def fields(client: Redis, key_prefix: str, request: QueuedRequest) -> dict[str, str]:
    return {str(name): str(value) for name, value in client.hgetall(f"{key_prefix}request:{request.queue_id}").items()}


# --- suspend


def test_a_suspended_request_comes_back_after_its_wait_with_its_progress(stage: Stage) -> None:
    """Until then nobody claims it; after it a sweeper dispatches it, and any worker goes on where it stood."""
    ledger = stage.open()
    request = stage.running("first")
    assert suspend(ledger, request, wait_seconds=SHORT)
    assert [ledger.claim(request.queue_id, holder).state for holder in ("first", "second")] == [ClaimState.LEFT] * 2
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == dispatched(request)
    claim = ledger.claim(request.queue_id, "second")
    assert (claim.state, claim.request, claim.texts) == (ClaimState.CLAIMED, request, some_texts())
    assert claim.progress == SOME_PROGRESS


def test_a_request_never_suspended_has_no_progress(stage: Stage) -> None:
    """Its first call is its first."""
    ledger = stage.open()
    assert ledger.claim(stage.accept().queue_id, "first").progress == CallProgress()


def test_a_request_may_be_accepted_with_progress(stage: Stage) -> None:
    """It was asked for at once before, and brings the turn that it has reserved; accepting again changes nothing."""
    ledger, request = stage.open(), a_request()
    ledger.accept(request, some_texts(), progress=SOME_PROGRESS)
    ledger.accept(request, some_texts(), progress=CallProgress())
    assert ledger.claim(request.queue_id, "first").progress == SOME_PROGRESS


def test_the_last_progress_counts(stage: Stage) -> None:
    """Each suspension says how far the request has come by then."""
    ledger = stage.open()
    request = stage.suspended(wait_seconds=0.0)
    ledger.claim(request.queue_id, "second")
    further = CallProgress(failures=SOME_PROGRESS.failures + 1)
    assert ledger.suspend(request.queue_id, "second", wait_seconds=0.0, progress=further)
    assert ledger.claim(request.queue_id, "third").progress == further


def test_the_claim_after_a_wait_takes_a_lease_like_any_other(stage: Stage) -> None:
    """Its holder may ask again, a second message leaves, and no sweeper takes it up."""
    ledger = stage.open()
    request = stage.suspended(wait_seconds=0.0)
    claims = [ledger.claim(request.queue_id, holder) for holder in ("second", "third", "second")]
    assert [claim.state for claim in claims] == [ClaimState.CLAIMED, ClaimState.LEFT, ClaimState.CLAIMED]
    assert claims[-1].progress == SOME_PROGRESS
    assert stage.sweep() == []


def test_only_the_holder_suspends(stage: Stage) -> None:
    """Whoever lost the lease, or never had it, does not stop the call that runs."""
    ledger = stage.open()
    request = stage.running("first")
    assert not suspend(ledger, request, "second", wait_seconds=0.0)
    assert stage.sweep() == []
    again = ledger.claim(request.queue_id, "first")
    assert (again.state, again.progress) == (ClaimState.CLAIMED, CallProgress())


def test_a_suspension_that_comes_after_the_takeover_changes_nothing(stage: Stage) -> None:
    """The lease lapsed and another run has it: that one's progress stands."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    assert not suspend(ledger, request, "first")
    assert ledger.claim(request.queue_id, "second").progress == CallProgress()


def test_a_holder_suspends_although_its_lease_has_lapsed(stage: Stage) -> None:
    """Redis was away longer than the lease, and nobody has taken the request over."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    stage.wait(SHORT)
    assert suspend(ledger, request)
    assert stage.sweep() == []


@pytest.mark.parametrize("state", ["accept", "decided", "delivered", "suspended"])
def test_only_what_runs_is_suspended(stage: Stage, state: str) -> None:
    """Anything else keeps its state and its time; a repetition after a lost reply is one of these."""
    ledger = stage.open()
    made = getattr(stage, state)()
    request = made.request if isinstance(made, Decision) else made
    before = ledger.view(request.queue_id)
    assert not suspend(ledger, request, wait_seconds=0.0)
    assert not suspend(ledger, request, holder="", wait_seconds=0.0)
    assert ledger.view(request.queue_id) == before
    assert stage.sweep() == []


def test_an_unknown_request_is_not_suspended(stage: Stage) -> None:
    """A record that is gone stays gone."""
    ledger = stage.open()
    request = a_request()
    assert not suspend(ledger, request)
    assert ledger.view(request.queue_id) is None
    assert ledger.figures().open == 0


def test_a_suspended_request_is_told_as_processing(stage: Stage) -> None:
    """It neither waits in the line nor is it finished, and it is expected until its deadline."""
    ledger = stage.open()
    before = ledger.view(stage.running().queue_id)
    after = ledger.view(stage.suspended().queue_id)
    assert before is not None
    assert after is not None
    assert (before.is_suspended, after.is_suspended) == (False, True)
    assert (after.status, after.callback_status, after.position) == (
        QueueStatus.PROCESSING,
        CallbackStatus.PENDING,
        None,
    )
    assert (after.is_finished, after.expires_at is not None) == (False, True)
    figures = ledger.figures()
    assert (figures.open, figures.waiting) == (2, 0)


def test_a_renewal_does_not_touch_what_is_suspended(stage: Stage) -> None:
    """The keeper's last round may come after the suspension; the request stays due when it was."""
    ledger = stage.open()
    request = stage.suspended(wait_seconds=SHORT)
    ledger.renew({"first": request.queue_id})
    stage.wait(SHORT)
    assert stage.sweep() == dispatched(request)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED


# --- deaths


def test_a_crash_right_after_the_suspension_loses_nothing(stage: Stage) -> None:
    """Nobody holds anything: whatever else is stored, a sweeper brings the request back at its time, and counts no
    death."""
    ledger = stage.open(poisoned_after=1)
    request = stage.suspended(wait_seconds=SHORT)
    stage.wait(SHORT)
    assert stage.sweep() == dispatched(request)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED


def test_waiting_is_no_death_however_often(stage: Stage) -> None:
    """A provider that is down for hours does not make its requests suspects."""
    ledger = stage.open(suspect_after=1, poisoned_after=1)
    request = stage.accept()
    for holder in "abcde":
        assert ledger.claim(request.queue_id, holder).state is ClaimState.CLAIMED
        assert suspend(ledger, request, holder, wait_seconds=0.0)


def test_a_wait_does_not_make_up_for_deaths(stage: Stage) -> None:
    """Two workers died of it, one before and one after the wait: that is two."""
    ledger = stage.open(lease=SHORT, suspect_after=2, poisoned_after=2)
    request = stage.running("first")
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    assert suspend(ledger, request, "second", wait_seconds=0.0)
    assert ledger.claim(request.queue_id, "third").state is ClaimState.CLAIMED
    stage.wait(SHORT)
    poisoned = ledger.claim(request.queue_id, "fourth")
    assert (poisoned.state, poisoned.progress) == (ClaimState.POISONED, SOME_PROGRESS)


def test_a_suspect_that_waits_lets_another_one_run(stage: Stage) -> None:
    """It kills nobody meanwhile, and holds no place."""
    ledger = stage.open(suspect_after=0, poisoned_after=9)
    first, second = stage.running("a"), stage.accept()
    assert ledger.claim(second.queue_id, "b").state is ClaimState.LEFT
    assert suspend(ledger, first, "a", wait_seconds=0.0)
    assert ledger.claim(second.queue_id, "b").state is ClaimState.CLAIMED


def test_a_worker_that_dies_after_the_wait_leaves_the_progress_as_it_was(stage: Stage) -> None:
    """The next one repeats the same call, and not the ones before it."""
    ledger = stage.open(lease=SHORT)
    request = stage.suspended(wait_seconds=0.0)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    stage.wait(SHORT)
    claim = ledger.claim(request.queue_id, "third")
    assert (claim.state, claim.progress) == (ClaimState.CLAIMED, SOME_PROGRESS)


def test_an_outage_does_not_delay_what_is_suspended(stage: Stage) -> None:
    """Only leases are in doubt then: what is due is claimed and dispatched at once."""
    ledger = stage.open(lease=SHORT)
    claimed, swept = stage.suspended(wait_seconds=SHORT), stage.suspended(wait_seconds=SHORT)
    running = stage.running()
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert ledger.claim(claimed.queue_id, "second").state is ClaimState.CLAIMED
    due = stage.sweep()
    assert (action_of(due, swept.queue_id), action_of(due, running.queue_id)) == ([Action.DISPATCH], [])
    assert ledger.claim(swept.queue_id, "second").state is ClaimState.CLAIMED


# --- the deadline


def test_who_is_woken_is_claimed_at_once(stage: Stage) -> None:
    """Its wait is over, its progress is what it was, and no other one's wait ends."""
    ledger = stage.open()
    called, other = stage.suspended(), stage.suspended()
    assert ledger.wake([called.queue_id, "unknown"]) == Woken((called.queue_id,), over=("unknown",))
    claim = ledger.claim(called.queue_id, "second")
    assert (claim.state, claim.progress) == (ClaimState.CLAIMED, SOME_PROGRESS)
    assert ledger.claim(other.queue_id, "second").state is ClaimState.LEFT


def test_a_message_to_who_was_woken_may_get_lost(stage: Stage) -> None:
    """A sweeper sends it again, after a while, and nothing before."""
    ledger = stage.open(redispatch_after=SHORT)
    request = stage.suspended()
    ledger.wake([request.queue_id])
    assert stage.sweep() == []
    stage.wait(SHORT + TICK)
    assert stage.sweep() == dispatched(request)


def test_who_is_woken_before_it_sleeps_does_not_sleep(stage: Stage) -> None:
    """It was told to wait, and called in the moment before it did; the next wait is one again."""
    ledger = stage.open()
    request = stage.running("first")
    assert ledger.wake([request.queue_id]) == Woken()
    assert suspend(ledger, request, "first", wait_seconds=600.0, sleeps=True)
    assert stage.sweep() == dispatched(request)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    assert suspend(ledger, request, "second", wait_seconds=600.0, sleeps=True)
    assert ledger.claim(request.queue_id, "third").state is ClaimState.LEFT


def test_who_was_woken_and_then_failed_waits_for_its_next_call(stage: Stage) -> None:
    """It came by itself and was woken meanwhile; that is no reason to call a vendor that fails without a pause."""
    ledger = stage.open()
    request = stage.running("first")
    ledger.wake([request.queue_id])
    assert suspend(ledger, request, "first", wait_seconds=600.0)
    assert stage.sweep() == []
    assert ledger.claim(request.queue_id, "second").state is ClaimState.LEFT


def test_a_waking_that_was_never_needed_is_forgotten(stage: Stage) -> None:
    """Whoever was woken while it ran, and ran on, sleeps the next time as long as it says."""
    ledger = stage.open(lease=SHORT)
    request = stage.running("first")
    ledger.wake([request.queue_id])
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    assert suspend(ledger, request, "second", wait_seconds=600.0, sleeps=True)
    assert ledger.claim(request.queue_id, "third").state is ClaimState.LEFT


@pytest.mark.parametrize("state", ["accept", "decided", "delivered"])
def test_nobody_else_is_woken(stage: Stage, state: str) -> None:
    """What waits for its first worker, or is over, stays as it is."""
    ledger = stage.open()
    made = getattr(stage, state)()
    request = made.request if isinstance(made, Decision) else made
    before = ledger.view(request.queue_id)
    assert ledger.wake([request.queue_id]) == Woken(over=() if state == "accept" else (request.queue_id,))
    assert ledger.view(request.queue_id) == before


def test_no_wait_outlasts_the_deadline(stage: Stage) -> None:
    """Its caller is told when it passes, whatever the vendor asked us to wait."""
    ledger = stage.open(delivery_window=SHORT)
    request = stage.suspended(wait_seconds=60.0, deadline_seconds=SHORT)
    assert stage.sweep() == []
    stage.wait(SHORT)
    for _ in range(2):
        assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]
        assert stage.sweep() == []
        stage.wait(SHORT)
    claim = ledger.claim(request.queue_id, "second")
    assert (claim.state, claim.request, claim.texts) == (ClaimState.EXPIRED, request, None)
    assert claim.progress == ledger.pending(request.queue_id) == SOME_PROGRESS


def test_an_expiry_after_a_wait_that_nobody_decided_comes_back(stage: Stage) -> None:
    """A task that was told so and died is followed by the sweeper."""
    ledger = stage.open(delivery_window=SHORT)
    request = stage.suspended(deadline_seconds=SHORT)
    stage.wait(SHORT)
    assert ledger.claim(request.queue_id, "second").state is ClaimState.EXPIRED
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


def test_what_is_due_but_finds_no_worker_is_expired_at_its_deadline(stage: Stage) -> None:
    """However rarely it is dispatched by then."""
    stage.open(redispatch_after=60.0)
    request = stage.suspended(wait_seconds=0.0, deadline_seconds=SHORT)
    assert stage.sweep() == dispatched(request)
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.EXPIRE)]


# --- decided while it waits


def test_what_is_suspended_can_be_decided(stage: Stage) -> None:
    """A revocation ends it: its wait ends with it, and it is delivered like any other."""
    ledger = stage.open(delivery_window=2 * SHORT)
    request = stage.suspended(wait_seconds=SHORT)
    assert ledger.pending(request.queue_id) == SOME_PROGRESS
    outcome = an_error_for(request)
    assert ledger.commit(request.queue_id, outcome) == Decision(request, outcome)
    assert not suspend(ledger, request)
    stage.wait(SHORT)
    assert stage.sweep() == []
    stage.wait(SHORT)
    assert stage.sweep() == [Due(request.queue_id, Action.DELIVER)]


def test_a_delivery_is_not_noted_while_it_waits(stage: Stage) -> None:
    """A mistaken note ends neither the request nor its wait."""
    ledger = stage.open()
    request = stage.suspended(wait_seconds=SHORT)
    ledger.mark_delivered(Decision(request, a_verdict_for(request)))
    stage.wait(SHORT)
    assert stage.sweep() == dispatched(request)


# --- dispatched again


def sleeps_until_dispatched(stage: Stage, request: QueuedRequest) -> int:
    """How many SHORTs pass before it is dispatched once more."""
    for steps in range(1, 6):
        assert stage.sweep() == []
        stage.wait(SHORT)
        if stage.sweep() == dispatched(request):
            return steps
    raise AssertionError("It was not dispatched any more.")


def overtaken(stage: Stage) -> QueuedRequest:
    request = stage.accept()
    stage.running()
    return request


@pytest.mark.parametrize(
    "wait_for_a_worker",
    [lambda stage: stage.suspended(wait_seconds=0.0), Stage.running, overtaken],
    ids=["its wait is over", "its lease lapsed", "its message was overtaken"],
)
def test_what_waits_for_a_worker_is_dispatched_ever_more_rarely(
    stage: Stage, wait_for_a_worker: Callable[[Stage], QueuedRequest]
) -> None:
    """Ten thousand may fall due at once: the time doubles, up to a bound, while no worker takes the request."""
    stage.open(lease=4 * SHORT, redispatch_after=SHORT, longest_redispatch=3 * SHORT, settle=0.0, overtaken_by=0)
    request = wait_for_a_worker(stage)
    assert stage.sweep_until_due() == dispatched(request)
    assert [sleeps_until_dispatched(stage, request) for _ in range(4)] == [1, 2, 3, 3]


def test_the_bound_never_makes_it_more_frequent(stage: Stage) -> None:
    """Where one message is given a long time to arrive, the next one is, too."""
    stage.open(redispatch_after=2 * SHORT, longest_redispatch=0.0)
    request = stage.suspended(wait_seconds=0.0)
    assert stage.sweep() == dispatched(request)
    assert [sleeps_until_dispatched(stage, request) for _ in range(2)] == [2, 2]


def test_a_claim_forgets_how_rarely_it_was_dispatched(stage: Stage) -> None:
    """After its next wait a lost message is missed as soon as the first time."""
    ledger = stage.open(redispatch_after=SHORT)
    request = stage.suspended(wait_seconds=0.0)
    assert stage.sweep() == dispatched(request)
    assert [sleeps_until_dispatched(stage, request) for _ in range(2)] == [1, 2]
    assert ledger.claim(request.queue_id, "second").state is ClaimState.CLAIMED
    assert suspend(ledger, request, "second", wait_seconds=0.0)
    assert stage.sweep() == dispatched(request)
    assert sleeps_until_dispatched(stage, request) == 1


def test_two_sweeps_at_once_never_take_the_same_suspended_request(stage: Stage) -> None:
    """However many workers sweep, what is due is dispatched once and none is left."""
    ledger = stage.open(sweep_batch=20)
    ids = [stage.suspended(wait_seconds=SHORT).queue_id for _ in range(60)]
    stage.wait(SHORT)
    taken = [item for due in at_once(12, lambda _: ledger.sweep(queue_is_empty=True)) for item in due]
    assert sorted(item.queue_id for item in taken) == sorted(ids)


def test_many_claims_at_once_after_a_wait_give_one_lease(stage: Stage) -> None:
    """However many messages of it were sent meanwhile, one of them calls the provider."""
    ledger = stage.open()
    request = stage.suspended(wait_seconds=0.0)
    states = at_once(16, lambda number: ledger.claim(request.queue_id, f"holder-{number}").state)
    assert sorted(states).count(ClaimState.CLAIMED) == 1


# --- Redis alone


def test_an_early_look_does_not_end_a_wait(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """The record's own time decides, whatever the index says, and the index is put right."""
    on_redis.open()
    request = on_redis.suspended()
    index = f"{key_prefix}ledger:open"
    due = redis_client.zscore(index, request.queue_id)
    redis_client.zadd(index, {request.queue_id: 0})
    assert on_redis.sweep() == []
    assert redis_client.zscore(index, request.queue_id) == due
    assert on_redis.ledger.claim(request.queue_id, "second").state is ClaimState.LEFT


def test_nothing_of_a_wait_is_kept_with_an_outcome(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """A record that was suspended ends like one that never was."""
    ledger = on_redis.open()
    plain, request = on_redis.running(), on_redis.suspended(wait_seconds=0.0)
    on_redis.sweep()
    for each in (plain, request):
        ledger.commit(each.queue_id, an_error_for(each))
    assert fields(redis_client, key_prefix, request).keys() == fields(redis_client, key_prefix, plain).keys()


def test_nobody_holds_what_is_suspended(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """Neither a holder nor a lease is left that anybody could judge."""
    on_redis.open()
    request = on_redis.suspended()
    assert fields(redis_client, key_prefix, request).keys().isdisjoint({"holder", "lease"})


def test_a_suspension_does_not_put_back_into_the_index_what_left_it(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """An operator who takes a request out of the index does not find it there again."""
    ledger = on_redis.open()
    request = on_redis.running()
    redis_client.zrem(f"{key_prefix}ledger:open", request.queue_id)
    assert suspend(ledger, request)
    assert ledger.figures().open == 0


def test_a_record_from_before_there_was_suspension_is_claimed_and_suspended(
    on_redis: Stage, redis_client: Redis, key_prefix: str
) -> None:
    """A rollout finds requests that run and that wait, stored without the fields of a wait."""
    ledger = on_redis.open()
    waiting, running = a_request(), a_request()
    for request, run in ((waiting, {"state": "waiting"}), (running, {"state": "running", "holder": "first"})):
        stored = stored_by_the_first_version(request, **run)
        redis_client.hset(f"{key_prefix}request:{request.queue_id}", mapping=stored)
        redis_client.zadd(f"{key_prefix}ledger:open", {request.queue_id: (time.time() + 60) * 1000})
    assert suspend(ledger, running, wait_seconds=0.0)
    assert on_redis.sweep() == dispatched(running)
    claims = [ledger.claim(request.queue_id, "second") for request in (waiting, running)]
    assert [(claim.texts, claim.progress) for claim in claims] == [
        (some_texts(), CallProgress()),
        (some_texts(), SOME_PROGRESS),
    ]


def stored_by_the_first_version(request: QueuedRequest, **run: str) -> dict[Any, Any]:
    now = int(time.time() * 1000)
    return {
        "request": request.model_dump_json(),
        "texts": some_texts().model_dump_json(),
        "turn": 1,
        "accepted": now,
        "deadline": now + 60_000,
        "lease": now + 60_000,
        **run,
    }


def test_progress_that_a_later_version_stored_is_read(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """During a rollout old and new workers claim each other's requests: a field too many is passed over."""
    ledger = on_redis.open()
    request = on_redis.suspended(wait_seconds=0.0)
    redis_client.hset(f"{key_prefix}request:{request.queue_id}", "progress", '{"failures": 4, "of_tomorrow": [1]}')
    assert ledger.claim(request.queue_id, "second").progress == CallProgress(failures=4)
